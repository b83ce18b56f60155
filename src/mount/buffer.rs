//! Memory that reads are answered from.

use std::cell::RefCell;

use super::kernel::MAX_IO;

thread_local! {
    /// What this thread reads into. Kept, since the system would clear new memory for every long read.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with this thread's buffer of `size` bytes, which hold anything.
pub(super) fn with_buffer(size: u32, f: impl FnOnce(&mut [u8])) {
    // The kernel asks for no more than it was told.
    let size = size.min(MAX_IO) as usize;
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        f(buffer.get_mut(..size).unwrap_or_default());
    });
}
