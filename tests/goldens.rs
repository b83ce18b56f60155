//! A small archive, a model and what they hold, written once and kept: every later version must read them.
//!
//! `tests/segment/golden.rs` has segments alone, and holds the writer to their very bytes; `codec` has golden payloads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vortex_fs::codec::{self, CodecId, Effort, Encoded, Means, ModelId, PrimerId, Start};
use vortex_fs::engine::{Config, METADATA_KEY, Model, State, metadata, tensor_shapes};
use vortex_fs::fs::{Fs, FsOptions};
use vortex_fs::segment::{Finding, HEADER_LEN, MemStorage, SealedWriter, Segment, Storage};
use vortex_fs::store::{Access, Archive, Depth, verify_segment, verify_storage};

/// Bytes of a block.
const BLOCK: usize = 16 << 10;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Pseudo-random bytes (Marsaglia, "Xorshift RNGs").
fn noise(len: usize, mut x: u64) -> Vec<u8> {
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Lines of text with fields.
fn text(len: usize, first: u32) -> Vec<u8> {
    let lines = (first..).flat_map(|n| {
        let value = n.wrapping_mul(7919) % 1000;
        format!("{n:07},sensor-{},{}.{}\n", n % 3, value / 10, value % 10).into_bytes()
    });
    lines.take(len).collect()
}

/// Records of twelve bytes.
fn binary(len: usize) -> Vec<u8> {
    let records = (0..).flat_map(|n: u32| {
        let value = n.wrapping_mul(2_654_435_761) >> 24;
        [
            &n.to_le_bytes()[..],
            &(1000 + value).to_le_bytes(),
            &[0, 0, 7, 1],
        ]
        .concat()
    });
    records.take(len).collect()
}

fn holes() -> Vec<u8> {
    let mut data = vec![0; 5 * BLOCK];
    data[BLOCK..BLOCK + 500].copy_from_slice(&text(500, 1));
    data[4 * BLOCK + 9..4 * BLOCK + 300].copy_from_slice(&noise(291, 5));
    data
}

fn sample() -> Vec<u8> {
    text(6000, 900)
}

/// The golden archive's files by logical path.
fn contents() -> Vec<(&'static str, Vec<u8>)> {
    let mut written = text(2 * BLOCK + 77, 5);
    written[BLOCK..BLOCK + 300].copy_from_slice(&binary(300));
    vec![
        ("raw.bin", noise(700, 3)),
        ("zstd.log", text(9000, 7)),
        ("text.csv", text(3 * BLOCK + 99, 0)),
        ("binary.dat", binary(BLOCK + 600)),
        ("model.log", text(7000, 55)),
        ("primed.csv", text(3000, 2000)),
        ("holes.bin", holes()),
        ("written.csv", written),
        ("empty", Vec::new()),
        ("plain.txt", b"kept as it is\n".to_vec()),
        (
            "dir.vortex/inner.vortex",
            b"names that look like segments\n".to_vec(),
        ),
        ("taught.csv", text(2 * BLOCK + 50, 300)),
        ("wide.csv", text(2 * BLOCK + 50, 600)),
    ]
}

/// How the blocks of a golden file are coded, whether with the model, and how many start states it has.
fn coding(segment: &Segment) -> (BTreeSet<u8>, bool, usize) {
    let entries: Vec<_> = segment.entries().map(|e| e.unwrap().1).collect();
    (
        entries.iter().map(|e| e.codec as u8).collect(),
        entries.iter().any(|e| e.model.is_some()),
        segment.starts().len(),
    )
}

#[test]
fn the_golden_archive_holds_what_it_always_held() {
    let root = golden("archive");
    let archive = Archive::open(&root, Access::Read).unwrap();
    let (raw, zstd, neural) = (
        CodecId::Raw as u8,
        CodecId::Zstd as u8,
        CodecId::Neural as u8,
    );
    for (name, codecs, with_model, states) in [
        ("raw.bin", &[raw][..], false, 0),
        ("zstd.log", &[zstd], false, 0),
        ("text.csv", &[neural], false, 2),
        ("binary.dat", &[neural], false, 0),
        ("model.log", &[neural], true, 0),
        ("taught.csv", &[neural], true, 2),
        ("wide.csv", &[neural], false, 2),
        ("primed.csv", &[neural], false, 1),
        ("holes.bin", &[neural], false, 0),
        ("written.csv", &[zstd, neural], false, 2),
    ] {
        let path = root.join(format!("{name}.vortex"));
        let segment = Segment::open(Arc::new(File::open(&path).unwrap())).unwrap();
        let codecs = codecs.iter().copied().collect();
        assert_eq!(coding(&segment), (codecs, with_model, states), "{name}");
        let report = verify_segment(&path, archive.library(), Depth::Content, &|_| {}).unwrap();
        assert_eq!(report.findings, [], "{name}");
    }
    assert_eq!(archive.models().stored().unwrap().len(), 1);
    assert_eq!(
        archive.library().primers().stored().unwrap(),
        [PrimerId::of(&sample())]
    );
    assert_eq!(archive.library().primers().kinds().unwrap().len(), 1);
    let fs = Fs::new(archive, FsOptions::default()).unwrap();
    for (path, content) in contents() {
        let file = fs.open(fs.resolve(Path::new(path)).unwrap(), 0).unwrap();
        assert!(fs.read(file, 0, 1 << 20).unwrap() == content, "{path}");
        fs.release(file).unwrap();
    }
    fs.shutdown().unwrap();
}

/// The kept segments, by their paths below `tests/golden`.
fn segments() -> Vec<String> {
    let packed = contents().into_iter().filter(|(name, content)| {
        !content.is_empty() && *name != "plain.txt" && !name.ends_with("inner.vortex")
    });
    let packed = packed.map(|(name, _)| format!("archive/{name}.vortex"));
    let alone = ["live", "lost", "paged", "sealed", "started"].map(|name| format!("{name}.vortex"));
    alone.into_iter().chain(packed).collect()
}

/// Whatever the form, whatever the codecs, and whether blocks start from others, from a primer or need a model.
#[test]
fn verify_finds_every_flipped_byte_of_a_kept_segment_that_anything_reads() {
    let archive = Archive::open(&golden("archive"), Access::Read).unwrap();
    for name in segments() {
        let path = golden(&name);
        let sound = fs::read(&path).unwrap();
        let findings = |bytes: &[u8]| {
            let storage = Arc::new(MemStorage::new(bytes.to_vec()));
            let (library, depth) = (archive.library(), Depth::Checksums);
            let report = verify_storage(storage, &path, library, depth, &|_| {});
            report.unwrap().findings
        };
        let before = findings(&sound);
        let is_found = |at: &usize| {
            let mut bad = sound.clone();
            bad[*at] ^= 1 << (at % 8);
            let at = *at as u64;
            let names = |f: &Finding| f.range.contains(&at) && !before.contains(f);
            findings(&bad).iter().any(names)
        };
        let found = (0..sound.len()).filter(is_found).count();
        println!("{name}: {found} of {} bytes", sound.len());
        let segment = Segment::open(Arc::new(MemStorage::new(sound.clone()))).unwrap();
        // Behind the header of what was born live, and behind the current root.
        let padding = match name.as_str() {
            "live.vortex" => (512 - HEADER_LEN) + (512 - 56),
            "archive/written.csv.vortex" => 512 - 56,
            _ => 0,
        };
        assert_eq!(
            found + padding,
            segment.summary().live_bytes as usize,
            "{name}"
        );
    }
}

fn small_config() -> Config {
    serde_json::from_str(
        r#"{"model":{"d_model":16,"n_layers":1,"n_heads":1,"ffn":16,"features":["previous","column"]},
            "compressive_memory":{"window_size":4,"compression_rate":2,"max_compressed_len":3}}"#,
    )
    .unwrap()
}

fn small_model() -> Vec<u8> {
    let mut random = noise(1 << 16, 11).into_iter();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensor_shapes(&small_config())
        .into_iter()
        .map(|(name, shape)| {
            let len = shape.iter().product();
            let weights = random.by_ref().take(len).map(|b| (b % 51).wrapping_sub(25));
            (name, shape, weights.collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::I8, shape.clone(), data);
        (name.as_str(), view.unwrap())
    });
    let text = metadata(&small_config(), false).unwrap();
    safetensors::serialize(views, Some([(METADATA_KEY.to_string(), text)].into())).unwrap()
}

/// A hash of all weights that the model gives for some input.
fn computed(model: &Model) -> u32 {
    let mut state = State::new(model, 2).unwrap();
    let mut sum = 0;
    for step in noise(4 * 40, 77).chunks(4) {
        let mut weights = [[0; 256]; 2];
        state.step(model, step, 2, &mut weights);
        for weight in weights.as_flattened() {
            sum = crc32c::crc32c_append(sum, &weight.to_le_bytes());
        }
    }
    sum
}

#[test]
fn the_golden_model_computes_what_it_always_computed() {
    let kept = fs::read(golden("small.safetensors")).unwrap();
    let model = Model::from_bytes(&kept).unwrap();
    assert_eq!(model.config(), &small_config());
    assert_eq!(computed(&model), GOLDEN_WEIGHTS);
}

const GOLDEN_WEIGHTS: u32 = 0x28b6_23fe;

/// A segment in the making, under its backing name.
fn writer(root: &Path, name: &str) -> SealedWriter {
    let path = root.join(format!("{name}.vortex"));
    let options = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    SealedWriter::new(Arc::new(options.unwrap()) as Arc<dyn Storage>, BLOCK as u32).unwrap()
}

fn begin_archive(root: &Path) {
    Archive::init(root).unwrap();
    let archive = Archive::open(root, Access::Write).unwrap();
    let small = golden("small.safetensors");
    let profile = archive.models().profile(small.to_str().unwrap()).unwrap();
    archive.models().store(&profile).unwrap();
    let primer = archive.library().primers().add(&sample()).unwrap();
    archive
        .library()
        .primers()
        .note(primer, "csv-text-9999")
        .unwrap();
}

/// `block` with the model, whether that pays or not.
fn taught(block: &[u8], model: &Arc<Model>) -> Encoded {
    let like = Encoded {
        model: Some(ModelId(model.id())),
        ..codec::encode_packed(block, None, None)
    };
    codec::encode_like(&like, block, Means::usual(Some(model)), None)
}

/// Two key blocks, of which the first has the model if one is given, and those that start from them.
fn write_keyed(
    mut writer: SealedWriter,
    content: &[u8],
    model: Option<&Arc<Model>>,
    effort: Effort,
) {
    let means = Means {
        effort,
        ..Means::default()
    };
    let (mut state, mut before) = (0, None::<Start>);
    for (n, block) in content.chunks(BLOCK).enumerate() {
        let made = match model.filter(|_| n == 0) {
            Some(model) => taught(block, model),
            None => codec::encode_after(None, block, means, before.as_ref()),
        };
        let entry = writer.push_from(n as u64, &made, state).unwrap();
        if n < 2 {
            state = writer.add_start(state, &entry).unwrap();
            let (codec, payload) = (made.codec, &made.payload);
            before = Some(codec::state_after(before.as_ref(), block, codec, payload));
        }
    }
    writer.finish(content.len() as u64).unwrap();
}

fn write_file(root: &Path, name: &str, content: &[u8]) {
    match name {
        "empty" => return drop(File::create(root.join("empty.vortex")).unwrap()),
        "plain.txt" => return fs::write(root.join(name), content).unwrap(),
        "dir.vortex/inner.vortex" => {
            fs::create_dir(root.join("dir.vortex~plain")).unwrap();
            return fs::write(root.join("dir.vortex~plain/inner.vortex~plain"), content).unwrap();
        }
        _ => {}
    }
    let model =
        Arc::new(Model::from_bytes(&fs::read(golden("small.safetensors")).unwrap()).unwrap());
    let mut writer = writer(root, name);
    match name {
        "text.csv" | "written.csv" => write_keyed(writer, content, None, Effort::Usual),
        "taught.csv" => write_keyed(writer, content, Some(&model), Effort::Usual),
        "wide.csv" => write_keyed(writer, content, None, Effort::Dense),
        _ => {
            let primed = (name == "primed.csv").then(|| Start::then(None, &sample(), None));
            let state = match primed {
                Some(_) => writer.add_primer(PrimerId::of(&sample())).unwrap(),
                None => 0,
            };
            for (n, block) in content.chunks(BLOCK).enumerate() {
                if block.iter().all(|&b| b == 0) {
                    continue;
                }
                let encoded = match name {
                    "zstd.log" => codec::encode_fresh(block),
                    "model.log" => taught(block, &model),
                    _ => codec::encode_packed(block, None, primed.as_ref()),
                };
                writer.push_from(n as u64, &encoded, state).unwrap();
            }
            writer.finish(content.len() as u64).unwrap();
        }
    }
    if name == "written.csv" {
        // One that was packed and then written to in place.
        let path = root.join("written.csv.vortex");
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut segment = Segment::open(Arc::new(file)).unwrap();
        segment.make_live().unwrap();
        let entry = segment
            .append(&codec::encode_fresh(&content[BLOCK..2 * BLOCK]))
            .unwrap();
        segment.set_entry(1, Some(entry)).unwrap();
        segment.commit().unwrap();
    }
}

#[test]
#[ignore = "run by hand once for each version of the format and each new file; it never replaces anything"]
fn write_golden_archive() {
    let model = golden("small.safetensors");
    if !model.exists() {
        fs::write(&model, small_model()).unwrap();
    }
    println!(
        "{:#x}",
        computed(&Model::from_bytes(&fs::read(model).unwrap()).unwrap())
    );
    let root = golden("archive");
    if !root.exists() {
        fs::create_dir(&root).unwrap();
        begin_archive(&root);
        fs::remove_dir(root.join(".vortex/tmp")).unwrap();
        fs::remove_file(root.join(".vortex/lock")).unwrap();
    }
    for (name, content) in contents() {
        let stored = ["", ".vortex", "~plain"].map(|suffix| format!("{name}{suffix}"));
        let inner = root.join("dir.vortex~plain/inner.vortex~plain");
        let there = stored.iter().any(|name| root.join(name).exists());
        if !there && (name != "dir.vortex/inner.vortex" || !inner.exists()) {
            write_file(&root, name, &content);
        }
    }
}
