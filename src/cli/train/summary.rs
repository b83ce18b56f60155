//! What a training run came to, as text and as JSON.

use super::Args;
use crate::cli::{CliError, print, show_bytes};
use crate::train::{Comparison, Exported, Score, Summary, mean, perplexity, ratio};
use serde::Serialize;
use std::path::PathBuf;

/// The result, in the form of `--json`.
#[derive(Serialize)]
pub(super) struct Report {
    profile: PathBuf,
    model: String,
    bytes: usize,
    complete: bool,
    steps: u64,
    seconds: f64,
    damaged_blocks: u64,
    /// Held-out data of each source, by the model alone.
    sources: Vec<Source>,
    /// Mean over the sources.
    held_out: Option<Figures>,
    packed: Option<Comparison>,
    /// The start of held-out blocks, one segment each.
    exported: Option<Exported>,
    verdict: Option<Verdict>,
}

#[derive(Serialize)]
struct Source {
    name: String,
    bytes: u64,
    bits_per_byte: f64,
    before: Option<f64>,
}

#[derive(Serialize)]
struct Figures {
    bits_per_byte: f64,
    ratio: f64,
    perplexity: f64,
}

/// The new profile against the one that the run started from. Changes are in percent, below 0 where the new one is better.
#[derive(Serialize)]
struct Verdict {
    against: String,
    better: bool,
    packed_change: f64,
    model_change: f64,
    before: f64,
    after: f64,
}

impl Report {
    pub(super) fn new(args: &Args, s: &Summary, damaged_blocks: u64) -> Report {
        let before = |name: &str| {
            let scores = s.before.as_ref()?;
            let found = scores.iter().find(|(n, _)| n == name)?;
            Some(found.1.bits_per_byte())
        };
        let source = |(name, score): &(String, Score)| Source {
            name: name.clone(),
            bytes: score.bytes,
            bits_per_byte: score.bits_per_byte(),
            before: before(name),
        };
        Report {
            profile: args.out.clone(),
            model: s.model.clone(),
            bytes: s.model_bytes,
            complete: s.complete,
            steps: s.steps,
            seconds: s.seconds,
            damaged_blocks,
            sources: s.after.iter().map(source).collect(),
            held_out: mean(&s.after).map(|bits_per_byte| Figures {
                bits_per_byte,
                ratio: ratio(bits_per_byte),
                perplexity: perplexity(bits_per_byte),
            }),
            packed: s.comparison,
            exported: s.exported,
            verdict: Verdict::new(args.init.as_deref(), s),
        }
    }

    pub(super) fn print(&self) -> Result<(), CliError> {
        if self.sources.is_empty() {
            print("nothing is held out of so little data, so nothing is measured")?;
        } else {
            print("held-out bits per byte of the model alone:")?;
        }
        for s in &self.sources {
            let before = s
                .before
                .map_or(String::new(), |b| format!("  (before {b:.3})"));
            print(format_args!("{:8.3}  {}{before}", s.bits_per_byte, s.name))?;
        }
        if let Some(f) = &self.held_out {
            print(format_args!(
                "{:8.3}  mean over the sources: ratio {:.2}, perplexity {:.2}",
                f.bits_per_byte, f.ratio, f.perplexity
            ))?;
        }
        if let Some(c) = &self.packed {
            let times = |size: u64| c.bytes as f64 / size.max(1) as f64;
            print(format_args!(
                "{} held-out blocks, {}: packed {:.2} times smaller, zstd -19 {:.2}, xz -9e {:.2}",
                c.blocks,
                show_bytes(c.bytes),
                times(c.packed),
                times(c.zstd_19),
                times(c.xz_9e)
            ))?;
        }
        if let Some(e) = &self.exported {
            print(format_args!(
                "exported: {:.4} bits per byte by the integer engine, {:.4} in training ({:+.3} %)",
                e.engine,
                e.floats,
                e.loss()
            ))?;
        }
        let out = self.profile.display();
        print(format_args!(
            "{out}: model {}, {}, {} steps in {:.0} s",
            self.model,
            show_bytes(self.bytes as u64),
            self.steps,
            self.seconds
        ))?;
        match &self.verdict {
            Some(v) => print(v.line(&out.to_string())),
            None => Ok(()),
        }
    }
}

impl Verdict {
    fn new(init: Option<&str>, s: &Summary) -> Option<Verdict> {
        let (before, after) = (mean(s.before.as_ref()?)?, mean(&s.after)?);
        let packed = s.comparison?;
        let change = |new: f64, old: f64| (new / old - 1.0) * 100.0;
        Some(Verdict {
            against: init
                .unwrap_or("the profile that it started from")
                .to_owned(),
            better: packed.packed < packed.packed_before?,
            packed_change: change(packed.packed as f64, packed.packed_before? as f64),
            model_change: change(after, before),
            before,
            after,
        })
    }

    /// One line: whether the new profile beats the old one, and by how much.
    fn line(&self, out: &str) -> String {
        let less = |change: f64, less: &str, more: &str| match change {
            0.0 => "as before".to_owned(),
            _ if change < 0.0 => format!("{:.1} % {less}", -change),
            _ => format!("{change:.1} % {more}"),
        };
        format!(
            "{out} {} {}: held-out blocks pack {}, by the model alone {} ({:.3} bits per byte, before {:.3})",
            if self.better {
                "beats"
            } else {
                "does not beat"
            },
            self.against,
            less(self.packed_change, "smaller", "larger"),
            less(self.model_change, "fewer bits", "more bits"),
            self.after,
            self.before
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_is_one_line_that_says_by_how_much() {
        let verdict = |packed_change: f64| Verdict {
            against: "fast".into(),
            better: packed_change < 0.0,
            packed_change,
            model_change: -12.34,
            before: 2.0,
            after: 1.753,
        };
        assert_eq!(
            verdict(-4.56).line("new"),
            "new beats fast: held-out blocks pack 4.6 % smaller, by the model alone 12.3 % fewer bits (1.753 bits per byte, before 2.000)"
        );
        assert!(
            verdict(1.0)
                .line("new")
                .contains("not beat fast: held-out blocks pack 1.0 % larger,")
        );
        assert!(
            verdict(0.0)
                .line("new")
                .starts_with("new does not beat fast: held-out blocks pack as before, ")
        );
    }
}
