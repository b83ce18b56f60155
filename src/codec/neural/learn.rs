//! Learns the initial state (`initial.bin`) from recordings: run once, by hand.

use std::cell::Cell;
use std::path::Path;

use super::code;
use super::contexts::CONTEXTS;
use super::history::HISTORIES;
use super::initial::{LEARNT, MATCHES, SECOND, SIZE, UNIT};
use super::mixer::INPUTS;
use super::plan::Kind;
use super::tables::stretch;
use super::work::GUESS_CELLS;
use crate::engine::Effort;

#[derive(Clone)]
struct Sums {
    weights: [i64; INPUTS],
    blocks: i64,
    cells: Vec<(u64, u64)>,
}

fn files(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            let mut inside = Vec::new();
            files(&path, &mut inside);
            // At most ten files a source.
            let step = inside.len().div_ceil(10).max(1);
            out.extend(
                inside.into_iter().step_by(
                    if path
                        .read_dir()
                        .is_ok_and(|mut d| d.all(|e| e.is_ok_and(|e| e.path().is_file())))
                    {
                        step
                    } else {
                        1
                    },
                ),
            );
        } else {
            out.push(path);
        }
    }
}

thread_local! {
    /// Whether predictors use one row for every weight set.
    pub(super) static ONE_ROW: Cell<bool> = const { Cell::new(false) };
}

#[test]
#[ignore = "writes initial.bin from ../shared/corpus/train"]
fn learn_initial_state() {
    learn(0, Effort::Usual);
}

#[test]
#[ignore = "writes initial.bin from ../shared/corpus/train"]
fn learn_second_bank() {
    learn(1, Effort::Dense);
}

/// Learns the initial state of a bank, as blocks of this effort leave it, and writes it in its place.
fn learn(bank: usize, effort: Effort) {
    let corpus =
        Path::new(option_env!("VORTEX_CORPUS").unwrap_or("../shared/corpus")).join("train");
    let mut paths = Vec::new();
    files(&corpus, &mut paths);
    let others = [MATCHES + GUESS_CELLS, 0][bank];
    let empty = Sums {
        weights: [0; INPUTS],
        blocks: 0,
        cells: vec![(0, 0); others + CONTEXTS * HISTORIES],
    };
    let mut sums = [empty.clone(), empty];
    ONE_ROW.set(true);
    for path in &paths {
        let data = std::fs::read(path).expect("a file");
        let blocks: Vec<&[u8]> = data.chunks(65536).collect();
        let block = blocks[blocks.len() / 2];
        if block.len() < 4096 {
            continue;
        }
        let coded = code(block, None, None, effort);
        let ratio = coded.size() as f64 / block.len() as f64;
        println!("{} {ratio:.4}", path.display());
        let p = &coded.predictor.as_ref().expect("held").predictor;
        let sums = &mut sums[usize::from(p.kind() == Kind::Text)];
        let (weights, cells) = p.learnt(bank);
        sums.weights
            .iter_mut()
            .zip(weights)
            .for_each(|(s, &w)| *s += i64::from(w));
        sums.blocks += 1;
        for (s, &cell) in sums.cells.iter_mut().zip(&cells) {
            let n = u64::from((cell & 1023).saturating_sub(10));
            s.0 += u64::from(cell >> 16) * n;
            s.1 += n;
        }
    }
    let mut out = Vec::new();
    for sums in &sums {
        println!("{} blocks", sums.blocks);
        for w in sums.weights {
            out.extend_from_slice(&((w / sums.blocks.max(1)) as i16).to_le_bytes());
        }
        for (i, &(p, n)) in sums.cells.iter().enumerate() {
            let p = if n >= 20 {
                (p / n) as u32
            } else {
                guess(i, others)
            };
            out.push((stretch(p) / UNIT) as i8 as u8);
        }
    }
    let [at, size] = [[0, 2 * SIZE], [2 * SIZE, 2 * SECOND]][bank];
    assert_eq!(out.len(), size);
    let mut file = LEARNT.to_vec();
    file[at..at + size].copy_from_slice(&out);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("initial.bin");
    std::fs::write(path, file).expect("written");
}

/// For cells that never came: matches hold (the first `others` cells), histories go on.
fn guess(i: usize, others: usize) -> u32 {
    match i.checked_sub(others) {
        Some(i) => super::history::start()[i % HISTORIES] >> 16,
        None => 60_000,
    }
}
