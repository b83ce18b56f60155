//! The YAML file of a training run: architecture, windows, optimisation.

use super::{TrainError, yaml};
use crate::engine::{Config, Effort, MemoryConfig, ModelConfig};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest configuration file that is read.
const MAX_BYTES: u64 = 64 << 10;

/// How windows are cut from the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Bytes of a training segment.
    pub window_size: usize,
    /// Segments start at multiples of this within a block.
    pub stride: usize,
}

/// How the optimiser runs. Every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Segments of one step.
    pub batch_size: usize,
    /// Highest learning rate, reached after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay of AdamW.
    pub weight_decay: f64,
    /// Largest norm of a step's gradient.
    pub clip_norm: f64,
    /// Steps of a run for which neither minutes nor steps are given.
    pub steps: u64,
}

impl Default for Training {
    fn default() -> Self {
        Training {
            batch_size: 4,
            learning_rate: 3e-3,
            warmup_steps: 100,
            weight_decay: 0.01,
            clip_norm: 1.0,
            steps: 5000,
        }
    }
}

/// Everything that a configuration file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Sizes of the transformer.
    pub model: ModelConfig,
    /// Sizes of its memory.
    pub compressive_memory: MemoryConfig,
    /// How much time coding with the model may take.
    #[serde(default, skip_serializing_if = "Effort::is_usual")]
    pub effort: Effort,
    /// How windows are cut.
    pub dataset: Dataset,
    /// How the optimiser runs.
    #[serde(default)]
    pub training: Training,
}

impl Settings {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`TrainError`] with one line that names the key and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
            .map_err(TrainError::io(path))?;
        Self::parse(&text).map_err(|reason| TrainError::Settings {
            path: path.to_owned(),
            reason,
        })
    }

    /// Reads and checks the text of a configuration file.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() as u64 > MAX_BYTES {
            return Err("longer than any configuration (64 KiB)".to_string());
        }
        let settings: Settings = yaml::read(text)?;
        settings.config().validate().map_err(|e| e.to_string())?;
        let (d, t) = (&settings.dataset, &settings.training);
        let rules = [
            (
                (16..=1 << 20).contains(&d.window_size),
                "dataset.window_size must be 16 to 1048576",
            ),
            (
                d.window_size <= super::BLOCK,
                "dataset.window_size must fit in a block of 65536 bytes",
            ),
            (
                (1..=super::BLOCK).contains(&d.stride),
                "dataset.stride must be 1 to 65536",
            ),
            (
                (1..=1024).contains(&t.batch_size),
                "training.batch_size must be 1 to 1024",
            ),
            (
                t.learning_rate > 0.0 && t.learning_rate <= 10.0,
                "training.learning_rate must be above 0, and 10 at most",
            ),
            (t.clip_norm > 0.0, "training.clip_norm must be above 0"),
            (
                (0.0..=1.0).contains(&t.weight_decay),
                "training.weight_decay must be 0 to 1",
            ),
            (t.steps >= 1, "training.steps must be at least 1"),
        ];
        match rules.iter().find(|(good, _)| !good) {
            Some((_, text)) => Err((*text).to_string()),
            None => Ok(settings),
        }
    }

    /// The architecture alone.
    pub fn config(&self) -> Config {
        Config {
            model: self.model.clone(),
            compressive_memory: self.compressive_memory.clone(),
            effort: self.effort,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "model: {d_model: 32, n_layers: 1, n_heads: 2}\n\
        compressive_memory: {window_size: 8, compression_rate: 4, max_compressed_len: 8}\n\
        dataset: {window_size: 64, stride: 32}\n";

    #[test]
    fn shipped_configurations_are_valid() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        let read = |name: &str| Settings::read(&dir.join(name)).unwrap();
        let (default, fast, edge) = (read("default.yaml"), read("fast.yaml"), read("edge.yaml"));
        let large = read("large.yaml");
        assert_eq!(
            (
                large.model.d_model,
                large.model.n_layers,
                large.model.n_heads
            ),
            (256, 6, 8)
        );
        let m = &large.compressive_memory;
        assert_eq!(
            (m.window_size, m.compression_rate, m.max_compressed_len),
            (512, 4, 512)
        );
        assert!(edge.config().macs_per_byte() < fast.config().macs_per_byte());
        assert!(fast.config().macs_per_byte() < default.config().macs_per_byte());
        assert!(default.config().macs_per_byte() < large.config().macs_per_byte());
        assert_eq!(
            [&edge, &fast, &default, &large].map(|settings| settings.effort.is_usual()),
            [true, true, false, true]
        );
    }

    #[test]
    fn wrong_files_get_one_line_that_names_the_key() {
        assert!(Settings::parse(GOOD).is_ok());
        for (from, to, names) in [
            (
                "n_layers: 1",
                "n_layers: many",
                "model.n_layers: not a whole number from 0 on at line 1, column",
            ),
            ("n_layers: 1", "n_layers: 0", "n_layers"),
            ("n_layers: 1", "layers: 1", "layers"),
            ("stride: 32", "stride: 0", "stride"),
            ("stride: 32", "stride: 65537", "stride"),
            ("dataset:", "data:", "data"),
            (
                "dataset:",
                "training: {learning_rate: .inf}\ndataset:",
                "learning_rate",
            ),
            (
                "dataset:",
                "training: {weight_decay: 1e300}\ndataset:",
                "weight_decay",
            ),
            ("window_size: 64", "window_size: 65537", "window_size"),
        ] {
            let error = Settings::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(
                error.contains(names) && !error.contains('\n'),
                "{to}: {error}"
            );
        }
        assert!(Settings::parse("").is_err());
        assert!(Settings::parse(": : [").is_err());
    }
}
