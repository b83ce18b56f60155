//! Reading a packed file in order: how much of it the daemon decodes beside what is read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::error::{FsBenchError, Result, at};
use super::figures::{Figure, Sample};
use super::read::Opened;
use super::stage::run;
use super::system::System;
use super::volume::{Volume, files_below};
use super::{Bench, telemetry};

/// The most bytes of the file.
const LARGEST: u64 = 8 << 20;

/// Its name.
const NAME: &str = "recording";

impl<'a> Bench<'a> {
    /// A long recording, made of the longest file, packed and mounted anew with all caches empty: by a daemon that may use one core,
    /// and by one that may use all.
    pub(super) fn neural(&self) -> Result<Vec<Figure>> {
        let source = self.recording()?;
        let bytes = LARGEST.min(self.plan.bytes);
        let volume = Volume::over(self.stage, System::Ours, bytes, |folder| {
            fs::copy(source.join(NAME), folder.join(NAME)).map_err(at(folder))?;
            run(self.stage.vortex("pack").arg(folder))
        })?;
        let read = |path: &Path| fs::read(path.join(NAME)).map_err(at(path));
        if read(&volume.root)? != read(&source)? {
            return Err(FsBenchError::Different {
                system: volume.system.name(),
                path: volume.root.join(NAME),
            });
        }
        let figures = [
            ("read: cold, neural, in order, one core", "KB/s"),
            ("read: cold, neural, in order, all cores", "KB/s"),
        ];
        self.rounds(&figures, &mut [volume], |volume| {
            on_one_core(|| volume.make_cold())?;
            let one = read_once(volume)?;
            volume.make_cold()?;
            Ok(vec![one, read_once(volume)?])
        })
    }

    /// A directory with the file: the longest one of the telemetry again and again, with other readings.
    fn recording(&self) -> Result<PathBuf> {
        let len = |path: &PathBuf| path.metadata().map_or(0, |m| m.len());
        let files = self.files.iter().map(|file| self.source.join(file));
        let longest = files.max_by_key(len).ok_or(FsBenchError::NoData)?;
        let parts = self.stage.folder("recordings")?;
        telemetry::make(&parts, &[longest], LARGEST.min(self.plan.bytes), 1)?;
        let whole = self.stage.folder("recording")?;
        let path = whole.join(NAME);
        let mut out = File::create(&path).map_err(at(&path))?;
        for part in files_below(&parts)? {
            let part = parts.join(part);
            let data = fs::read(&part).map_err(at(&part))?;
            out.write_all(&data).map_err(at(&path))?;
        }
        Ok(whole)
    }
}

fn read_once(volume: &Volume<'_>) -> Result<Sample> {
    let start = Instant::now();
    let bytes = Opened::open(&volume.root, Path::new(NAME))?.read(&mut vec![0; 1 << 20])?;
    Ok(Sample::of(
        bytes as f64 / start.elapsed().as_secs_f64() / 1e3,
    ))
}

/// Whatever this starts may use one core only, as long as it lives.
fn on_one_core<T>(start: impl FnOnce() -> Result<T>) -> Result<T> {
    let failed = |e: rustix::io::Errno| at(Path::new("cores"))(io::Error::from(e));
    let all = sched_getaffinity(None).map_err(failed)?;
    let mut one = CpuSet::new();
    if let Some(core) = (0..CpuSet::MAX_CPU).find(|&core| all.is_set(core)) {
        one.set(core);
    }
    sched_setaffinity(None, &one).map_err(failed)?;
    let started = start();
    sched_setaffinity(None, &all).map_err(failed)?;
    started
}
