//! Programs that log: short appends to several files at once, synced every second.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use super::error::{FsBenchError, Result, at};
use super::figures::{Figure, Sample};
use super::system::System;
use super::volume::Volume;

/// Files that grow at the same time.
const FILES: u32 = 8;

/// Bytes of one append.
const RECORD: usize = 200;

/// One append of so many is timed by itself.
const TIMED: u32 = 16;

impl Bench<'_> {
    /// Appends a second, of all files together, with the syncs; every record is read back and compared.
    pub(super) fn logger(&self) -> Result<Vec<Figure>> {
        let bytes = u64::from(FILES) * u64::from(self.plan.appends) * RECORD as u64;
        let peers = [System::Btrfs, System::Ext4];
        let make = |system| Volume::empty(self.stage, system, bytes);
        let figures = [("logger: appends of 200 bytes", "1/s")];
        self.rounds(&figures, &mut self.volumes(&peers, make)?, |volume| {
            self.log_once(volume)
        })
    }

    fn log_once(&self, volume: &mut Volume<'_>) -> Result<Vec<Sample>> {
        let appends = self.plan.appends;
        let paths: Vec<_> = (0..FILES)
            .map(|n| volume.root.join(format!("{n}.log")))
            .collect();
        let start = Instant::now();
        let logged: Vec<Result<Vec<f64>>> = thread::scope(|scope| {
            let start = |file: u32, path| scope.spawn(move || log(path, file, appends));
            let named = (0..).zip(&paths);
            let threads: Vec<_> = named.map(|(file, path)| start(file, path)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        let took = start.elapsed();
        let mut sample = Sample::of(f64::from(FILES * appends) / took.as_secs_f64());
        for times in logged {
            sample.latencies.extend(times?);
        }
        volume.remount()?;
        for (file, path) in (0..).zip(&paths) {
            let same =
                fs::read(volume.root.join(path)).map_err(at(path))? == expected(file, appends);
            if !same {
                return Err(FsBenchError::Different {
                    system: volume.system.name(),
                    path: path.clone(),
                });
            }
            fs::remove_file(path).map_err(at(path))?;
        }
        Ok(vec![sample])
    }
}

/// Writes one file; answers how long single appends took, in microseconds.
fn log(path: &Path, file: u32, appends: u32) -> Result<Vec<f64>> {
    let run = || -> std::io::Result<Vec<f64>> {
        let mut out = File::options().append(true).create_new(true).open(path)?;
        let (mut times, mut synced) = (Vec::new(), Instant::now());
        for number in 0..appends {
            let record = record(file, number);
            if number % TIMED == 0 {
                let start = Instant::now();
                out.write_all(&record)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            } else {
                out.write_all(&record)?;
            }
            if synced.elapsed() >= Duration::from_secs(1) {
                out.sync_data()?;
                synced = Instant::now();
            }
        }
        out.sync_all()?;
        Ok(times)
    };
    run().map_err(at(path))
}

/// A line that tells its file and place, with readings that change.
fn record(file: u32, number: u32) -> [u8; RECORD] {
    let mut record = [b' '; RECORD];
    let phase = f64::from(number) / 500.0;
    let text = format!(
        "{:.3} sensor{file:02} {number:09} temperature={:.3} pressure={:.2} speed={} state=running",
        1.7e9 + f64::from(number) / 100.0,
        20.0 + 5.0 * phase.sin(),
        1013.0 + phase.cos(),
        number.wrapping_mul(2_654_435_761) >> 16
    );
    let len = text.len().min(RECORD - 1);
    record[..len].copy_from_slice(&text.as_bytes()[..len]);
    record[RECORD - 1] = b'\n';
    record
}

fn expected(file: u32, appends: u32) -> Vec<u8> {
    (0..appends)
        .flat_map(|number| record(file, number))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_holds_every_record_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let times = log(&path, 3, 100).unwrap();
        assert_eq!(times.len(), 7);
        let data = fs::read(&path).unwrap();
        assert_eq!(data, expected(3, 100));
        assert_eq!(data.len(), 100 * RECORD);
        assert_ne!(record(3, 1), record(4, 1));
        assert_ne!(record(3, 1), record(3, 2));
    }
}
