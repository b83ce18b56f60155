//! Learning from a mounted archive.

use std::fs;
use std::path::Path;

use super::support::{Archive, ok, telemetry, vortex};

const YAML: &str = "\
model: {d_model: 32, n_layers: 1, n_heads: 2, n_kv_heads: 1, ffn: 32, features: [previous, above]}
compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}
dataset: {window_size: 64, stride: 32}
training: {batch_size: 2, warmup_steps: 5}
";

/// The mount, packed, the backing directory beside it, and copies of the files give the same profile.
#[test]
fn mounted_archive_is_learnt_from_as_its_files_are() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("tiny.yaml"), YAML).unwrap();
    fs::create_dir(at("files")).unwrap();
    for i in 0..5 {
        let data = telemetry(40_000, i);
        fs::write(at(&format!("files/{i}.bin")), &data).unwrap();
        fs::write(archive.at(&format!("{i}.bin")), &data).unwrap();
    }
    let profile = |data: &Path, name: &str| {
        let mut train = vortex();
        // More threads would wait for each other on a busy machine.
        train.env("CANDLE_NUM_THREADS", "1");
        train.args(["train", "--steps", "5", "--data"]).arg(data);
        train.arg("--config").arg(at("tiny.yaml"));
        ok(train.arg("--out").arg(at(name)));
        fs::read(at(name)).unwrap()
    };
    let expected = profile(&at("files"), "of-files");
    assert!(profile(&archive.mnt(), "of-mount") == expected);
    ok(vortex().arg("pack").arg(archive.mnt()));
    assert!(profile(&archive.mnt(), "of-packed-mount") == expected);
    assert!(profile(&archive.backing(), "of-backing") == expected);
}
