#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vortex_fs_fuzz::run(
    vortex_fs_fuzz::targets::protocol,
    data
));
