//! Walking a tree of many small files, half of them segments.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Bench;
use super::error::{FsBenchError, Result, at};
use super::figures::{Figure, Sample};
use super::stage::run;
use super::system::System;
use super::volume::Volume;

/// Files of a directory.
const IN_ONE: u32 = 1000;

impl<'a> Bench<'a> {
    /// Entries a second: of a mount that knows nothing yet, and once more.
    pub(super) fn metadata(&self) -> Result<Vec<Figure>> {
        let files = self.plan.files;
        let ours = Volume::over(
            self.stage,
            System::Ours,
            u64::from(files) * 8192,
            |folder| self.tree(folder),
        )?;
        let tree = ours.what().to_path_buf();
        let peers = [System::Bindfs];
        let ours = std::cell::Cell::new(Some(ours));
        let make = |system| match ours.take() {
            Some(ours) => Ok(ours),
            None => Volume::beside(self.stage, system, &tree),
        };
        let mut volumes = self.volumes(&peers, make)?;
        // Ours is unmounted last: its disk carries the others.
        volumes.reverse();
        count(Command::new("find").arg(&tree).args(["-printf", "%s\n"]))?;
        let figures = [
            ("metadata: find, first", "1/s"),
            ("metadata: find, again", "1/s"),
            ("metadata: ls -lR, first", "1/s"),
            ("metadata: ls -lR, again", "1/s"),
        ];
        let mut figures = self.rounds(&figures, &mut volumes, |volume| self.walk(volume))?;
        for figure in &mut figures {
            figure.systems.reverse();
        }
        Ok(figures)
    }

    fn walk(&self, volume: &mut Volume<'a>) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for list in [["find", "-P"], ["ls", "-lR"]] {
            volume.remount()?;
            for _ in 0..2 {
                let start = Instant::now();
                let lines = count(Command::new(list[0]).arg(list[1]).arg(&volume.root))?;
                samples.push(Sample::of(
                    f64::from(self.plan.files) / start.elapsed().as_secs_f64(),
                ));
                if lines < self.plan.files as usize {
                    return Err(FsBenchError::Different {
                        system: volume.system.name(),
                        path: volume.root.clone(),
                    });
                }
            }
        }
        Ok(samples)
    }

    /// Small files, every other one a segment, as packing leaves them.
    fn tree(&self, folder: &Path) -> Result<()> {
        let text = "2026-01-01T00:00:00.000Z,pump1,temperature,21.5\n".repeat(100);
        let sample = self.stage.path("sample.csv");
        fs::write(&sample, &text).map_err(at(&sample))?;
        run(self.stage.vortex("compress").arg("-k").arg(&sample))?;
        let mut segment = sample.into_os_string();
        segment.push(".vortex");
        let segment = fs::read(&segment).map_err(at(Path::new(&segment)))?;
        for number in 0..self.plan.files {
            let inside = folder.join(format!("{:04}", number / IN_ONE));
            if number % IN_ONE == 0 {
                self.stage.check_stop()?;
                fs::create_dir(&inside).map_err(at(&inside))?;
            }
            let (name, content) = match number % 2 {
                0 => (format!("reading{number:07}.csv.vortex"), &segment[..]),
                _ => (format!("reading{number:07}.csv"), text.as_bytes()),
            };
            let path = inside.join(name);
            fs::write(&path, content).map_err(at(&path))?;
        }
        Ok(())
    }
}

/// Lines that a program prints.
fn count(command: &mut Command) -> Result<usize> {
    let shown = command.get_program().display().to_string();
    let failed = |message: String| FsBenchError::Command {
        command: shown.clone(),
        message,
    };
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(output.stdout.iter().filter(|&&b| b == b'\n').count())
}
