//! `bench codec`: what the packed codec makes of files, block by block, and how fast it is in both directions.
//!
//! Nothing is stored. Every block is decoded again and compared; times are of one thread.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::codec::{self, CodecId, Start};
use crate::engine::Model;
use crate::store::KeyRun;

/// One file's figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The file.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of all payloads, without the segment's index.
    pub stored: u64,
    /// `8 * stored / bytes`.
    pub bits_per_byte: f64,
    /// Million bytes packed per second.
    pub pack_mb_s: f64,
    /// Million bytes unpacked per second.
    pub unpack_mb_s: f64,
    /// Blocks kept raw, by zstd, and by the neural codec without and with the model.
    pub blocks: [u64; 4],
    /// Slowest decoding of one block, in milliseconds.
    pub slowest_block_ms: f64,
}

/// The files that `paths` stand for, in order; directories are walked.
///
/// # Errors
/// A directory that cannot be read.
pub fn files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        walk(path, &mut found)?;
    }
    Ok(found)
}

fn walk(path: &Path, out: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        out.push(path.to_path_buf());
        return Ok(());
    }
    let mut inside = fs::read_dir(path)?
        .map(|e| e.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()?;
    inside.sort();
    inside.iter().try_for_each(|p| walk(p, out))
}

/// What blocks start from; see [`KeyRun`].
#[derive(Default)]
struct Group {
    number: u64,
    made: u8,
    state: Option<Arc<Start>>,
}

impl Group {
    fn enter(&mut self, number: u64) {
        if number != self.number {
            *self = Group {
                number,
                ..Group::default()
            };
        }
    }

    fn add(&mut self, block: &[u8]) {
        self.state = Some(Arc::new(Start::then(self.state.as_deref(), block)));
        self.made += 1;
    }
}

/// Measures one file's content, with key blocks as `pack` chooses them.
///
/// # Errors
/// Kind `InvalidData`: a block does not come back as it was.
pub fn measure(
    path: &Path,
    data: &[u8],
    block_size: usize,
    model: &Arc<Model>,
    run: KeyRun,
) -> io::Result<Row> {
    let (mut pack, mut unpack, mut slowest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut stored = 0;
    let mut blocks = [0; 4];
    let mut group = Group::default();
    let mut rest = data.chunks(block_size.max(1)).enumerate().peekable();
    while let Some((at, block)) = rest.next() {
        group.enter(at as u64 / run.group.max(1));
        let key = group.made < run.blocks
            && rest
                .peek()
                .is_some_and(|(next, _)| *next as u64 / run.group.max(1) == group.number);
        let state = group.state.clone();
        let start = Instant::now();
        let e = codec::encode_packed(block, (!key).then_some(model), state.as_deref());
        if key {
            group.add(block);
        }
        pack += start.elapsed();
        let start = Instant::now();
        let back = codec::decode(
            e.codec,
            e.model.map(|_| &**model),
            &e.payload,
            block.len(),
            state.as_deref(),
        );
        let took = start.elapsed();
        unpack += took;
        slowest = slowest.max(took);
        if back.as_deref() != Ok(block) {
            let what = format!(
                "{}: a block of {} does not come back",
                path.display(),
                e.codec
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        stored += e.payload.len() as u64;
        blocks[match (e.codec, e.model) {
            (CodecId::Raw, _) => 0,
            (CodecId::Zstd, _) => 1,
            (CodecId::Neural, None) => 2,
            (CodecId::Neural, Some(_)) => 3,
        }] += 1;
    }
    let bytes = data.len() as u64;
    let speed = |t: Duration| bytes as f64 / 1e6 / t.as_secs_f64().max(1e-9);
    Ok(Row {
        path: path.display().to_string(),
        bytes,
        stored,
        bits_per_byte: 8.0 * stored as f64 / (bytes as f64).max(1.0),
        pack_mb_s: speed(pack),
        unpack_mb_s: speed(unpack),
        blocks,
        slowest_block_ms: slowest.as_secs_f64() * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_a_directory_are_measured() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("sub")).expect("a directory");
        fs::write(dir.path().join("sub/a.csv"), b"1,2,3\n".repeat(200)).expect("written");
        fs::write(dir.path().join("empty"), b"").expect("written");
        let model = engine_model();
        let rows: Vec<Row> = files(&[dir.path().to_path_buf()])
            .expect("walked")
            .iter()
            .map(|path| {
                measure(
                    path,
                    &fs::read(path).expect("read"),
                    1024,
                    &model,
                    KeyRun::default(),
                )
                .expect("measured")
            })
            .collect();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].bytes, rows[0].stored), (0, 0));
        assert_eq!(rows[1].blocks.iter().sum::<u64>(), 2);
        assert!(rows[1].stored < 200 && rows[1].bits_per_byte < 1.5);
    }

    fn engine_model() -> Arc<Model> {
        let bytes = crate::profiles::builtin("fast").expect("the profile is built in");
        Arc::new(Model::from_bytes(bytes).expect("a built-in profile loads"))
    }
}
