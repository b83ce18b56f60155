//! A file seen through corrections, and around what the disk does not give.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use super::storage::{Storage, read_up_to};

/// A file seen through corrections of some bytes.
pub(super) struct Patched {
    inner: Arc<dyn Storage>,
    bytes: RwLock<BTreeMap<u64, u8>>,
}

impl Patched {
    pub(super) fn new(inner: Arc<dyn Storage>) -> Self {
        Patched {
            inner,
            bytes: RwLock::default(),
        }
    }

    /// All corrections, for [`Patched::restore`].
    pub(super) fn snapshot(&self) -> BTreeMap<u64, u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Goes back to these corrections.
    pub(super) fn restore(&self, bytes: BTreeMap<u64, u8>) {
        *self.bytes.write().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    /// Corrects bytes.
    pub(super) fn set(&self, offset: u64, bytes: &[u8]) {
        let mut patches = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        patches.extend((offset..).zip(bytes.iter().copied()));
    }
}

/// What the storage below is read in where the disk gives nothing.
const SECTOR: usize = 512;

/// What stands for bytes that the disk does not give; not zeros, which may mean something.
const UNREADABLE: u8 = 0xee;

/// Reads what can be read; the rest does not pass for content, because everything has a checksum.
fn read_around_bad_sectors(
    storage: &dyn Storage,
    buf: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let there = storage.len()?.saturating_sub(offset);
    let len = buf.len().min(usize::try_from(there).unwrap_or(usize::MAX));
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..len).filter(|rest| !rest.is_empty()) {
        let at = offset + done as u64;
        let n = rest.len().min(SECTOR - (at % SECTOR as u64) as usize);
        let part = &mut rest[..n];
        match read_up_to(storage, part, at) {
            Err(e) if is_bad_sector(&e) => part.fill(UNREADABLE),
            Err(e) => return Err(e),
            Ok(got) if got < n => return Ok(done + got),
            Ok(_) => {}
        }
        done += n;
    }
    Ok(len)
}

fn is_bad_sector(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

impl Storage for Patched {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = match self.inner.read_at(buf, offset) {
            Err(e) if is_bad_sector(&e) => read_around_bad_sectors(&*self.inner, buf, offset)?,
            read => read?,
        };
        let patches = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        for (at, &byte) in patches.range(offset..offset.saturating_add(n as u64)) {
            buf[(at - offset) as usize] = byte;
        }
        Ok(n)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn punch_hole(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
