//! The operations and how they are chosen.

use proptest::prelude::*;

/// Paths that operations work on: few, so that they meet.
pub const PATHS: [&str; 12] = [
    "a",
    "b",
    "c",
    "d",
    "d/a",
    "d/b",
    "d/e",
    "d/e/a",
    "x.vortex",
    "x",
    "d/x.vortex~plain",
    "e",
];

/// Handles that may be open at a time.
pub const HANDLES: usize = 3;

/// What the blocks of a file that is packed start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Nothing,
    KeyBlocks,
    Primer,
}

#[derive(Debug, Clone)]
pub enum Op {
    Create {
        path: usize,
    },
    Mkdir {
        path: usize,
    },
    Symlink {
        path: usize,
    },
    Fifo {
        path: usize,
    },
    Unlink {
        path: usize,
    },
    Rmdir {
        path: usize,
    },
    Rename {
        from: usize,
        to: usize,
        flags: u8,
    },
    Link {
        from: usize,
        to: usize,
    },
    Open {
        slot: usize,
        path: usize,
        append: bool,
        truncate: bool,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        at: u64,
        len: usize,
        seed: u8,
    },
    Read {
        slot: usize,
        at: u64,
        len: usize,
    },
    Truncate {
        path: usize,
        size: u64,
    },
    TruncateHandle {
        slot: usize,
        size: u64,
    },
    Punch {
        slot: usize,
        at: u64,
        len: u64,
    },
    Zero {
        slot: usize,
        at: u64,
        len: u64,
        keep_size: bool,
    },
    Extend {
        slot: usize,
        at: u64,
        len: u64,
        keep_size: bool,
    },
    Fsync {
        slot: usize,
    },
    Store {
        path: usize,
    },
    Chmod {
        path: usize,
        mode: u32,
    },
    SetTimes {
        path: usize,
        seconds: i64,
    },
    SetXattr {
        path: usize,
        value: u8,
    },
    Pack {
        path: usize,
        from: From,
    },
    PackInPlace {
        path: usize,
    },
    Unpack {
        path: usize,
    },
    PlainFile {
        path: usize,
        len: usize,
        seed: u8,
    },
    Compare,
    Remount,
    Crash,
}

impl Op {
    /// The paths that it names.
    pub fn paths(&self) -> Vec<usize> {
        match *self {
            Op::Rename { from, to, .. } | Op::Link { from, to } => vec![from, to],
            Op::Create { path }
            | Op::Mkdir { path }
            | Op::Symlink { path }
            | Op::Fifo { path }
            | Op::Unlink { path }
            | Op::Rmdir { path }
            | Op::Open { path, .. }
            | Op::Truncate { path, .. }
            | Op::Store { path }
            | Op::Chmod { path, .. }
            | Op::SetTimes { path, .. }
            | Op::SetXattr { path, .. }
            | Op::Pack { path, .. }
            | Op::PackInPlace { path }
            | Op::Unpack { path }
            | Op::PlainFile { path, .. } => vec![path],
            _ => vec![],
        }
    }
}

fn path() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..3usize, 1 => 0..PATHS.len()]
}

fn slot() -> impl Strategy<Value = usize> {
    0..HANDLES
}

/// Offsets and lengths around the edges of 16-KiB blocks, and anywhere.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => (0u64..6, -2i64..3).prop_map(|(block, off)| (block * 16384).saturating_add_signed(off)),
        2 => 0u64..100_000,
        1 => Just(0),
    ]
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1usize..200, 2 => 16_000usize..17_000, 2 => 1usize..60_000, 1 => Just(16_384)]
}

/// Blocks that start from others take long to encode.
fn from() -> impl Strategy<Value = From> {
    prop_oneof![
        4 => Just(From::Nothing),
        1 => Just(From::KeyBlocks),
        1 => Just(From::Primer),
    ]
}

pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => path().prop_map(|path| Op::Create { path }),
        3 => (3..PATHS.len()).prop_map(|path| Op::Mkdir { path }),
        1 => (3..PATHS.len()).prop_map(|path| Op::Symlink { path }),
        1 => (3..PATHS.len()).prop_map(|path| Op::Fifo { path }),
        4 => path().prop_map(|path| Op::Unlink { path }),
        1 => path().prop_map(|path| Op::Rmdir { path }),
        6 => (path(), path(), 0u8..4).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
        3 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        12 => (slot(), path(), prop::bool::weighted(0.2), prop::bool::weighted(0.1))
            .prop_map(|(slot, path, append, truncate)| Op::Open { slot, path, append, truncate }),
        2 => slot().prop_map(|slot| Op::Close { slot }),
        30 => (slot(), offset(), len(), any::<u8>()).prop_map(|(slot, at, len, seed)| Op::Write { slot, at, len, seed }),
        6 => (slot(), offset(), len()).prop_map(|(slot, at, len)| Op::Read { slot, at, len }),
        4 => (path(), offset()).prop_map(|(path, size)| Op::Truncate { path, size }),
        4 => (slot(), offset()).prop_map(|(slot, size)| Op::TruncateHandle { slot, size }),
        3 => (slot(), offset(), len()).prop_map(|(slot, at, len)| Op::Punch { slot, at, len: len as u64 }),
        3 => (slot(), offset(), len(), any::<bool>())
            .prop_map(|(slot, at, len, keep_size)| Op::Zero { slot, at, len: len as u64, keep_size }),
        2 => (slot(), offset(), len(), any::<bool>())
            .prop_map(|(slot, at, len, keep_size)| Op::Extend { slot, at, len: len as u64, keep_size }),
        8 => slot().prop_map(|slot| Op::Fsync { slot }),
        3 => path().prop_map(|path| Op::Store { path }),
        1 => (path(), prop::sample::select(vec![0o644u32, 0o600, 0o755, 0o4711]))
            .prop_map(|(path, mode)| Op::Chmod { path, mode }),
        1 => (path(), 0i64..2_000_000_000).prop_map(|(path, seconds)| Op::SetTimes { path, seconds }),
        1 => (path(), any::<u8>()).prop_map(|(path, value)| Op::SetXattr { path, value }),
        6 => (path(), from()).prop_map(|(path, from)| Op::Pack { path, from }),
        3 => path().prop_map(|path| Op::PackInPlace { path }),
        4 => path().prop_map(|path| Op::Unpack { path }),
        2 => (path(), 0usize..50_000, any::<u8>()).prop_map(|(path, len, seed)| Op::PlainFile { path, len, seed }),
        4 => Just(Op::Compare),
        3 => Just(Op::Remount),
        3 => Just(Op::Crash),
    ]
}
