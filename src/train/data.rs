//! Training data: files as memory maps, cut into blocks as the codec cuts them, grouped by directory.
//!
//! Of a file of four blocks or more the last tenth is held out, in whole blocks; of smaller files every tenth of its directory
//! is held out. A directory is a source; windows are drawn from all sources alike, whatever their
//! sizes, and from the blocks of a source alike.

use super::TrainError;
use crate::engine::{Config, features, stride};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Bytes of a block.
pub const BLOCK: usize = 64 * 1024;

/// Where a block lies.
#[derive(Debug)]
struct Block {
    file: usize,
    from: usize,
    to: usize,
    stride: OnceLock<u16>,
}

/// The blocks of one directory.
#[derive(Debug, Default)]
pub struct Source {
    /// The directory.
    pub name: String,
    train: Vec<Block>,
    held_out: Vec<Block>,
}

/// All data of a run.
#[derive(Debug)]
pub struct Corpus {
    maps: Vec<Mmap>,
    sources: Vec<Source>,
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
    /// Maps all regular files under `paths`.
    ///
    /// # Errors
    /// A path that can not be read, or no file with at least `window` bytes to train on.
    pub fn open(paths: &[PathBuf], window: usize) -> Result<Self, TrainError> {
        let mut directories: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        for path in paths {
            collect(path, &mut directories)?;
        }
        let mut corpus = Corpus {
            maps: Vec::new(),
            sources: Vec::new(),
        };
        for (directory, mut files) in directories {
            files.sort();
            let mut source = Source {
                name: directory.display().to_string(),
                ..Source::default()
            };
            for (i, path) in files.iter().enumerate() {
                let file = File::open(path).map_err(TrainError::io(path))?;
                let len = file.metadata().map_err(TrainError::io(path))?.len();
                if len < window as u64 {
                    continue;
                }
                // SAFETY: the map is only read. If another process changes or truncates the file meanwhile, training reads other
                // bytes or dies of SIGBUS; no memory of this process is corrupted.
                let map = unsafe { Mmap::map(&file) }.map_err(TrainError::io(path))?;
                source.add(corpus.maps.len(), map.len(), i, window);
                corpus.maps.push(map);
            }
            if !source.train.is_empty() {
                corpus.sources.push(source);
            }
        }
        if corpus.sources.is_empty() {
            let text = format!(
                "no file of at least {window} bytes (dataset.window_size) under the given paths"
            );
            return Err(TrainError::Data(text));
        }
        Ok(corpus)
    }

    /// The sources, by name.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Bytes to train on, and bytes held out.
    pub fn sizes(&self) -> (u64, u64) {
        let sum = |of: fn(&Source) -> &Vec<Block>| {
            self.sources
                .iter()
                .flat_map(|s| of(s).iter())
                .map(|b| (b.to - b.from) as u64)
                .sum()
        };
        (sum(|s| &s.train), sum(|s| &s.held_out))
    }

    /// Up to `most` held-out blocks of a source, spread over it, each with its stride.
    pub fn held_out(&self, source: &Source, most: usize) -> Vec<(&[u8], u16)> {
        let blocks = &source.held_out;
        let n = blocks.len().min(most);
        (0..n)
            .map(|i| self.bytes(&blocks[i * blocks.len() / n]))
            .collect()
    }

    fn bytes(&self, block: &Block) -> (&[u8], u16) {
        let bytes = &self.maps[block.file][block.from..block.to];
        (bytes, *block.stride.get_or_init(|| stride::detect(bytes)))
    }

    /// The `index`-th segment of a run: a pure function of the seed.
    pub(super) fn segment(
        &self,
        config: &Config,
        window: &super::Dataset,
        seed: u64,
        index: u64,
    ) -> Segment {
        let names = &config.model.features;
        let mut random = Random::new(seed, index);
        let source = &self.sources[random.below(self.sources.len())];
        let block = &source.train[random.below(source.train.len())];
        let (bytes, stride) = self.bytes(block);
        let starts = (bytes.len() - window.window_size) / window.stride + 1;
        let start = random.below(starts) * window.stride;
        let mut all = vec![0; window.window_size * names.len()];
        for (pos, out) in (start..).zip(all.chunks_exact_mut(names.len())) {
            features::write(names, bytes, pos, start, stride, out);
        }
        let targets = bytes[start..start + window.window_size].to_vec();
        Segment {
            features: Arc::new(all),
            targets: Arc::new(targets),
        }
    }
}

impl Source {
    fn add(&mut self, file: usize, len: usize, index: usize, window: usize) {
        let blocks = len.div_ceil(BLOCK);
        let kept = match blocks {
            0..4 if index % 10 == 9 => 0,
            0..4 => blocks,
            _ => blocks - blocks.div_ceil(10),
        };
        for i in 0..blocks {
            let (from, to) = (i * BLOCK, len.min((i + 1) * BLOCK));
            if to - from >= window {
                let part = if i < kept {
                    &mut self.train
                } else {
                    &mut self.held_out
                };
                part.push(Block {
                    file,
                    from,
                    to,
                    stride: OnceLock::new(),
                });
            }
        }
    }
}

fn collect(path: &Path, out: &mut BTreeMap<PathBuf, Vec<PathBuf>>) -> Result<(), TrainError> {
    let kind = std::fs::metadata(path).map_err(TrainError::io(path))?;
    if kind.is_file() {
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        out.entry(directory).or_default().push(path.to_owned());
    } else if kind.is_dir() {
        for entry in std::fs::read_dir(path).map_err(TrainError::io(path))? {
            let entry = entry.map_err(TrainError::io(path))?;
            let kind = entry.file_type().map_err(TrainError::io(entry.path()))?;
            // Links inside a directory are not followed: they could lead in circles.
            if kind.is_file() || kind.is_dir() {
                collect(&entry.path(), out)?;
            }
        }
    }
    Ok(())
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
mod tests {
    use super::*;
    use crate::train::{Dataset, Settings};

    fn corpus(dir: &Path) -> Corpus {
        // Every byte tells its block: only those below 100 may be trained on.
        let mut big: Vec<u8> = Vec::new();
        for i in 0..20u8 {
            big.extend(vec![if i < 18 { i } else { 200 + i }; BLOCK]);
        }
        std::fs::create_dir_all(dir.join("a/deep")).unwrap();
        std::fs::create_dir_all(dir.join("b")).unwrap();
        std::fs::write(dir.join("a/deep/big"), &big).unwrap();
        std::fs::write(dir.join("a/short"), [0; 10]).unwrap();
        for i in 0..10u8 {
            std::fs::write(
                dir.join(format!("b/{i}")),
                vec![if i < 9 { 50 + i } else { 250 }; 300],
            )
            .unwrap();
        }
        Corpus::open(&[dir.to_owned()], 64).unwrap()
    }

    #[test]
    fn held_out_parts_are_never_trained_on_and_sources_are_drawn_alike() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = corpus(dir.path());
        assert_eq!(
            corpus.sources().len(),
            2,
            "a file below the window is left out"
        );
        let yaml = "model: {d_model: 32, n_layers: 1, n_heads: 2}\n\
            compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}\n\
            dataset: {window_size: 64, stride: 32}\n";
        let config = Settings::parse(yaml).unwrap().config();
        let window = Dataset {
            window_size: 64,
            stride: 32,
        };
        let mut from_b = 0;
        for index in 0..800 {
            let segment = corpus.segment(&config, &window, 1, index);
            assert_eq!(segment.features.len(), 64 * config.model.features.len());
            let byte = segment.targets[0];
            assert!(byte < 100, "held-out byte {byte}");
            from_b += usize::from(byte >= 50);
        }
        assert!(
            (320..480).contains(&from_b),
            "{from_b} of 800 from the small source"
        );
        let order = |seed| -> Vec<u8> {
            (0..50)
                .map(|i| corpus.segment(&config, &window, seed, i).targets[0])
                .collect()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let held: Vec<u8> = corpus
            .sources()
            .iter()
            .flat_map(|s| corpus.held_out(s, 9))
            .map(|(b, _)| b[0])
            .collect();
        assert_eq!(held, [218, 219, 250]);
        assert_eq!(corpus.sizes(), (18 * 65536 + 9 * 300, 2 * 65536 + 300));
    }

    #[test]
    fn nothing_to_train_on_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Corpus::open(&[dir.path().to_owned()], 64),
            Err(TrainError::Data(_))
        ));
        assert!(matches!(
            Corpus::open(&[dir.path().join("none")], 64),
            Err(TrainError::Io { .. })
        ));
    }
}
