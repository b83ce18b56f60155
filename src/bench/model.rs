//! `bench model`: what the statistics, the model and its memory are worth, each alone and together.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::codec;
use crate::engine::{EngineError, Model, Reach, stride};
use crate::store::StoreError;
use crate::train::evaluate_reaching;

use super::BenchError;

/// Bytes of a block; each is coded cold.
const BLOCK: usize = 1 << 16;

/// A way to code blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Adaptive statistics alone.
    Statistics,
    /// The model alone, attending to the present byte only.
    Present,
    /// The model alone with its recent window.
    Recent,
    /// The model alone with recent window and compressed memory.
    Model,
    /// Statistics and model.
    Both,
}

impl Way {
    /// Every way, in the order of a table.
    pub const ALL: [Way; 5] = [
        Way::Statistics,
        Way::Present,
        Way::Recent,
        Way::Model,
        Way::Both,
    ];

    /// Bits that it needs for a block.
    fn bits(self, model: &Model, block: &[u8]) -> Result<f64, EngineError> {
        let alone = |reach| {
            let score = evaluate_reaching(model, block, stride::detect(block), reach)?;
            Ok(score.bits)
        };
        let effort = model.config().effort;
        let payload = |model| Ok(8.0 * codec::neural_len(block, model, effort) as f64);
        match self {
            Way::Statistics => payload(None),
            Way::Present => alone(Reach::Present),
            Way::Recent => alone(Reach::Recent),
            Way::Model => alone(Reach::All),
            Way::Both => payload(Some(model)),
        }
    }
}

/// What one way makes of some bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// The way.
    pub way: Way,
    /// Bits for each byte; over several files, their geometric mean.
    pub bits_per_byte: f64,
    /// Thousand bytes a second that one thread codes.
    pub kb_s: f64,
}

/// Codes the first `most` bytes of the file at `path` in every way; nothing for an empty file.
///
/// # Errors
/// Errors of the file system, errors of the engine.
pub fn measure(path: &Path, model: &Model, most: u64) -> Result<Option<Vec<Cost>>, BenchError> {
    let mut data = Vec::new();
    let file = File::open(path).map_err(StoreError::io(path))?;
    (file.take(most).read_to_end(&mut data)).map_err(StoreError::io(path))?;
    if data.is_empty() {
        return Ok(None);
    }
    let cost = |way: Way| {
        let (began, mut bits) = (Instant::now(), 0.0);
        for block in data.chunks(BLOCK) {
            bits += way.bits(model, block)?;
        }
        Ok(Cost {
            way,
            bits_per_byte: bits / data.len() as f64,
            kb_s: data.len() as f64 / 1e3 / began.elapsed().as_secs_f64().max(1e-9),
        })
    };
    let costs: Result<_, EngineError> = Way::ALL.into_iter().map(cost).collect();
    Ok(Some(costs?))
}

/// The means of several files' costs: geometric of bits, harmonic of speeds.
#[must_use]
pub fn means(files: &[Vec<Cost>]) -> Vec<Cost> {
    let n = files.len().max(1) as f64;
    let mean = |(i, way): (usize, Way)| {
        let of = |f: fn(&Cost) -> f64| files.iter().map(|costs| f(&costs[i])).sum::<f64>() / n;
        Cost {
            way,
            bits_per_byte: of(|c| c.bits_per_byte.max(1e-9).ln()).exp(),
            kb_s: 1.0 / of(|c| 1.0 / c.kb_s.max(1e-9)).max(1e-9),
        }
    };
    Way::ALL.into_iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{random_file, small_config};

    #[test]
    fn every_way_is_measured_and_memory_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let lines: String = (0..400).map(|i| format!("{},{}\n", i, i % 7)).collect();
        std::fs::write(&path, &lines).unwrap();
        let model = Model::from_bytes(&random_file(&small_config(), 3)).unwrap();
        let costs = measure(&path, &model, 1000).unwrap().unwrap();
        assert_eq!(costs.iter().map(|c| c.way).collect::<Vec<_>>(), Way::ALL);
        // A model that was never trained knows nothing, the statistics do.
        assert!(costs[0].bits_per_byte < 5.0, "{costs:?}");
        let [present, recent, all] = [1, 2, 3].map(|i| costs[i].bits_per_byte);
        assert!(present > 6.0 && recent > 6.0 && all > 6.0, "{costs:?}");
        assert!(present != recent && recent != all, "{costs:?}");
        std::fs::write(&path, b"").unwrap();
        assert!(measure(&path, &model, 1000).unwrap().is_none());
    }

    #[test]
    fn means_are_geometric_and_harmonic() {
        let file = |bits_per_byte, kb_s| {
            Way::ALL
                .map(|way| Cost {
                    way,
                    bits_per_byte,
                    kb_s,
                })
                .to_vec()
        };
        let [mean, ..] = means(&[file(1.0, 100.0), file(4.0, 300.0)])[..] else {
            panic!("a mean for every way");
        };
        assert!((mean.bits_per_byte - 2.0).abs() < 1e-9);
        assert!((mean.kb_s - 150.0).abs() < 1e-9);
    }
}
