//! How many blocks of a file, or of many, are coded by what.

use serde::Serialize;

use crate::codec::CodecId;
use crate::store::SealReport;

/// Numbers of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    /// Stored as they are.
    pub raw: u64,
    /// Compressed by zstd.
    pub zstd: u64,
    /// Compressed by a model and adaptive statistics.
    pub neural: u64,
    /// All zeros, and not stored.
    pub holes: u64,
    /// Lost to damage, and marked so by a repair.
    pub lost: u64,
}

impl BlockCounts {
    /// Counts one block more.
    pub fn count(&mut self, codec: CodecId) {
        *self.of(codec) += 1;
    }

    /// The counts of a file that was just sealed.
    #[must_use]
    pub fn of_report(report: &SealReport) -> BlockCounts {
        let mut counts = BlockCounts {
            holes: report.holes,
            ..BlockCounts::default()
        };
        for (codec, &blocks) in CodecId::ALL.into_iter().zip(&report.blocks) {
            *counts.of(codec) = blocks;
        }
        counts
    }

    /// Adds another file's counts.
    pub fn add(&mut self, other: &BlockCounts) {
        self.raw += other.raw;
        self.zstd += other.zstd;
        self.neural += other.neural;
        self.holes += other.holes;
        self.lost += other.lost;
    }

    fn of(&mut self, codec: CodecId) -> &mut u64 {
        match codec {
            CodecId::Raw => &mut self.raw,
            CodecId::Zstd => &mut self.zstd,
            CodecId::Neural => &mut self.neural,
            CodecId::Lost => &mut self.lost,
        }
    }
}

impl std::fmt::Display for BlockCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            ("neural", self.neural),
            ("zstd", self.zstd),
            ("raw", self.raw),
            ("holes", self.holes),
            ("lost", self.lost),
        ];
        let shown: Vec<String> = all
            .into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(name, n)| format!("{n} {name}"))
            .collect();
        f.write_str(if shown.is_empty() { "none" } else { "" })?;
        f.write_str(&shown.join(", "))
    }
}
