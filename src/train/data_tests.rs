//! What is trained on, what is held out, in which order, and in how much memory.

use super::*;
use crate::train::{Dataset, Settings};

const WINDOW: Dataset = Dataset {
    window_size: 64,
    stride: 32,
};

fn config() -> Config {
    let yaml = "model: {d_model: 32, n_layers: 1, n_heads: 2}\n\
        compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}\n\
        dataset: {window_size: 64, stride: 32}\n";
    Settings::parse(yaml).unwrap().config()
}

fn plain(path: PathBuf) -> Input {
    let len = std::fs::metadata(&path).unwrap().len();
    Input {
        path,
        len,
        decoder: None,
    }
}

/// Every byte tells its block: only those below 100 may be trained on.
fn corpus(dir: &Path) -> Corpus {
    let mut big: Vec<u8> = Vec::new();
    for i in 0..20u8 {
        big.extend(vec![if i < 18 { i } else { 200 + i }; BLOCK]);
    }
    std::fs::create_dir_all(dir.join("a/deep")).unwrap();
    std::fs::create_dir_all(dir.join("b")).unwrap();
    std::fs::write(dir.join("a/deep/big"), &big).unwrap();
    std::fs::write(dir.join("a/short"), [0; 10]).unwrap();
    let mut inputs = vec![plain(dir.join("a/deep/big")), plain(dir.join("a/short"))];
    for i in 0..10u8 {
        let path = dir.join(format!("b/{i}"));
        std::fs::write(&path, vec![if i < 9 { 50 + i } else { 250 }; 300]).unwrap();
        inputs.push(plain(path));
    }
    Corpus::new(inputs, 64).unwrap()
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
    let config = config();
    let mut from_b = 0;
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..2000 {
        let segment = corpus.segment(&config, &WINDOW, 1, index).unwrap();
        assert_eq!(segment.features.len(), 64 * config.model.features.len());
        let byte = segment.targets[0];
        assert!(byte < 100, "held-out byte {byte}");
        seen.insert(byte);
        from_b += usize::from(byte >= 50);
    }
    assert_eq!(seen.len(), 18 + 9, "every block is drawn");
    assert!(
        (800..1200).contains(&from_b),
        "{from_b} of 2000 from the small source"
    );
    let order = |seed| -> Vec<u8> {
        (0..50)
            .map(|i| {
                let segment = corpus.segment(&config, &WINDOW, seed, i).unwrap();
                segment.targets[0]
            })
            .collect()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
    let held: Vec<u8> = (0..2)
        .flat_map(|s| corpus.held_out(s, 9).unwrap())
        .map(|block| block[0])
        .collect();
    assert_eq!(held, [218, 219, 250]);
    assert_eq!(corpus.sizes(), (18 * 65536 + 9 * 300, 2 * 65536 + 300));
}

#[test]
fn blocks_that_are_trained_on_are_spread_over_sources_and_over_each() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path());
    let bytes = |most| -> Vec<u8> {
        let blocks = corpus.trained_on(most).into_iter();
        blocks
            .map(|key| corpus.block(key).unwrap().unwrap()[0])
            .collect()
    };
    assert_eq!(bytes(1), [9]);
    assert_eq!(bytes(6), [3, 9, 15, 51, 54, 57]);
    assert_eq!(bytes(3), [4, 13, 54]);
    let all = bytes(1000);
    assert!(all.len() == 18 + 9 && all.iter().all(|&byte| byte < 100));
    assert_eq!(bytes(0), [0; 0]);
}

#[test]
fn a_source_of_few_blocks_holds_its_last_one_out() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, len| {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![1; len]).unwrap();
        plain(path)
    };
    let two = Corpus::new(vec![write("x", 300), write("y", 400)], 64).unwrap();
    assert_eq!(two.sizes(), (300, 400));
    let one = Corpus::new(vec![write("x", 300)], 64).unwrap();
    assert_eq!(one.sizes(), (300, 0), "the only block is trained on");
}

#[test]
fn nothing_to_train_on_is_an_error() {
    assert!(matches!(
        Corpus::new(Vec::new(), 64),
        Err(TrainError::Data { files: 0, .. })
    ));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("short");
    std::fs::write(&path, [0; 63]).unwrap();
    assert!(matches!(
        Corpus::new(vec![plain(path)], 64),
        Err(TrainError::Data {
            files: 1,
            window: 64
        })
    ));
}

#[test]
fn a_file_that_became_shorter_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, [5; 300]).unwrap();
    let corpus = Corpus::new(vec![plain(path.clone())], 64).unwrap();
    std::fs::write(&path, [5; 100]).unwrap();
    assert!(matches!(
        corpus.segment(&config(), &WINDOW, 1, 0),
        Err(TrainError::Shorter { .. })
    ));
}

/// A file of terabytes that holds the number of each block, and counts what it was asked for.
struct Endless {
    read: AtomicU64,
    damaged_below: u64,
}

impl Decoder for Endless {
    fn read(&self, path: &Path, from: u64, len: usize) -> Result<Vec<u8>, TrainError> {
        self.read.fetch_add(1, Ordering::Relaxed);
        if from < self.damaged_below {
            return Err(TrainError::Decode {
                line: format!("{}: block at {from}", path.display()),
                damaged: true,
            });
        }
        Ok((from / BLOCK as u64)
            .to_le_bytes()
            .into_iter()
            .cycle()
            .take(len)
            .collect())
    }
}

fn endless(terabytes: u64, damaged_below: u64) -> (Corpus, Arc<Endless>) {
    let decoder = Arc::new(Endless {
        read: AtomicU64::new(0),
        damaged_below,
    });
    let input = Input {
        path: PathBuf::from("/archive/endless.vortex"),
        len: terabytes << 40,
        decoder: Some(decoder.clone()),
    };
    (Corpus::new(vec![input], 64).unwrap(), decoder)
}

#[test]
fn terabytes_are_read_block_by_block_and_few_blocks_are_kept() {
    let (corpus, decoder) = endless(4, 0);
    let config = config();
    let mut blocks = std::collections::BTreeSet::new();
    for index in 0..4000 {
        let segment = corpus.segment(&config, &WINDOW, 1, index).unwrap();
        blocks.insert(segment.targets[..8].to_vec());
    }
    let read = decoder.read.load(Ordering::Relaxed);
    assert!(read <= (POOL + 4000 / USES as usize) as u64, "{read} reads");
    assert!(blocks.len() as u64 > read * 9 / 10, "they are all used");
    let pool = lock(&corpus.pool);
    let held: usize = pool.iter().map(|(_, block)| block.len()).sum();
    assert!((1..=32 << 20).contains(&held), "{held} bytes");
}

#[test]
fn damaged_blocks_are_passed_over_and_counted() {
    let (corpus, _) = endless(1, 1 << 39);
    let config = config();
    for index in 0..500 {
        let segment = corpus.segment(&config, &WINDOW, 1, index).unwrap();
        let block = u64::from_le_bytes(segment.targets[..8].try_into().unwrap());
        assert!(block * BLOCK as u64 >= 1 << 39);
    }
    assert!(corpus.damaged() > 50, "{}", corpus.damaged());
    let (corpus, _) = endless(1, u64::MAX);
    assert!(matches!(
        corpus.segment(&config, &WINDOW, 1, 0),
        Err(TrainError::Decode { damaged: true, .. })
    ));
}
