//! Copying telemetry in.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Bench;
use super::error::{FsBenchError, Result, at};
use super::figures::{Figure, Sample};
use super::system::System;
use super::volume::Volume;

impl Bench<'_> {
    /// `cp -r`, and unmounting after it, which is when all is stored.
    pub(super) fn ingest(&self) -> Result<Vec<Figure>> {
        let peers = [System::Btrfs, System::Ext4];
        let make = |system| Volume::empty(self.stage, system, self.plan.bytes);
        let figures = [("ingest: cp", "MB/s"), ("ingest: cp and unmount", "MB/s")];
        self.rounds(&figures, &mut self.volumes(&peers, make)?, |volume| {
            self.ingest_once(volume)
        })
    }

    fn ingest_once(&self, volume: &mut Volume<'_>) -> Result<Vec<Sample>> {
        let to = volume.root.join("in");
        if to.exists() {
            fs::remove_dir_all(&to).map_err(at(&to))?;
        }
        volume.remount()?;
        fs::create_dir(&to).map_err(at(&to))?;
        for file in &self.files {
            // What is copied comes from the page cache.
            let from = self.source.join(file);
            fs::read(&from).map_err(at(&from))?;
        }
        rustix::fs::sync();
        let start = Instant::now();
        let copies: Vec<Child> = (0..self.plan.threads)
            .map(|part| copy(&self.source.join(format!("part{part}")), &to))
            .collect::<Result<_>>()?;
        for mut copying in copies {
            if !copying.wait().map_err(at(&to))?.success() {
                return Err(FsBenchError::Command {
                    command: format!("cp -r {} {}", self.source.display(), to.display()),
                    message: "see above".to_owned(),
                });
            }
        }
        let copied = start.elapsed();
        let memory = volume.peak_memory();
        volume.unmount()?;
        let stored = start.elapsed();
        volume.mount()?;
        self.compare(volume.system, &to)?;
        let sample = |took: Duration| Sample {
            peak_memory: memory,
            ..Sample::of(self.plan.bytes as f64 / took.as_secs_f64() / 1e6)
        };
        Ok(vec![sample(copied), sample(stored)])
    }
}

fn copy(from: &Path, to: &Path) -> Result<Child> {
    let mut cp = Command::new("cp");
    cp.arg("-r").arg(from).arg(to).stdin(Stdio::null());
    cp.spawn().map_err(at(Path::new("cp")))
}
