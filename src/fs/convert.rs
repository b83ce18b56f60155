//! Converting a file between plain and segment in the middle of a rename, which is then atomic.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::Fs;
use super::attr::Kind;
use super::errno::{FsError, Result};
use super::files::Hold;
use super::namespace::Found;
use super::node::Node;
use super::rename::End;
use super::repack::Snapshot;
use super::swap::Outcome;
use crate::store::{BlockSource, Encoding, KeyRun, SealOptions, TempFile, names, seal};

/// Conversions that are begun anew because somebody wrote to the file.
const ATTEMPTS: usize = 10;

/// Bytes copied at a time.
const COPY: usize = 1 << 20;

impl Fs {
    /// Gives a file the other form; `None` if it is no regular file with one name, or became one with several meanwhile. The caller
    /// holds the directory's entries exclusively.
    pub(super) fn convert(
        &self,
        at: End<'_>,
        found: &Found,
        form: names::Kind,
    ) -> Result<Option<Found>> {
        if found.kind() != Kind::File || found.stat.st_nlink > 1 {
            return Ok(None);
        }
        self.try_convert(at, found, form, false)
    }

    /// The same for one name of a file, which is about to be replaced: the others keep what they have.
    pub(super) fn convert_name(
        &self,
        at: End<'_>,
        found: &Found,
        form: names::Kind,
    ) -> Result<Found> {
        self.try_convert(at, found, form, true)?
            .ok_or(FsError::Internal)
    }

    fn try_convert(
        &self,
        at: End<'_>,
        found: &Found,
        form: names::Kind,
        one_of_many: bool,
    ) -> Result<Option<Found>> {
        for _ in 0..ATTEMPTS {
            let hold = self.hold_found(at.dir, at.name, found)?;
            let snapshot = self.snapshot_of(Arc::clone(at.dir), at.name, hold)?;
            if snapshot.links() > 1 && !one_of_many {
                return Ok(None);
            }
            let temp = self.archive.temp_file()?;
            match form {
                names::Kind::Segment => self.seal_fresh(&snapshot, &temp)?,
                names::Kind::Other => copy_out(&snapshot, &temp)?,
            }
            let (node, version) = (&snapshot.hold.node, snapshot.version);
            if self.swap_in(at, node, version, temp, form, one_of_many)? == Outcome::Swapped {
                return self.find(at.dir, at.name);
            }
        }
        Err(FsError::Backing(rustix::io::Errno::BUSY))
    }

    /// Makes a plain file a segment, unless somebody writes to it meanwhile.
    pub(super) fn seal_in_place(&self, dir: &Node, name: &std::ffi::OsStr) -> Result<()> {
        let snapshot = self.snapshot_at(dir.id, name)?;
        let temp = self.archive.temp_file()?;
        self.seal_fresh(&snapshot, &temp)?;
        self.finish_repack(snapshot, temp).map(drop)
    }

    /// Seals on a thread of its own: a caller in a thread pool must not run other requests of the pool while it waits,
    /// because they may need the locks that it holds.
    fn seal_fresh(&self, snapshot: &Snapshot<'_>, temp: &TempFile) -> Result<()> {
        let options = SealOptions {
            block_size: self.options.block_size,
            encoding: Encoding::Fresh,
            key_run: KeyRun::NONE,
            primer: None,
            jobs: self.options.jobs,
            progress: None,
            cancel: None,
        };
        let library = self.archive.library();
        std::thread::scope(|scope| {
            let sealing = scope.spawn(|| seal(snapshot, temp, library, &options));
            sealing.join().map_err(|_| FsError::Internal)
        })??;
        Ok(())
    }

    /// Holds the node of an entry.
    pub(super) fn hold_found(
        &self,
        dir: &Node,
        name: &std::ffi::OsStr,
        found: &Found,
    ) -> Result<Hold<'_>> {
        let node = self.node_of(dir, name, found)?;
        let hold = self.hold(node.id);
        self.forget(node.id, 1);
        hold
    }
}

/// Writes the content to a plain file, holes left out.
pub(super) fn copy_out(snapshot: &Snapshot<'_>, temp: &TempFile) -> Result<()> {
    temp.file().set_len(snapshot.len())?;
    let mut buf = vec![0; COPY];
    let mut at = 0;
    while let Some(data) = snapshot.next_data(at)? {
        let len = usize::try_from(snapshot.len() - data)
            .unwrap_or(COPY)
            .min(COPY);
        let part = buf.get_mut(..len).unwrap_or_default();
        snapshot.read_at(part, data)?;
        if part.iter().any(|&b| b != 0) {
            temp.file().write_all_at(part, data)?;
        }
        at = data + len as u64;
    }
    Ok(())
}
