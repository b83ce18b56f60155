//! Model files: headers, shapes, weights, and files that are not what they seem.

use std::fs::File;

use vortex_fs::codec::ModelId;
use vortex_fs::engine::{METADATA_KEY, Model};
use vortex_fs::store::{ModelStore, PrimerStore};

use super::{bounded, refused};

/// A file with this header and `data` bytes of zeros.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A file whose metadata hold this configuration.
fn with_config(config: &str) -> Vec<u8> {
    let text = format!(r#"{{"version":1,"config":{config}}}"#);
    let text = serde_json::to_string(&text).expect("text");
    file(
        &format!(r#"{{"__metadata__":{{"{METADATA_KEY}":{text}}}}}"#),
        0,
    )
}

fn config(d: u64, layers: u64, heads: u64, window: u64, rate: u64, memory: u64) -> String {
    format!(
        r#"{{"model":{{"d_model":{d},"n_layers":{layers},"n_heads":{heads}}},"compressive_memory":{{"window_size":{window},"compression_rate":{rate},"max_compressed_len":{memory}}}}}"#
    )
}

#[test]
fn headers_that_lie_are_refused() {
    for len in [1, 300 << 10, 100 << 20, u64::from(u32::MAX), u64::MAX] {
        let mut bytes = file("{}", 0);
        bytes[..8].copy_from_slice(&len.to_le_bytes());
        refused(&format!("a header of {len} bytes"), || {
            Model::from_bytes(&bytes)
        });
        bytes.resize(16 << 20, b' ');
        refused(&format!("a header of {len} bytes in 16 MiB"), || {
            Model::from_bytes(&bytes)
        });
    }
    let tensor = |n: usize| format!(r#""{n}":{{"dtype":"I8","shape":[0],"data_offsets":[0,0]}}"#);
    let tensors: Vec<String> = (0..4000).map(tensor).collect();
    refused("4000 tensors", || {
        Model::from_bytes(&file(&format!("{{{}}}", tensors.join(",")), 0))
    });
    refused("deep nesting", || {
        Model::from_bytes(&file(&r#"{"a":"#.repeat(40_000), 0))
    });
    refused("a shape that overflows", || {
        let shape = r#"{"a":{"dtype":"I8","shape":[18446744073709551615,2],"data_offsets":[0,9]}}"#;
        Model::from_bytes(&file(shape, 9))
    });
}

#[test]
fn configurations_larger_than_the_file_are_refused() {
    let most = u64::MAX;
    for config in [
        config(1024, 64, 8, 512, 1, 512),
        config(most, 1, 1, 1, 1, 1),
        config(256, most, 8, 512, 4, 512),
        config(256, 6, most, 512, 4, 512),
        config(256, 6, 0, 512, 4, 512),
        config(256, 6, 8, most, 4, 512),
        config(256, 6, 8, 512, most, 512),
        config(256, 6, 8, 512, 0, 512),
        config(256, 6, 8, 512, 4, most),
        "[".repeat(60_000),
        "{}".to_string(),
    ] {
        refused(&config[..config.len().min(90)], || {
            Model::from_bytes(&with_config(&config))
        });
    }
}

/// As large as a model may be: valid, and what it takes is bounded.
#[test]
fn the_largest_model_is_bounded() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |id: ModelId| dir.path().join(format!("{id}.safetensors"));
    let store = || ModelStore::new(Some(File::open(dir.path()).expect("open").into()));
    let bytes = vec![0; 16 << 20];
    let id = ModelId::of(&bytes);
    std::fs::write(at(id), &bytes).expect("written");
    drop(bytes);
    refused("16 MiB that are no model", || store().get(id));
    let other = ModelId([3; 16]);
    let sparse = File::create(at(other)).expect("made");
    sparse.set_len(1 << 40).expect("a sparse file");
    refused("a sparse file of 1 TiB", || store().get(other));
    let pipe = ModelId([4; 16]);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at(pipe), fifo, mode, 0).expect("a pipe");
    refused("a pipe", || store().get(pipe));
    let link = ModelId([5; 16]);
    std::os::unix::fs::symlink("/dev/zero", at(link)).expect("a link");
    refused("a link to /dev/zero", || store().get(link));
    std::fs::create_dir(at(ModelId([6; 16]))).expect("a directory");
    refused("a directory", || store().get(ModelId([6; 16])));
}

#[test]
fn the_default_architecture_loads_within_the_bound() {
    let config: vortex_fs::engine::Config =
        serde_json::from_str(&config(256, 6, 8, 512, 4, 512)).expect("a configuration");
    let shapes = vortex_fs::engine::tensor_shapes(&config);
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let len = shape.iter().product();
            (name, shape, vec![1; len])
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::I8, shape.clone(), bytes);
        (name.as_str(), view.expect("a tensor"))
    });
    let text = vortex_fs::engine::metadata(&config, false).expect("metadata");
    let metadata = [(METADATA_KEY.to_string(), text)].into();
    let mut bytes = safetensors::serialize(views, Some(metadata)).expect("a file");
    println!("{} bytes", bytes.len());
    bounded("the default architecture", || Model::from_bytes(&bytes)).expect("a model");
    let last = bytes.len() - 1;
    bytes[last] = 0x80;
    refused("a weight of -128 at the end", || Model::from_bytes(&bytes));
}

#[test]
fn primers_that_are_not_what_they_seem_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = PrimerStore::new(Some(File::open(dir.path()).expect("open").into()));
    let mut n = 0u8;
    let mut at = || {
        n += 1;
        let id = vortex_fs::codec::PrimerId([n; 16]);
        (id, dir.path().join(id.to_string()))
    };
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let (id, path) = at();
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a pipe");
    refused("a pipe", || store.load(id));
    let (id, path) = at();
    std::os::unix::fs::symlink("/dev/zero", path).expect("a link");
    refused("a link to /dev/zero", || store.load(id));
    let (id, path) = at();
    File::create(path)
        .and_then(|f| f.set_len(1 << 40))
        .expect("a sparse file");
    refused("a sparse file", || store.load(id));
    let (id, path) = at();
    std::fs::write(path, include_bytes!("../../golden/sealed.vortex")).expect("written");
    refused("another segment", || store.load(id));
}
