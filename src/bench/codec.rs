//! `bench codec`: what packing makes of a file, and how fast it is in both directions and at single reads.
//!
//! The file is sealed into a temporary file just as `vortex-compress` does it, so sizes are what is really stored. All work is done
//! by one thread, and everything that is decoded is compared.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::figures::{Blocks, Measured, Memory};
use super::latency;
use crate::codec::{self, CodecId};
use crate::store::{
    BlockSource, Encoding, KeyRun, Library, Packing, PlainFile, Profile, SealOptions,
    SegmentReader, StoreError, TempFile, seal,
};

/// How files are packed and read.
pub struct Settings<'a> {
    /// The model to pack with.
    pub profile: Option<&'a Profile>,
    /// Bytes of a block: a power of two from 16 KiB to 1 MiB.
    pub block_size: u32,
    /// Which blocks others start from.
    pub key_run: KeyRun,
    /// Largest number of single reads in each case.
    pub reads: u64,
    /// Called with the number of bytes dealt with: each byte once when encoded, compared and unpacked.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

/// Seals the file at `path` into `temp`, which is empty, and reads it in every way. The peers are left empty.
///
/// # Errors
/// Errors of the file system; bytes that do not come back as they were, which [`BenchError::is_damage`] tells.
pub fn measure(
    path: &Path,
    temp: &TempFile,
    settings: &Settings<'_>,
) -> Result<Measured, BenchError> {
    let file = File::open(path).map_err(StoreError::io(path))?;
    let source = PlainFile::new(Arc::new(file), path)?;
    let library = library(settings);
    let (stored, encode, pack) = pack(&source, temp, &library, settings)?;
    let mut measured = Measured {
        bytes: source.len(),
        stored,
        encode,
        pack,
        ..Measured::default()
    };
    // A thread of its own: what encoding left behind in this one is no part of decoding.
    let read = || read(&source, temp, settings, &mut measured);
    thread::scope(|s| s.spawn(read).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(measured)
}

/// A library without start states that has the model.
fn library(settings: &Settings<'_>) -> Library {
    let library = Library::default();
    if let Some(profile) = settings.profile {
        library.models().add_loaded(&profile.model);
    }
    library
}

/// Stored bytes, the time of encoding, and the time of all.
fn pack(
    source: &PlainFile,
    temp: &TempFile,
    library: &Library,
    settings: &Settings<'_>,
) -> Result<(u64, Duration, Duration), BenchError> {
    let to_encode = data_bytes(source, settings.block_size)?;
    let (done, encoded) = (AtomicU64::new(0), OnceLock::new());
    let start = Instant::now();
    // Sealing counts every byte first when it is encoded, then when it is compared.
    let progress = |bytes: u64| {
        if done.fetch_add(bytes, Ordering::Relaxed) + bytes >= to_encode {
            encoded.get_or_init(|| start.elapsed());
        }
        (settings.progress)(bytes);
    };
    let options = SealOptions {
        block_size: settings.block_size,
        encoding: Encoding::Packed(Packing::with(settings.profile.cloned())),
        key_run: settings.key_run,
        primer: None,
        jobs: 1,
        progress: Some(&progress),
        cancel: None,
    };
    let report = seal(source, temp, library, &options)?;
    let all = start.elapsed();
    Ok((report.stored, encoded.get().copied().unwrap_or(all), all))
}

/// Bytes of the blocks that sealing looks at: not those in holes of the file.
fn data_bytes(source: &PlainFile, block_size: u32) -> Result<u64, StoreError> {
    let size = u64::from(block_size);
    let (mut sum, mut at) = (0, 0);
    while let Some(data) = source.next_data(at)? {
        let block = data / size * size;
        sum += (source.len() - block).min(size);
        at = block.saturating_add(size);
    }
    Ok(sum)
}

/// Unpacks everything, then reads at single places.
fn read(
    source: &PlainFile,
    temp: &TempFile,
    settings: &Settings<'_>,
    measured: &mut Measured,
) -> Result<(), BenchError> {
    let library = library(settings);
    let reader = SegmentReader::from_file(
        Arc::clone(temp.file()),
        Path::new("temporary segment"),
        &library,
    )?;
    measured.blocks = blocks(&reader)?;
    let mut memory = Memory::default();
    let size = u64::from(settings.block_size);
    for block in 0..source.len().div_ceil(size) {
        let start = Instant::now();
        let got = reader.read_block(block)?;
        measured.unpack += start.elapsed();
        let mut expected = vec![0; got.len()];
        source.read_at(&mut expected, block * size)?;
        if got != expected {
            return Err(BenchError::Differs(block * size));
        }
        memory.predictor = memory.predictor.max(codec::thread_memory() as u64);
        (settings.progress)(got.len() as u64);
    }
    memory.start_state = library.starts().largest() as u64;
    if let Some(profile) = settings.profile.filter(|_| measured.blocks.model > 0) {
        memory.model = codec::network_memory(&profile.model) as u64;
    }
    memory.per_thread = memory.predictor + memory.model + memory.start_state;
    measured.memory = memory;
    measured.reads = latency::measure(&reader, &library, source, settings.reads)?;
    Ok(())
}

fn blocks(reader: &SegmentReader<'_>) -> Result<Blocks, BenchError> {
    let segment = reader.segment();
    let mut found = Blocks::default();
    for entry in segment.entries() {
        let (_, entry) = entry.map_err(StoreError::from)?;
        *match entry.codec {
            CodecId::Raw => &mut found.raw,
            CodecId::Zstd => &mut found.zstd,
            CodecId::Neural => &mut found.neural,
            // What was just sealed has none.
            CodecId::Lost => continue,
        } += 1;
        found.started += u64::from(entry.start != 0);
        found.model += u64::from(entry.model.is_some());
    }
    let count = reader.len().div_ceil(u64::from(segment.block_size()));
    found.holes = count.saturating_sub(found.raw + found.zstd + found.neural);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use super::*;
    use crate::store::ModelStore;

    fn measured(data: &[u8], key_run: KeyRun) -> Measured {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        fs::write(&path, data).unwrap();
        let temp = TempFile::create_in(File::open(dir.path()).unwrap().as_fd(), "t").unwrap();
        let seen = AtomicU64::new(0);
        let settings = Settings {
            profile: Some(&ModelStore::new(None).profile("fast").unwrap()),
            block_size: 1 << 14,
            key_run,
            reads: 6,
            progress: &|bytes| {
                seen.fetch_add(bytes, Ordering::Relaxed);
            },
        };
        let found = measure(&path, &temp, &settings).unwrap();
        assert_eq!(found.stored, temp.file().metadata().unwrap().len());
        assert_eq!(seen.into_inner(), 3 * data.len() as u64);
        found
    }

    fn lines(n: u32) -> Vec<u8> {
        let line = |i| format!("{i:06},{}.{},pump\n", 20 + i % 7, i * i % 10);
        (0..n).map(line).collect::<String>().into_bytes()
    }

    #[test]
    fn figures_are_of_the_sealed_file() {
        let mut data = lines(2500);
        data.resize(3 << 14, b'x');
        data.resize(4 << 14, 0);
        let found = measured(&data, KeyRun::of(2));
        let b = found.blocks;
        assert_eq!((b.raw + b.zstd + b.neural, b.holes), (3, 1));
        assert!(b.neural > 0 && b.started > 0, "{b:?}");
        assert!(found.encode < found.pack && !found.unpack.is_zero());
        let reads = (found.reads.first_touch.len(), found.reads.primed.len());
        assert_eq!(reads, (6, 6));
        let m = found.memory;
        assert!(m.predictor > 100_000 && m.start_state > 100_000, "{m:?}");
        assert_eq!(m.model > 0, b.model > 0);
        assert_eq!(m.per_thread, m.predictor + m.model + m.start_state);
    }

    #[test]
    fn without_key_blocks_nothing_is_started() {
        let found = measured(&lines(2500), KeyRun::NONE);
        assert_eq!((found.blocks.started, found.memory.start_state), (0, 0));
    }

    #[test]
    fn empty_file_has_a_size_and_no_reads() {
        let found = measured(b"", KeyRun::default());
        assert!(found.stored > 0 && found.reads.primed.is_empty());
        assert_eq!(found.blocks, Blocks::default());
    }
}
