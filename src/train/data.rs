//! Training data: blocks of files as the codec cuts them, grouped by directory, each fetched when it is needed.
//!
//! A directory is a source. Of a file of four blocks or more the last tenth is held out, in whole blocks; of smaller files
//! every tenth of its directory; where that leaves nothing, the last block of the source, unless it is the only one.
//!
//! A run draws blocks, from all sources alike whatever their sizes and from the blocks of a source alike. [`POOL`] drawn blocks
//! are in play at a time; segments are cut from any of them, and after [`USES`] segments the oldest makes room for a new one. What segment
//! a run sees when is a pure function of the seed, and of the names and lengths of the files.
//!
//! Memory is bounded: about 200 bytes a file, `2 * POOL` blocks (32 MiB), and one a thread; at the end the held-out blocks that are measured, at
//! most 256. Plain files are mapped block by block,
//! so that only a [`Decoder`]'s blocks take memory that is not the page cache's.

use super::TrainError;
use crate::engine::{Config, features, stride};
use lru::LruCache;
use memmap2::{Mmap, MmapOptions};
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a block.
pub const BLOCK: usize = 64 * 1024;
/// Drawn blocks that segments are cut from at a time.
const POOL: usize = 256;
/// Blocks that are kept: with twice those in play, none is fetched twice before its time is over.
const KEPT: NonZeroUsize = NonZeroUsize::new(2 * POOL).expect("not 0");
/// Segments after which a new block is drawn: what is decoded to be trained on is used more than once.
const USES: u64 = 8;
/// Draws in place of a damaged block before the run gives up.
const ATTEMPTS: u64 = 16;

/// Reads files that do not hold their bytes as they are.
pub trait Decoder: Send + Sync {
    /// `len` bytes of the content of the file `path`, from byte `from` on.
    ///
    /// # Errors
    /// [`TrainError::Decode`].
    fn read(&self, path: &Path, from: u64, len: usize) -> Result<Vec<u8>, TrainError>;
}

/// A file to learn from.
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of its content.
    pub len: u64,
    /// What reads its content; nothing for a plain file.
    pub decoder: Option<Arc<dyn Decoder>>,
}

/// A file's blocks: the first `train` are trained on, the next `held_out` are not.
struct Member {
    input: Input,
    train: u64,
    held_out: u64,
}

/// The files of one directory.
#[derive(Default)]
pub struct Source {
    /// The directory.
    pub name: String,
    members: Vec<Member>,
    /// Blocks to train on in each file and all before it.
    ends: Vec<u64>,
}

/// Names a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: usize,
    member: usize,
    block: u64,
}

/// The bytes of a block, mapped or decoded.
pub(super) struct Block {
    bytes: Bytes,
    /// Length of its records, 0 if there are none.
    pub(super) stride: u16,
}

enum Bytes {
    Mapped(Mmap),
    Decoded(Vec<u8>),
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Decoded(bytes) => bytes,
        }
    }
}

/// All data of a run.
pub struct Corpus {
    sources: Vec<Source>,
    window: usize,
    pool: Mutex<LruCache<Key, Arc<Block>>>,
    damaged: AtomicU64,
}

/// One training segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// `[position][feature]`.
    pub features: Arc<Vec<u8>>,
    /// The bytes to predict.
    pub targets: Arc<Vec<u8>>,
}

impl Corpus {
    /// The blocks of these files, none of which is opened yet.
    ///
    /// # Errors
    /// No file has at least `window` bytes to train on.
    pub fn new(inputs: Vec<Input>, window: usize) -> Result<Self, TrainError> {
        let files = inputs.len();
        let mut directories: BTreeMap<PathBuf, Vec<Input>> = BTreeMap::new();
        for input in inputs {
            let directory = input.path.parent().unwrap_or(Path::new("")).to_owned();
            directories.entry(directory).or_default().push(input);
        }
        let sources: Vec<Source> = directories
            .into_iter()
            .map(|(directory, files)| Source::new(directory.display().to_string(), files, window))
            .filter(|source| source.blocks() > 0)
            .collect();
        if sources.is_empty() {
            return Err(TrainError::Data { files, window });
        }
        Ok(Corpus {
            sources,
            window,
            pool: Mutex::new(LruCache::new(KEPT)),
            damaged: AtomicU64::new(0),
        })
    }

    /// The sources, by name.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Bytes to train on, and bytes held out.
    pub fn sizes(&self) -> (u64, u64) {
        let members = self.sources.iter().flat_map(|s| &s.members);
        members.fold((0, 0), |(train, held_out), m| {
            let to = |blocks: u64| m.input.len.min(blocks * BLOCK as u64);
            let (kept, all) = (to(m.train), to(m.train + m.held_out));
            (train + kept, held_out + all - kept)
        })
    }

    /// Damaged blocks that were met and passed over so far.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// A hash of what the order of the data depends on, besides the seed.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(&(self.window as u64).to_le_bytes());
        for member in self.sources.iter().flat_map(|s| &s.members) {
            let path = member.input.path.as_os_str().as_encoded_bytes();
            hash.update(&(path.len() as u64).to_le_bytes());
            hash.update(path);
            hash.update(&member.input.len.to_le_bytes());
        }
        hash.finalize().to_hex().to_string()
    }

    /// Up to `most` held-out blocks of a source, spread over it. Damaged ones are left out.
    ///
    /// # Errors
    /// A file can not be read.
    pub(super) fn held_out(&self, source: usize, most: usize) -> Result<Vec<Block>, TrainError> {
        let members = &self.sources[source].members;
        let blocks: u64 = members.iter().map(|m| m.held_out).sum();
        let n = blocks.min(most as u64);
        let mut out = Vec::new();
        for i in 0..n {
            let mut at = i * blocks / n;
            for (member, m) in members.iter().enumerate() {
                if at < m.held_out {
                    let key = Key {
                        source,
                        member,
                        block: m.train + at,
                    };
                    out.extend(self.block(key)?);
                    break;
                }
                at -= m.held_out;
            }
        }
        Ok(out)
    }

    /// Up to `most` blocks that are trained on, spread over the sources and over the blocks of each.
    pub(super) fn trained_on(&self, most: usize) -> Vec<Key> {
        let sources = self.sources.len().min(most);
        let of_source = |i: usize| {
            let source = i * self.sources.len() / sources;
            let blocks = self.sources[source].blocks();
            let share = most / sources + usize::from(i < most % sources);
            let n = blocks.min(share as u64);
            (0..n).map(move |j| self.sources[source].nth(source, (2 * j + 1) * blocks / (2 * n)))
        };
        (0..sources).flat_map(of_source).collect()
    }

    /// A block, unless it is damaged.
    ///
    /// # Errors
    /// Its file can not be read.
    pub(super) fn block(&self, key: Key) -> Result<Option<Block>, TrainError> {
        self.unless_damaged(self.load(key))
    }

    /// The `index`-th segment of a run.
    ///
    /// # Errors
    /// A file can not be read; or damage, wherever a block is sought.
    pub(super) fn segment(
        &self,
        config: &Config,
        window: &super::Dataset,
        seed: u64,
        index: u64,
    ) -> Result<Segment, TrainError> {
        let names = &config.model.features;
        let mut random = Random::new(seed, index);
        let draw = index / USES + random.below(POOL) as u64;
        let block = self.drawn(seed, draw)?;
        let starts = (block.len() - window.window_size) / window.stride + 1;
        let start = random.below(starts) * window.stride;
        let mut all = vec![0; window.window_size * names.len()];
        for (pos, out) in (start..).zip(all.chunks_exact_mut(names.len())) {
            features::write(names, &block, pos, start, block.stride, out);
        }
        let targets = block[start..start + window.window_size].to_vec();
        Ok(Segment {
            features: Arc::new(all),
            targets: Arc::new(targets),
        })
    }

    /// The block of one draw of a run; of a damaged one, that of another draw.
    fn drawn(&self, seed: u64, draw: u64) -> Result<Arc<Block>, TrainError> {
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            // Streams of their own, apart from those of the segments.
            let mut random = Random::new(!seed, draw.wrapping_mul(ATTEMPTS) + attempt);
            let source = random.below(self.sources.len());
            let key = self.sources[source].draw(source, &mut random);
            let known = lock(&self.pool).get(&key).cloned();
            if let Some(block) = known {
                return Ok(block);
            }
            // Not under the lock: threads decode side by side.
            match self.load(key) {
                Err(error) if error.is_damage() => {
                    self.unless_damaged::<()>(Err(error)).map(drop)?;
                    last = Some(key);
                }
                loaded => {
                    let block = Arc::new(loaded?);
                    lock(&self.pool).put(key, Arc::clone(&block));
                    return Ok(block);
                }
            }
        }
        match last {
            Some(key) => self.load(key).map(Arc::new),
            None => unreachable!("there is at least one attempt"),
        }
    }

    /// Counts and reports damage, which is then no error.
    fn unless_damaged<T>(&self, loaded: Result<T, TrainError>) -> Result<Option<T>, TrainError> {
        match loaded {
            Ok(block) => Ok(Some(block)),
            Err(error) if error.is_damage() => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                log::warn!("{error}; it is left out");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn load(&self, key: Key) -> Result<Block, TrainError> {
        let input = &self.sources[key.source].members[key.member].input;
        let from = key.block * BLOCK as u64;
        let len = usize::try_from(input.len - from)
            .unwrap_or(BLOCK)
            .min(BLOCK);
        let bytes = match &input.decoder {
            Some(decoder) => Bytes::Decoded(decoder.read(&input.path, from, len)?),
            None => Bytes::Mapped(map(&input.path, from, len)?),
        };
        let mut block = Block { bytes, stride: 0 };
        block.stride = stride::detect(&block);
        Ok(block)
    }
}

fn map(path: &Path, from: u64, len: usize) -> Result<Mmap, TrainError> {
    let file = File::open(path).map_err(TrainError::io(path))?;
    let now = file.metadata().map_err(TrainError::io(path))?.len();
    if now < from + len as u64 {
        return Err(TrainError::Shorter {
            path: path.to_owned(),
        });
    }
    // SAFETY: the map is only read. If another process changes or truncates the file meanwhile, training reads other
    // bytes or dies of SIGBUS; no memory of this process is corrupted.
    unsafe { MmapOptions::new().offset(from).len(len).map(&file) }.map_err(TrainError::io(path))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    fn new(name: String, mut files: Vec<Input>, window: usize) -> Source {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        let mut members: Vec<Member> = files
            .into_iter()
            .enumerate()
            .map(|(i, input)| Member::new(input, i, window))
            .filter(|m| m.train + m.held_out > 0)
            .collect();
        let blocks: u64 = members.iter().map(|m| m.train).sum();
        if blocks > 1
            && members.iter().all(|m| m.held_out == 0)
            && let Some(last) = members.iter_mut().rfind(|m| m.train > 0)
        {
            last.train -= 1;
            last.held_out += 1;
        }
        let ends = members
            .iter()
            .scan(0, |sum, m| {
                *sum += m.train;
                Some(*sum)
            })
            .collect();
        Source {
            name,
            members,
            ends,
        }
    }

    /// Blocks to train on.
    fn blocks(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn draw(&self, source: usize, random: &mut Random) -> Key {
        let at = random.below(usize::try_from(self.blocks()).unwrap_or(usize::MAX)) as u64;
        self.nth(source, at)
    }

    /// The block `at`, of those to train on.
    fn nth(&self, source: usize, at: u64) -> Key {
        let member = self.ends.partition_point(|&end| end <= at);
        let block = at - (self.ends[member] - self.members[member].train);
        Key {
            source,
            member,
            block,
        }
    }
}

impl Member {
    fn new(input: Input, index: usize, window: usize) -> Member {
        let blocks = input.len.div_ceil(BLOCK as u64);
        let rest = input.len - blocks.saturating_sub(1) * BLOCK as u64;
        let usable = blocks - u64::from(blocks > 0 && rest < window as u64);
        let kept = match blocks {
            0..4 if index % 10 == 9 => 0,
            0..4 => blocks,
            _ => blocks - blocks.div_ceil(10),
        };
        let train = kept.min(usable);
        Member {
            input,
            train,
            held_out: usable - train,
        }
    }
}

/// Pseudo-random numbers (SplitMix64, Steele et al. 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut mixed = Random(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        Random(mixed.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is above 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
