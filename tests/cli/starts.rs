//! Key blocks and primers, as options and as what a reader needs.

use std::fs;

use crate::common::*;

/// A file of equal pieces of noise, 20000 bytes each.
fn alike() -> Vec<u8> {
    let noise = (0..20_000u64).map(|i| ((i + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8);
    let noise: Vec<u8> = noise.collect();
    noise.repeat(4)
}

#[test]
fn key_blocks_make_a_file_of_like_blocks_smaller_and_it_reads_back() {
    let content = alike();
    let mut sizes = Vec::new();
    for key_blocks in ["0", "1", "3", "4"] {
        let (_dir, path) = with_file("a.dat", &content);
        let mut compress = vortex_compress();
        compress.args(["--block-size", "16K", "--key-blocks", key_blocks]);
        run(compress.arg(&path), GOOD);
        let segment = with_suffix(&path);
        sizes.push(fs::metadata(&segment).unwrap().len());
        run(vortex_fs().arg("verify").arg(&segment), GOOD);
        let got = run(
            vortex_fs()
                .args(["cat", "--range", "40000:99"])
                .arg(&segment),
            GOOD,
        );
        assert!(got.stdout == content[40_000..40_099]);
        run(vortex_decompress().arg(&segment), GOOD);
        assert!(fs::read(&path).unwrap() == content);
    }
    assert!(sizes[1] < sizes[0] && sizes[2] * 2 < sizes[0], "{sizes:?}");
    run(vortex_compress().args(["--key-blocks", "5", "x"]), FAILED);
}

#[test]
fn a_primer_is_named_to_read_what_needs_it() {
    let content = alike();
    let (dir, path) = with_file("a.dat", &content);
    let primer = dir.path().join("sample");
    fs::write(&primer, &content[..30_000]).unwrap();
    run(
        vortex_compress().arg("--primer").arg(&primer).arg(&path),
        GOOD,
    );
    let segment = with_suffix(&path);
    assert!(fs::metadata(&segment).unwrap().len() < 5000);
    for name in ["cat", "verify"] {
        let line = complaint(vortex_fs().arg(name).arg(&segment), FAILED);
        assert!(
            line.contains("primer") && line.contains("--primer"),
            "{line}"
        );
        run(
            vortex_fs()
                .arg(name)
                .arg("--primer")
                .arg(&primer)
                .arg(&segment),
            GOOD,
        );
    }
    let line = complaint(vortex_decompress().arg(&segment), FAILED);
    assert!(line.contains("--primer"), "{line}");
    run(
        vortex_decompress()
            .arg("--primer")
            .arg(&primer)
            .arg(&segment),
        GOOD,
    );
    assert!(fs::read(&path).unwrap() == content);
    fs::write(&primer, b"").unwrap();
    let line = complaint(
        vortex_compress().arg("--primer").arg(&primer).arg(&path),
        FAILED,
    );
    assert!(line.contains("empty"), "{line}");
}

#[test]
fn an_archive_keeps_the_primers_of_its_files() {
    let content = alike();
    let (dir, path) = with_file("a.dat", &content);
    vortex_fs::store::Archive::init(dir.path()).unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), &content[..30_000]).unwrap();
    run(
        vortex_compress()
            .arg("--primer")
            .arg(outside.path())
            .arg(&path),
        GOOD,
    );
    let primers = dir.path().join(".vortex/primers");
    assert_eq!(names_in(&primers).len(), 1);
    run(vortex_fs().arg("verify").arg(dir.path()), GOOD);
    let segment = with_suffix(&path);
    let figures = json(&run(
        vortex_fs().args(["stat", "--json"]).arg(&segment),
        GOOD,
    ));
    assert_eq!(figures[0]["started"], 2);
    assert_eq!(figures[0]["primers"][0], names_in(&primers)[0]);
    assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
    let file = primers.join(&names_in(&primers)[0]);
    let mut bytes = fs::read(&file).unwrap();
    bytes[60] ^= 1;
    fs::write(&file, bytes).unwrap();
    let out = run(vortex_fs().arg("verify").arg(dir.path()), DEGRADED);
    assert!(stdout(&out).contains("primer"), "{}", stdout(&out));
    assert!(run(vortex_fs().arg("cat").arg(&segment), GOOD).stdout == content);
}
