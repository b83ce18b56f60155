//! An archive on the recorder, and what it should show.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use vortex_fs::fs::{Fh, Fs, NodeId, SetAttr};
use vortex_fs::pack::protocol::{Job, Summary};
use vortex_fs::pack::{Defaults, Direction, run};
use vortex_fs::store::{Access, Archive, Cancel};

use crate::crash::{Recover, every_crash};
use crate::disk::Disk;
use crate::recorder::{Event, Recorder};
use crate::tree::{Attributes, Known, Seen, Tree, What, me, options, recover};

pub const RDWR: i32 = 2;
pub const ROOT: NodeId = NodeId::ROOT;

pub fn os(name: &str) -> &OsStr {
    OsStr::new(name)
}

/// Bytes that no codec makes smaller, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub struct World {
    fs: Option<Arc<Fs>>,
    pub recorder: Recorder,
    tree: Tree,
    begun: Option<(Disk, Tree)>,
}

impl World {
    /// `None`, with the reason printed, where this machine can not mount.
    pub fn bare() -> Option<World> {
        Some(World {
            recorder: Recorder::mount()?,
            fs: None,
            tree: Tree::new(),
            begun: None,
        })
    }

    /// With an archive on it.
    pub fn new() -> Option<World> {
        let world = World::bare()?;
        Archive::init(world.recorder.path()).unwrap();
        Some(world)
    }

    /// A file that was there before the archive was mounted.
    pub fn plain(&mut self, name: &str, content: &[u8]) {
        let path = self.recorder.path().join(name);
        let mut new = OpenOptions::new();
        let mut file = new
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(path)
            .unwrap();
        file.write_all(content).unwrap();
        let mut seen = Seen::file(content);
        seen.attributes.mode = 0o640;
        self.tree.insert(name.into(), seen);
    }

    /// A directory that was there before.
    pub fn dir(&mut self, name: &str) {
        let mut new = DirBuilder::new();
        new.mode(0o700)
            .create(self.recorder.path().join(name))
            .unwrap();
        self.tree.insert(name.into(), Seen::dir());
    }

    pub fn open(&mut self) {
        let archive = Archive::open(self.recorder.path(), Access::Write).unwrap();
        self.fs = Some(Fs::new(archive, options()).unwrap());
    }

    pub fn fs(&self) -> &Arc<Fs> {
        self.fs.as_ref().expect("open it first")
    }

    /// Ends the file system without storing what is not stored.
    pub fn close(&mut self) {
        if let Some(fs) = self.fs.take() {
            fs.abandon();
        }
    }

    /// The workload begins: all that is there now is durable.
    pub fn begin(&mut self) -> Disk {
        let (_, disk) = self.recorder.take();
        self.begun = Some((disk.clone(), self.tree.clone()));
        disk
    }

    /// The same, where what is to be seen is not what a mount shows.
    pub fn begin_with(&mut self, tree: Tree) {
        self.tree = tree;
        self.begin();
    }

    /// From here on the tree may be found changed like this.
    pub fn will(&mut self, change: impl FnOnce(&mut Tree)) {
        change(&mut self.tree);
        self.may_be();
    }

    /// Changes what the tree will be, without saying so yet.
    pub fn will_with(&mut self, name: &str, seen: Seen) {
        self.tree.insert(name.into(), seen);
    }

    /// From here on the present tree may be found.
    pub fn may_be(&mut self) {
        self.recorder.say(Event::Attempt(self.tree.clone()));
    }

    /// Nothing older than the present tree may be found.
    pub fn is_durable(&mut self) {
        self.recorder.say(Event::Durable(self.tree.clone()));
    }

    pub fn will_be(&mut self, name: &str, content: &[u8]) {
        self.will(|tree| {
            let seen = tree.entry(name.into()).or_insert(Seen::file(b""));
            seen.what = What::File(Arc::new(content.to_vec()));
            // It changes with the content.
            seen.attributes.mtime = None;
        });
    }

    /// From here on the attributes of what has this name may be found changed like this.
    pub fn will_have(&mut self, name: &str, change: impl FnOnce(&mut Attributes)) {
        self.will(|tree| {
            let seen = tree.get_mut(Path::new(name)).expect("what has attributes");
            change(&mut seen.attributes);
        });
    }

    /// What has this name, as it should be.
    pub fn seen(&self, name: &str) -> Seen {
        self.tree[Path::new(name)].clone()
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        match &self.tree[Path::new(name)].what {
            What::File(content) => content.to_vec(),
            _ => panic!("{name} is no file"),
        }
    }

    pub fn node(&self, name: &str) -> NodeId {
        self.fs().resolve(Path::new(name)).unwrap()
    }

    pub fn create(&mut self, dir: NodeId, name: &str, path: &str) -> Fh {
        self.will_be(path, b"");
        let made = self.fs().create(dir, os(name), 0o600, RDWR, me()).unwrap();
        made.2
    }

    /// Writes at an offset, which the tree then may show.
    pub fn write(&mut self, fh: Fh, path: &str, offset: usize, bytes: &[u8]) {
        let mut content = self.content(path);
        content.resize(content.len().max(offset + bytes.len()), 0);
        content[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.will_be(path, &content);
        assert_eq!(
            self.fs().write(fh, offset as u64, bytes).unwrap(),
            bytes.len()
        );
    }

    pub fn truncate(&mut self, path: &str, size: usize) {
        let mut content = self.content(path);
        content.resize(size, 0);
        self.will_be(path, &content);
        let set = SetAttr {
            size: Some(size as u64),
            ..SetAttr::default()
        };
        self.fs().setattr(self.node(path), None, set).unwrap();
    }

    /// Syncs an open file; all that was done so far was done to it.
    pub fn sync(&mut self, fh: Fh, content_only: bool) {
        self.fs().fsync(fh, content_only).unwrap();
        self.is_durable();
    }

    /// Syncs a directory; all that was done so far was done to its names.
    pub fn sync_dir(&mut self, dir: NodeId) {
        let fh = self.fs().opendir(dir).unwrap();
        self.fs().fsyncdir(fh).unwrap();
        self.fs().releasedir(fh).unwrap();
        self.is_durable();
    }

    /// A file of the archive, stored and synced.
    pub fn segment(&mut self, name: &str, content: &[u8]) {
        let fh = self.create(ROOT, name, name);
        self.write(fh, name, 0, content);
        self.sync(fh, false);
        self.fs().release(fh).unwrap();
    }

    /// Packs or unpacks everything, which changes nothing that is to be seen and is durable when it is done.
    pub fn job(&mut self, direction: Direction, job: Job) -> Summary {
        let job = Job {
            paths: vec![String::new()],
            jobs: Some(1),
            ..job
        };
        let (defaults, cancel) = (Defaults::default(), Cancel::default());
        let done = run(self.fs(), &job, direction, &defaults, &cancel, &|_| ()).unwrap();
        assert_eq!((done.failed, done.damaged, done.skipped), (0, 0, 0));
        done
    }

    /// Stops the workload at every moment.
    pub fn survives_every_crash(self, name: &str) {
        let mut known = Known::new();
        self.survives_every_crash_as(name, &mut |disk| recover(disk, &mut known, false));
    }

    /// The same, where the archive may not be one yet.
    pub fn survives_every_crash_of_its_making(self, name: &str) {
        let mut known = Known::new();
        self.survives_every_crash_as(name, &mut |disk| recover(disk, &mut known, true));
    }

    /// The same, with a recovery and a tree of the test's own.
    pub fn survives_every_crash_as(mut self, name: &str, recover: &mut Recover<'_>) {
        self.close();
        let (events, _) = self.recorder.take();
        let (disk, tree) = self.begun.take().expect("begin the workload");
        let start = Instant::now();
        let report = match every_crash(name, disk, tree, &events, recover) {
            Ok(report) => report,
            Err(found) => panic!("{found}"),
        };
        println!(
            "{name}: {} moments, {} states left, {} different, {} trees found, {:.1} s",
            report.moments,
            report.left,
            report.different,
            report.answers,
            start.elapsed().as_secs_f64()
        );
        assert!(report.moments > 2 && report.different > 1, "{report:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.close();
    }
}

/// The names in a directory of the backing file system.
pub fn stored_names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = names
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
