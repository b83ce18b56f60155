//! What the tests of the commands share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const GOOD: i32 = 0;
pub const FAILED: i32 = 1;
pub const DAMAGED: i32 = 2;
pub const PARTIAL: i32 = 3;
pub const DEGRADED: i32 = 4;

pub fn vortex_fs() -> Command {
    program(env!("CARGO_BIN_EXE_vortex-fs"))
}

pub fn vortex_compress() -> Command {
    program(env!("CARGO_BIN_EXE_vortex-compress"))
}

pub fn vortex_decompress() -> Command {
    program(env!("CARGO_BIN_EXE_vortex-decompress"))
}

fn program(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_remove("VORTEX_LOG").stdin(Stdio::null());
    command
}

/// Runs to the end and checks what every run must keep to: the documented exit code, and no trace of a panic.
pub fn run(command: &mut Command, code: i32) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {stderr}");
    assert!(
        !stderr.contains("panicked") && !stderr.contains("internal error"),
        "{stderr}"
    );
    output
}

/// The one line that a failing command says.
pub fn complaint(command: &mut Command, code: i32) -> String {
    let output = run(command, code);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.lines().count(), 1, "not one line: {stderr}");
    assert!(stderr.starts_with("vortex-fs: "), "{stderr}");
    stderr.trim_end().to_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs with `input` on standard input.
pub fn run_with_stdin(command: &mut Command, input: &[u8], code: i32) -> Output {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, input).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    run(command.stdin(file), code)
}

/// Telemetry-like bytes: 24-byte records of a clock, slow channels and a little noise.
pub fn records(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 24);
    let mut noise: u32 = 1;
    let mut i: u32 = 0;
    while out.len() < len {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend(i.wrapping_mul(40_000).to_le_bytes());
        out.extend((20.0 + f64::from(i % 1000) / 100.0).to_le_bytes());
        out.extend((i / 64).to_le_bytes());
        out.extend((1000 + (noise >> 28)).to_le_bytes());
        out.extend([0xa5, 0x5a, 0, (i % 3) as u8]);
        i += 1;
    }
    out.truncate(len);
    out
}

/// Bytes that nothing can compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn csv(lines: usize) -> Vec<u8> {
    (0..lines)
        .map(|i| {
            format!(
                "2026-01-01T00:{:02}:{:02}Z,pump-7,{}.{},ok\n",
                i / 60 % 60,
                i % 60,
                40 + i % 7,
                i % 10
            )
        })
        .collect::<String>()
        .into_bytes()
}

/// Waits for what another process does.
#[track_caller]
pub fn wait_until(what: &str, mut true_now: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_now() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory with one file in it.
pub fn with_file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    (dir, path)
}

/// A directory with one segment in it, of small blocks.
pub fn with_segment(content: &[u8]) -> (TempDir, PathBuf) {
    let (dir, path) = with_file("a.dat", content);
    run(
        vortex_compress()
            .args(["--block-size", "16K", "--key-blocks", "0"])
            .arg(&path),
        GOOD,
    );
    (dir, with_suffix(&path))
}

/// A directory with one segment in it, encoded fast: for content that is too long for the dev profile's neural codec.
pub fn with_fresh_segment(content: &[u8]) -> (TempDir, PathBuf) {
    use std::os::fd::AsFd;
    use vortex_fs::store::{Encoding, KeyRun, Library, PlainFile, SealOptions, TempFile, seal};
    let (dir, path) = with_file("a.dat", content);
    let folder = fs::File::open(dir.path()).unwrap();
    let temp = TempFile::create_in(folder.as_fd(), "").unwrap();
    let source = PlainFile::new(fs::File::open(&path).unwrap().into(), &path).unwrap();
    let options = SealOptions {
        block_size: 1 << 16,
        encoding: Encoding::Fresh,
        key_run: KeyRun::NONE,
        primer: None,
        jobs: 1,
        progress: None,
        cancel: None,
    };
    seal(&source, &temp, &Library::default(), &options).unwrap();
    temp.rename_to(folder.as_fd(), "a.dat.vortex".as_ref())
        .unwrap();
    fs::remove_file(&path).unwrap();
    let segment = with_suffix(&path);
    (dir, segment)
}

pub fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".vortex");
    name.into()
}

pub fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The pretended reason why a test can not run here.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tiny model of arbitrary weights, as a model file. Two calls give different files: the order of the file's metadata is
/// not fixed.
pub fn tiny_model(seed: u64) -> Vec<u8> {
    use vortex_fs::engine::{Config, METADATA_KEY, metadata, tensor_shapes};
    let config = r#"{"model":{"d_model":16,"n_layers":1,"n_heads":1,"ffn":32},
        "compressive_memory":{"window_size":8,"compression_rate":2,"max_compressed_len":8}}"#;
    let config: Config = serde_json::from_str(config).unwrap();
    let shapes = tensor_shapes(&config);
    let mut state = seed;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let weights = (0..shape.iter().product())
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    ((state >> 60) as i8 - 8) as u8
                })
                .collect();
            (name, shape, weights)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, weights)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::I8, shape.clone(), weights);
        (name.clone(), view.unwrap())
    });
    let metadata = [(METADATA_KEY.to_owned(), metadata(&config, false).unwrap())].into();
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// A segment of one block that names the model `model`, whatever the codec would have chosen.
pub fn segment_that_needs(model: &[u8], content: &[u8], path: &Path) {
    use std::sync::Arc;
    use vortex_fs::{codec, engine, segment};
    let file = fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let loaded = Arc::new(engine::Model::from_bytes(model).unwrap());
    let mut block = codec::encode_packed(content, Some(&loaded), None);
    assert_eq!(block.codec, codec::CodecId::Neural);
    block.model = Some(codec::ModelId::of(model));
    let mut writer = segment::SealedWriter::new(Arc::new(file), segment::DEFAULT_BLOCK).unwrap();
    writer.push(0, &block).unwrap();
    writer.finish(content.len() as u64).unwrap();
}
