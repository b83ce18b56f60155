//! Changing attributes.

use super::Fs;
use super::attr::{self, Attr, Kind, SetAttr, SetTime};
use super::content::Content;
use super::errno::Result;
use super::handles::Fh;
use super::node::NodeId;
use super::sync::write;

/// The bit that runs a program as its owner, that which runs it as its group, and that which lets the group run it.
const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_RUNS: u32 = 0o0010;

impl Fs {
    /// Takes the set-user-id bit from a file, and the set-group-id bit if its group may run it, unless it has none or the caller
    /// may `keep` them; whether it did.
    ///
    /// # Errors
    /// `EROFS`, what the backing file system answers.
    pub fn take_set_ids(&self, id: NodeId, keep: impl FnOnce() -> bool) -> Result<bool> {
        let node = self.node(id)?;
        let lost = lost_bits(node.backing()?.stat()?.st_mode);
        if node.kind != Kind::File || lost == 0 || keep() {
            return Ok(false);
        }
        let _names = self.changing()?;
        node.change_attributes(|backing| {
            let mode = backing.stat()?.st_mode;
            backing.set_mode(mode & !lost_bits(mode))
        })?;
        Ok(true)
    }

    /// Changes attributes and answers what they are then. A handle must be open for writing to change the size.
    ///
    /// # Errors
    /// `EROFS`, `EISDIR` or `EINVAL` for the size of what is no file, `EBADF`, what the backing file system answers.
    pub fn setattr(&self, id: NodeId, fh: Option<Fh>, set: SetAttr) -> Result<Attr> {
        let _names = self.changing()?;
        if let (Some(fh), Some(_)) = (fh, set.size) {
            self.handles.writable(fh)?;
        }
        let hold = self.hold(id)?;
        let node = &hold.node;
        node.change_attributes(|backing| {
            if set.uid.is_some() || set.gid.is_some() {
                backing.set_owner(set.uid, set.gid)?;
            }
            // After the owner, because a new owner takes the set-uid bits away.
            set.mode.map_or(Ok(()), |mode| backing.set_mode(mode))
        })?;
        if let Some(size) = set.size {
            self.truncate(node, size)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let mut content = write(&node.content);
            let backing = node.backing()?;
            backing.set_times(set.atime, set.mtime)?;
            if let Content::Segment(open) = &mut *content
                && open.mtime.is_some()
            {
                match set.mtime {
                    // Storing what is dirty must not change it again.
                    Some(SetTime::At(time)) => open.mtime = Some(time),
                    Some(SetTime::Now) => open.mtime = Some(attr::times(&backing.stat()?)[1]),
                    None => {}
                }
            }
        }
        self.attr_of(node)
    }
}

/// The bits of a mode that a change of the content costs.
fn lost_bits(mode: u32) -> u32 {
    match mode & GROUP_RUNS {
        0 => mode & SET_USER_ID,
        _ => mode & (SET_USER_ID | SET_GROUP_ID),
    }
}
