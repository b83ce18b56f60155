//! Kept inputs of every fuzz target, and a fixed number of small changes of each.

use std::fs;
use std::path::Path;

use crate::assert_cheap;
use crate::meter::measure;
use crate::targets::ALL;

/// Changed inputs that each target is run on; `HOSTILE_CASES` overrides.
const CASES: usize = 1000;

/// Pseudo-random numbers, the same on every run (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }

    /// Changes `data` in one place, or takes a piece of `other`.
    fn change(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        const ODD: [u64; 8] = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            u32::MAX as u64,
            i64::MAX as u64,
            u64::MAX,
        ];
        let at = self.below(data.len() + 1);
        let len = self.below(16).min(data.len() - at);
        match self.below(7) {
            0 if at < data.len() => data[at] ^= 1 << self.below(8),
            1 if at < data.len() => data[at] = ODD[self.below(ODD.len())] as u8,
            2 => {
                let odd = ODD[self.below(ODD.len())].to_le_bytes();
                let len = len.min(8);
                data[at..at + len].copy_from_slice(&odd[..len]);
            }
            3 => drop(data.drain(at..at + len)),
            4 => {
                let piece = data[at..at + len].to_vec();
                let to = self.below(data.len() + 1);
                data.splice(to..to, piece);
            }
            5 => {
                let from = self.below(other.len() + 1);
                let piece = &other[from..other.len().min(from + len + 1)];
                data.splice(at..at + len, piece.iter().copied());
            }
            6 if self.below(8) == 0 => data.truncate(at),
            _ => {}
        }
    }
}

/// The kept inputs of a target.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut paths: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn no_change_of_a_kept_input_costs_much_or_panics() {
    let cases = std::env::var("HOSTILE_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    for (name, target) in ALL {
        let kept = kept(name);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        // The first run makes what stays: tables, this thread's predictor.
        kept.iter().for_each(|data| target(data));
        let mut worst = (0, std::time::Duration::ZERO);
        for case in 0..cases.unwrap_or(CASES) {
            let mut data = kept[case % kept.len()].clone();
            for _ in 0..1 + random.below(6) {
                let other = random.below(kept.len());
                random.change(&mut data, &kept[other]);
            }
            let cost = measure(|| target(&data)).1;
            assert_cheap(&format!("case {case} of {name}: {data:02x?}"), cost);
            worst = (worst.0.max(cost.peak), worst.1.max(cost.time));
        }
        println!("{name}: at most {} KiB and {:?}", worst.0 >> 10, worst.1);
    }
}

/// An input of the target `payload`.
fn payload(how: u8, len: usize, payload: &[u8]) -> Vec<u8> {
    [&[how, len as u8, (len >> 8) as u8], payload].concat()
}

#[test]
#[ignore = "run by hand to make inputs for a new decoder; it never replaces a file"]
fn write_kept_inputs() {
    use std::sync::Arc;
    use vortex_fs::codec::{self, Start, encode_fresh, encode_packed};
    use vortex_fs::segment::{MemStorage, SealedWriter};
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read(root.join(path)).unwrap();
    let lines = b"2026-01-02,18.25,ok\n".repeat(60);
    let start = Start::then(None, &b"2026-01-01,17.5,ok\n".repeat(40), None);
    let started = encode_packed(&lines, None, Some(&start));
    assert!(started.started);
    let records: Vec<u8> = (0..300u16)
        .flat_map(|n| [n as u8, (n >> 8) as u8, 0, 7])
        .collect();
    let dense = |data: &[u8], start| {
        codec::neural::code(data, None, start, codec::Effort::Dense).into_payload()
    };
    // As the target `payload` has it.
    let line = b"2026-01-01,17.5,ok\n";
    let wide = Start::then(Some(&start), line, Some(&dense(line, Some(&start))));
    let neural = |data: &[u8]| codec::neural::encode(data, None, None);
    let chain = |effort| {
        let means = codec::Means {
            effort,
            ..codec::Means::default()
        };
        let storage = Arc::new(MemStorage::default());
        let mut writer = SealedWriter::new(storage.clone(), 1 << 14).unwrap();
        let (mut state, mut before) = (0, None::<Start>);
        for (block, part) in (0..).zip(lines.chunks(300)) {
            let encoded = codec::encode_after(None, part, means, before.as_ref());
            let entry = writer.push_from(block, &encoded, state).unwrap();
            if block < 3 {
                state = writer.add_start(state, &entry).unwrap();
                let (codec, payload) = (encoded.codec, &encoded.payload);
                before = Some(codec::state_after(before.as_ref(), part, codec, payload));
            }
        }
        writer.finish(3 * (1 << 14) + 300).unwrap();
        storage.to_vec()
    };
    let archive = |name: &str| read(&format!("tests/golden/archive/{name}.vortex"));
    let all: Vec<(&str, &str, Vec<u8>)> = vec![
        ("segment", "live", read("tests/golden/live.vortex")[..2048].to_vec()),
        ("segment", "chain", chain(codec::Effort::Usual)),
        ("segment", "wide_chain", chain(codec::Effort::Dense)),
        ("segment", "started", read("tests/golden/started.vortex")),
        ("segment", "text", archive("text.csv")),
        ("segment", "written", archive("written.csv")),
        ("segment", "model", archive("model.log")),
        ("segment", "taught", archive("taught.csv")),
        ("segment", "wide", archive("wide.csv")),
        ("segment", "primed", archive("primed.csv")),
        ("segment", "holes", archive("holes.bin")),
        ("payload", "raw", payload(0, 20, &lines[..20])),
        ("payload", "zstd", payload(1, lines.len(), &encode_fresh(&lines).payload)),
        ("payload", "text", payload(2, lines.len(), &neural(&lines))),
        ("payload", "binary", payload(6, records.len(), &neural(&records))),
        ("payload", "started", payload(10, lines.len(), &started.payload)),
        ("payload", "wide", payload(2, lines.len(), &dense(&lines, None))),
        ("payload", "wide_started", payload(18, lines.len(), &dense(&lines, Some(&wide)))),
        ("payload", "widened", payload(10, lines.len(), &dense(&lines, Some(&start)))),
        ("model", "small", read("tests/golden/small.safetensors")),
        ("settings", "fast", read("configs/fast.yaml")),
        ("settings", "default", read("configs/default.yaml")),
        ("settings", "large", read("configs/large.yaml")),
        ("settings", "odd", b"model: &m {d_model: 32, n_layers: 1, n_heads: 2, features: [previous, \"column\"]}\ncompressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}\ndataset: {window_size: 64, stride: 32}\ntraining:\n  <<: {batch_size: 2}\n  learning_rate: 1.5e-3 # a note\n".to_vec()),
        ("protocol", "pack", br#"{"command":"pack","paths":["a/b%0A","c"],"profile":"fast","block_size":65536,"key_blocks":4,"jobs":2,"dry_run":true}"#.to_vec()),
        ("protocol", "watch", br#"{"command":"watch"}"#.to_vec()),
        ("protocol", "file", br#"{"event":"file","path":"a","outcome":"done","logical":1,"before":2,"after":3,"disk_before":4,"disk_after":5,"worked":6,"why":"x"}"#.to_vec()),
        ("protocol", "status", br#"{"event":"status","pid":1,"version":"0","mountpoint":"/m","jobs":0,"cache_bytes":0,"cache_hits":0,"cache_misses":0}"#.to_vec()),
        ("archive", "usual", b"vortex-fs 0\n\x000123456789abcdef0123456789abcdef csv-text-9999-0.0.444\nffffffffffffffffffffffffffffffff x\n".to_vec()),
    ];
    for (target, name, bytes) in all {
        let dir = root.join("fuzz/corpus").join(target);
        fs::create_dir_all(&dir).unwrap();
        if !dir.join(name).exists() {
            fs::write(dir.join(name), bytes).unwrap();
        }
    }
}
