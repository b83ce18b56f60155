//! Figures of file systems, beside each other.

use serde::Serialize;

use super::system::System;

/// What one workload came to.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The workload.
    pub workload: &'static str,
    /// What is counted; more is better.
    pub unit: &'static str,
    /// One for each file system; ours first.
    pub systems: Vec<Row>,
}

/// What one file system came to.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The file system.
    pub system: System,
    /// The median of all rounds.
    pub median: f64,
    /// Each round.
    pub rounds: Vec<f64>,
    /// Our median by this one's: above 1 where ours is faster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ours_to_peer: Option<f64>,
    /// Median and 99th percentile of single operations, in microseconds, all rounds together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<[f64; 2]>,
    /// The most memory that the daemon of a FUSE file system has had, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
}

/// One round of one file system.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// In the workload's unit.
    pub(super) value: f64,
    /// Times of single operations, in microseconds.
    pub(super) latencies: Vec<f64>,
    pub(super) peak_memory: Option<u64>,
}

impl Sample {
    pub(super) fn of(value: f64) -> Sample {
        Sample {
            value,
            ..Sample::default()
        }
    }
}

/// A figure from the rounds of each file system.
pub(super) fn figure(
    workload: &'static str,
    unit: &'static str,
    measured: &[(System, Vec<Sample>)],
) -> Figure {
    let median = |samples: &[Sample]| percentile(samples.iter().map(|s| s.value).collect(), 0.5);
    let ours = measured.iter().find(|(system, _)| *system == System::Ours);
    let ours = ours.map(|(_, samples)| median(samples));
    let row = |(system, samples): &(System, Vec<Sample>)| {
        let all: Vec<f64> = samples.iter().flat_map(|s| s.latencies.clone()).collect();
        let latency = |q| percentile(all.clone(), q);
        Row {
            system: *system,
            median: median(samples),
            rounds: samples.iter().map(|s| s.value).collect(),
            ours_to_peer: ours
                .filter(|_| *system != System::Ours)
                .map(|ours| ours / median(samples).max(f64::MIN_POSITIVE)),
            latency_us: (!all.is_empty()).then(|| [latency(0.5), latency(0.99)]),
            peak_memory: samples.iter().filter_map(|s| s.peak_memory).max(),
        }
    };
    Figure {
        workload,
        unit,
        systems: measured.iter().map(row).collect(),
    }
}

fn percentile(mut values: Vec<f64>, q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * q).floor() as usize;
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_their_ratios() {
        let rounds = |values: &[f64]| values.iter().map(|&v| Sample::of(v)).collect();
        let measured = [
            (System::Ours, rounds(&[10.0, 30.0, 20.0])),
            (System::Ext4, rounds(&[40.0, 1000.0, 1.0])),
        ];
        let figure = figure("read", "MB/s", &measured);
        assert_eq!(figure.systems[0].median, 20.0);
        assert_eq!(figure.systems[0].ours_to_peer, None);
        assert_eq!(figure.systems[1].ours_to_peer, Some(0.5));
    }
}
