//! Records the machine's counters at a fixed rate, each source as binary records and as CSV, as loggers do.
//!
//! A binary record is the time in nanoseconds since the start, then every value, each a little-endian u64. The
//! file `timing` records the recorder itself: how late each sample began and how long it took.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::counters::Counters;

/// How long and how often to sample.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Length of the recording.
    pub duration: Duration,
    /// Samples a second.
    pub rate: u32,
}

/// Writes the recordings into the directory `into`, until the time is up or `stop` says so, and gives their paths.
///
/// # Errors
/// I/O errors.
pub fn record(into: &Path, pace: Pace, stop: impl Fn() -> bool) -> io::Result<Vec<PathBuf>> {
    let mut sources = Counters::open_all()?;
    let mut logs = Vec::with_capacity(sources.len());
    for source in &sources {
        logs.push(Log::create(
            into,
            source.name(),
            source.fields().iter().map(String::as_str),
        )?);
    }
    let mut timing = Log::create(
        into,
        "timing",
        ["late_ns", "read_ns", "written_ns"].into_iter(),
    )?;
    let start = Instant::now();
    let period = Duration::from_secs(1) / pace.rate.max(1);
    let mut values = Vec::new();
    let mut due = Duration::ZERO;
    while due < pace.duration && !stop() {
        thread::sleep(due.saturating_sub(start.elapsed()));
        let began = start.elapsed();
        let mut read = Duration::ZERO;
        for (source, log) in sources.iter_mut().zip(&mut logs) {
            let before = start.elapsed();
            source.read(&mut values)?;
            read += start.elapsed() - before;
            log.write(began, &values)?;
        }
        let written = start.elapsed() - began;
        timing.write(
            began,
            &[
                nanos(began.saturating_sub(due)),
                nanos(read),
                nanos(written),
            ],
        )?;
        due += period;
    }
    logs.push(timing);
    let mut paths = Vec::new();
    for log in logs {
        paths.extend(log.finish()?);
    }
    paths.sort();
    Ok(paths)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One source's two files.
struct Log {
    binary: (PathBuf, BufWriter<File>),
    csv: (PathBuf, BufWriter<File>),
}

impl Log {
    fn create<'a>(
        into: &Path,
        name: &str,
        fields: impl Iterator<Item = &'a str>,
    ) -> io::Result<Log> {
        let create = |end: &str| -> io::Result<(PathBuf, BufWriter<File>)> {
            let path = into.join(format!("{name}.{end}"));
            let file = File::create_new(&path)?;
            Ok((path, BufWriter::with_capacity(1 << 16, file)))
        };
        let mut log = Log {
            binary: create("bin")?,
            csv: create("csv")?,
        };
        let header: Vec<&str> = std::iter::once("seconds").chain(fields).collect();
        writeln!(log.csv.1, "{}", header.join(","))?;
        Ok(log)
    }

    fn write(&mut self, at: Duration, values: &[u64]) -> io::Result<()> {
        let binary = &mut self.binary.1;
        binary.write_all(&nanos(at).to_le_bytes())?;
        let csv = &mut self.csv.1;
        write!(csv, "{:.6}", at.as_secs_f64())?;
        for value in values {
            binary.write_all(&value.to_le_bytes())?;
            write!(csv, ",{value}")?;
        }
        writeln!(csv)
    }

    fn finish(self) -> io::Result<[PathBuf; 2]> {
        let [(binary, mut a), (csv, mut b)] = [self.binary, self.csv];
        a.flush()?;
        b.flush()?;
        Ok([binary, csv])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_text_hold_the_same_values() {
        let dir = tempfile::tempdir().unwrap();
        let pace = Pace {
            duration: Duration::from_millis(100),
            rate: 100,
        };
        let paths = record(dir.path(), pace, || false).unwrap();
        assert!(paths.len() >= 4);
        for binary in paths
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == "bin"))
        {
            let raw = std::fs::read(binary).unwrap();
            let text = std::fs::read_to_string(binary.with_extension("csv")).unwrap();
            let mut lines = text.lines();
            let columns = lines.next().unwrap().split(',').count();
            let rows: Vec<&str> = lines.collect();
            assert_eq!(rows.len(), 10, "{}", binary.display());
            assert_eq!(raw.len(), 10 * 8 * columns);
            for (record, row) in raw.chunks(8 * columns).zip(rows) {
                let values = record
                    .chunks(8)
                    .map(|v| u64::from_le_bytes(v.try_into().unwrap()));
                let words: Vec<u64> = row.split(',').skip(1).map(|w| w.parse().unwrap()).collect();
                assert_eq!(values.skip(1).collect::<Vec<_>>(), words);
            }
        }
    }

    #[test]
    fn recording_stops_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        record(
            dir.path(),
            Pace {
                duration: Duration::from_secs(60),
                rate: 10,
            },
            || true,
        )
        .unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
