//! Between the kernel's types, as fuser shows them, and those of `fs`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::fs::{Attr, Kind, NodeId, SetTime};

/// Attributes as the kernel wants them. fuser uses one number as node id and as `st_ino`.
pub(super) fn file_attr(node: NodeId, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

/// A device number in the kernel's 32-bit form: 12 bits of major, 20 of minor.
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)
}

/// A device number as the C library has it, from the kernel's 32-bit form.
pub(super) fn decode_device(device: u32) -> u64 {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    rustix::fs::makedev(major, minor)
}

/// `(seconds, nanoseconds)` since 1970 as a `SystemTime`; a time it cannot hold becomes 1970.
fn system_time((secs, nanos): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let base = if secs >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|t| t.checked_add(Duration::from_nanos(u64::from(nanos))))
        .unwrap_or(UNIX_EPOCH)
}

/// A time from the kernel.
///
/// For times before 1970 fuser 0.18 builds `1970 - (|secs| + nanos)`, although the kernel
/// means `1970 - |secs| + nanos`; taking the difference apart again gives the true time.
pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => match t.duration_since(UNIX_EPOCH) {
            Ok(d) => SetTime::At((
                i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
                d.subsec_nanos(),
            )),
            Err(before) => {
                let d = before.duration();
                let secs = i64::try_from(d.as_secs()).map_or(i64::MIN, |s| -s);
                SetTime::At((secs, d.subsec_nanos()))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time that fuser 0.18 makes of the kernel's `(secs, nanos)`.
    fn as_fuser(secs: i64, nanos: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs as u64, nanos)
        } else {
            UNIX_EPOCH - Duration::new((-secs) as u64, nanos)
        }
    }

    #[test]
    fn times_before_1970_survive_fuser() {
        for t in [
            (0, 5),
            (1, 0),
            (-1, 0),
            (-1, 250_000_000),
            (-86_400, 999_999_999),
            (1 << 40, 7),
        ] {
            let SetTime::At(got) = set_time(TimeOrNow::SpecificTime(as_fuser(t.0, t.1))) else {
                panic!("a given time is not `now`");
            };
            assert_eq!(got, t);
        }
    }

    #[test]
    fn times_are_answered_exactly() {
        assert_eq!(
            system_time((-1, 250_000_000)),
            UNIX_EPOCH - Duration::from_millis(750)
        );
        assert_eq!(system_time((3, 5)), UNIX_EPOCH + Duration::new(3, 5));
        assert_eq!(
            system_time((i64::MAX, 999_999_999)),
            UNIX_EPOCH + Duration::new(i64::MAX as u64, 999_999_999)
        );
    }

    #[test]
    fn device_numbers_survive() {
        for (major, minor) in [
            (0, 0),
            (1, 3),
            (8, 17),
            (254, 255),
            (259, 70_000),
            (4095, 0xf_ffff),
        ] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(
                decode_device(encode_device(device)),
                device,
                "{major}:{minor}"
            );
        }
    }
}
