//! Reading: from the page cache, from our cache of decoded blocks, and from the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use super::Bench;
use super::error::{Result, at};
use super::figures::{Figure, Sample};
use super::system::System;
use super::volume::Volume;

/// Bytes of a read in order.
const LONG: usize = 1 << 20;

/// Bytes of a read at a random place.
const SHORT: usize = 4096;

/// Passes over files in memory that make one round.
const PASSES: u32 = 8;

/// Requests of a round that ask next to nothing.
const REQUESTS: u32 = 4000;

impl<'a> Bench<'a> {
    /// From the system's page cache: of files that are open, and with opening and closing them. Through bindfs, too, which adds
    /// nothing of its own to what the kernel does for a FUSE file system.
    pub(super) fn warm(&self) -> Result<Vec<Figure>> {
        let peers = [System::Ext4, System::Bindfs];
        let mut volumes = self.volumes(&peers, |system| self.filled(system))?;
        let figures = [
            ("read: page cache", "MB/s"),
            ("read: page cache, with open and close", "MB/s"),
        ];
        self.rounds(&figures, &mut volumes, |volume| {
            // The same files in other pages: where in memory they lie alone makes reading them up to twice as fast.
            volume.make_cold()?;
            self.warm_once(volume)
        })
    }

    fn warm_once(&self, volume: &Volume<'_>) -> Result<Vec<Sample>> {
        let opened = open_all(&volume.root, &self.files)?;
        self.read_opened(&opened)?;
        let (start, mut bytes) = (Instant::now(), 0);
        for _ in 0..PASSES {
            bytes += self.read_opened(&opened)?;
        }
        let open = speed(bytes, start);
        drop(opened);
        let (start, mut bytes) = (Instant::now(), 0);
        for _ in 0..PASSES {
            bytes += self.read_all(&volume.root)?;
        }
        Ok(vec![open, speed(bytes, start)])
    }

    /// From the daemon's cache: the system's page cache is told to forget each file first. Beside ext4 whose disk is in memory.
    pub(super) fn cached(&self) -> Result<Vec<Figure>> {
        // As many files as fit the cache.
        let (mut files, mut room) = (Vec::new(), self.plan.cache_bytes * 3 / 4);
        for file in &self.files {
            let path = self.source.join(file);
            let len = path.metadata().map_err(at(&path))?.len();
            if len <= room {
                room -= len;
                files.push(file.clone());
            }
        }
        let mut volumes = self.volumes(&[System::Ext4], |system| self.filled(system))?;
        let figures = [("read: cache of decoded blocks", "MB/s")];
        self.rounds(&figures, &mut volumes, |volume| {
            let opened = open_all(&volume.root, &files)?;
            self.read_opened(&opened)?;
            let (mut bytes, mut took) = (0, 0.0);
            for _ in 0..PASSES {
                for file in &opened {
                    let forgotten = fadvise(&file.file, 0, None, Advice::DontNeed);
                    forgotten.map_err(|e| at(&file.path)(e.into()))?;
                }
                let start = Instant::now();
                bytes += self.read_opened(&opened)?;
                took += start.elapsed().as_secs_f64();
            }
            Ok(vec![Sample::of(bytes as f64 / took / 1e6)])
        })
    }

    /// From the disk, compressed.
    pub(super) fn cold(&self) -> Result<Vec<Figure>> {
        let peers = [
            System::Squashfuse,
            System::Squashfs,
            System::Erofs,
            System::Btrfs,
        ];
        let make = |system| match system {
            System::Ours | System::Btrfs => self.filled(system),
            _ => {
                let (bytes, block) = (self.plan.bytes, self.plan.block_size);
                Volume::image(self.stage, system, &self.source, bytes, block)
            }
        };
        let mut volumes = self.volumes(&peers, make)?;
        for volume in &volumes {
            self.compare(volume.system, &volume.root)?;
        }
        let figures = [
            ("read: cold, in order", "MB/s"),
            ("read: cold, 4 KiB at random", "1/s"),
        ];
        self.rounds(&figures, &mut volumes, |volume| self.cold_once(volume))
    }

    fn cold_once(&self, volume: &mut Volume<'a>) -> Result<Vec<Sample>> {
        volume.make_cold()?;
        let start = Instant::now();
        let bytes = self.read_all(&volume.root)?;
        let in_order = speed(bytes, start);
        volume.make_cold()?;
        Ok(vec![in_order, self.read_at_random(&volume.root)?])
    }

    /// Files that are kept as they are: through our mount, and on the same disk without it. Both of them writable, then read-only,
    /// as archives that are kept are mounted.
    pub(super) fn plain(&self) -> Result<Vec<Figure>> {
        let make = |system| match system {
            System::Ours => Volume::over(self.stage, system, self.plan.bytes, |folder| {
                self.copy_to(folder)
            }),
            _ => self.filled(system),
        };
        let mut volumes = self.volumes(&[System::Ext4, System::Bindfs], make)?;
        let each = |volume: &mut Volume<'a>| {
            let mut samples = self.cold_once(volume)?;
            samples.extend(self.warm_once(volume)?);
            Ok(samples)
        };
        let figures = [
            ("plain file: cold, in order", "MB/s"),
            ("plain file: cold, 4 KiB at random", "1/s"),
            ("plain file: page cache", "MB/s"),
            ("plain file: page cache, with open and close", "MB/s"),
        ];
        let mut measured = self.rounds(&figures, &mut volumes, each)?;
        for volume in &mut volumes {
            volume.make_read_only()?;
        }
        let figures = [
            ("plain file, read-only: cold, in order", "MB/s"),
            ("plain file, read-only: cold, 4 KiB at random", "1/s"),
            ("plain file, read-only: page cache", "MB/s"),
            (
                "plain file, read-only: page cache, with open and close",
                "MB/s",
            ),
            ("plain file, read-only: statfs, one after another", "1/s"),
        ];
        let each = |volume: &mut Volume<'a>| {
            let mut samples = each(volume)?;
            samples.push(ask(&volume.root)?);
            Ok(samples)
        };
        measured.extend(self.rounds(&figures, &mut volumes, each)?);
        Ok(measured)
    }

    /// A file system with the telemetry.
    fn filled(&self, system: System) -> Result<Volume<'a>> {
        let mut volume = Volume::empty(self.stage, system, self.plan.bytes)?;
        self.copy_to(&volume.root)?;
        volume.remount()?;
        Ok(volume)
    }

    /// Opens, reads and closes all files in order, each by one of the threads; answers the number of bytes.
    fn read_all(&self, root: &Path) -> Result<u64> {
        let (threads, files) = (self.plan.threads, &self.files);
        let each = |thread: usize| {
            let (mut buffer, mut sum) = (vec![0; LONG], 0);
            for file in files.iter().skip(thread).step_by(threads) {
                sum += Opened::open(root, file)?.read(&mut buffer)?;
            }
            Ok(sum)
        };
        Ok(in_threads(threads, each)?.into_iter().sum())
    }

    fn read_opened(&self, opened: &[Opened]) -> Result<u64> {
        let threads = self.plan.threads;
        let each = |thread: usize| {
            let (mut buffer, mut sum) = (vec![0; LONG], 0);
            for file in opened.iter().skip(thread).step_by(threads) {
                sum += file.read(&mut buffer)?;
            }
            Ok(sum)
        };
        Ok(in_threads(threads, each)?.into_iter().sum())
    }

    /// Opens all files, which counts, too, because some of what is read may be fetched then, and reads pieces of them.
    fn read_at_random(&self, root: &Path) -> Result<Sample> {
        let start = Instant::now();
        let opened = open_all(root, &self.files)?;
        let reads = self.plan.reads as usize / self.plan.threads;
        let each = |thread: usize| {
            let mut random = Random(thread as u64 + 1);
            let (mut buffer, mut times) = ([0; SHORT], Vec::with_capacity(reads));
            for _ in 0..reads {
                let Opened { path, file, len } =
                    &opened[random.below(opened.len() as u64) as usize];
                let place = random.below(len.saturating_sub(SHORT as u64) + 1);
                let start = Instant::now();
                file.read_at(&mut buffer, place).map_err(at(path))?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times)
        };
        let latencies = in_threads(self.plan.threads, each)?.concat();
        Ok(Sample {
            value: latencies.len() as f64 / start.elapsed().as_secs_f64(),
            latencies,
            peak_memory: None,
        })
    }
}

/// A file that is read.
pub(super) struct Opened {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Opened {
    pub(super) fn open(root: &Path, file: &Path) -> Result<Opened> {
        let path = root.join(file);
        let file = File::open(&path).map_err(at(&path))?;
        let len = file.metadata().map_err(at(&path))?.len();
        Ok(Opened { path, file, len })
    }

    /// Reads it from its beginning to its end.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<u64> {
        let mut sum = 0;
        loop {
            match self.file.read_at(buffer, sum).map_err(at(&self.path))? {
                0 => return Ok(sum),
                n => sum += n as u64,
            }
        }
    }
}

fn open_all(root: &Path, files: &[PathBuf]) -> Result<Vec<Opened>> {
    files.iter().map(|file| Opened::open(root, file)).collect()
}

/// Does `work` in so many threads at once.
fn in_threads<T: Send>(threads: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<T>>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    })
}

/// What a request costs that asks next to nothing: for `statfs` the kernel asks a FUSE file system each time.
fn ask(root: &Path) -> Result<Sample> {
    let folder = File::open(root).map_err(at(root))?;
    let start = Instant::now();
    for _ in 0..REQUESTS {
        rustix::fs::fstatvfs(&folder).map_err(|e| at(root)(e.into()))?;
    }
    Ok(Sample::of(
        f64::from(REQUESTS) / start.elapsed().as_secs_f64(),
    ))
}

fn speed(bytes: u64, start: Instant) -> Sample {
    Sample::of(bytes as f64 / start.elapsed().as_secs_f64() / 1e6)
}

/// The same places in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % bound.max(1)
    }
}
