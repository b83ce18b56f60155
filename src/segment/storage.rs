//! The bytes below a segment: a file, or memory.
//!
//! Everything that a segment does to its file goes through [`Storage`], so tests can lose or tear any write.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use super::error::{Part, Result, SegmentError};

/// Bytes that the disk is told of at a time: of many more the kernel fetches only as much as one request of the disk can be, or as it
/// reads ahead.
const ADVICE: usize = 1 << 20;

/// Random access to the bytes of one segment.
pub trait Storage: Send + Sync {
    /// Reads some bytes at `offset`; 0 only at the end, or for an empty `buf`.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`, extending the file where needed.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all that was written durable, the file's length included.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Gives the range back to the file system; it reads as zeros, or as before where that is not supported.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Says that the range will be read soon.
    fn will_need(&self, _offset: u64, _len: u64) {}
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl Storage for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self, flags, offset, len) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn will_need(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        for from in (offset..end).step_by(ADVICE) {
            let len = NonZeroU64::new((end - from).min(ADVICE as u64));
            // Only a hint: the read itself tells what goes wrong.
            let _ = rustix::fs::fadvise(self, from, len, Advice::WillNeed);
        }
    }
}

/// A segment's bytes in memory, for output that can not seek and for tests.
#[derive(Debug, Default)]
pub struct MemStorage {
    bytes: RwLock<Vec<u8>>,
}

impl MemStorage {
    /// Storage that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        MemStorage {
            bytes: RwLock::new(bytes),
        }
    }

    /// A copy of what it holds.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change<T>(&self, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        f(&mut self.bytes.write().unwrap_or_else(PoisonError::into_inner))
    }
}

fn too_large() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

impl Storage for MemStorage {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|o| bytes.get(o..))
            .unwrap_or_default();
        let n = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| too_large())?;
        let end = start.checked_add(buf.len()).ok_or_else(too_large)?;
        self.change(|bytes| {
            if bytes.len() < end {
                bytes
                    .try_reserve(end - bytes.len())
                    .map_err(|_| too_large())?;
                bytes.resize(end, 0);
            }
            bytes
                .get_mut(start..end)
                .ok_or_else(too_large)?
                .copy_from_slice(buf);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self
            .bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len() as u64)
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(|bytes| {
            let clamp = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
            let (start, end) = (clamp(offset), clamp(offset.saturating_add(len)));
            if let Some(range) = bytes.get_mut(start..end) {
                range.fill(0);
            }
        });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| too_large())?;
        self.change(|bytes| bytes.resize(len, 0));
        Ok(())
    }
}

/// Reads until `buf` is full or the file ends; answers how much was read.
pub(super) fn read_up_to(storage: &dyn Storage, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match storage.read_at(rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Reads the `len` bytes of `part`, which must lie inside the file and have this checksum.
///
/// Nothing is allocated for a range that the file does not hold. The caller bounds `len`.
pub(super) fn read_part(
    storage: &dyn Storage,
    part: Part,
    offset: u64,
    len: u64,
    crc: u32,
) -> Result<Vec<u8>> {
    let held = storage.len()?.saturating_sub(offset);
    let truncated = |got| SegmentError::Truncated {
        part,
        offset,
        expected: len,
        got,
    };
    if held < len {
        return Err(truncated(held));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| truncated(held))?];
    let got = read_up_to(storage, &mut bytes, offset)?;
    if got < bytes.len() {
        return Err(truncated(got as u64));
    }
    match crc32c::crc32c(&bytes) {
        found if found == crc => Ok(bytes),
        found => Err(SegmentError::Checksum {
            part,
            offset,
            expected: crc,
            got: found,
        }),
    }
}
