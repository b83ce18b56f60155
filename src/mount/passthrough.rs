//! Plain files of a read-only mount: the kernel reads them from the backing file itself.
//!
//! Only there: see "What the kernel is told" in docs/DESIGN.md. A node of a read-only mount keeps its backing file for good.
//!
//! The kernel wants all handles of a file opened in one way, from one registration of the backing file, which it keeps until
//! the last of them is closed. Files that it does not take are read through the daemon.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo, ReplyOpen};

/// How the handles of an open plain file were opened, all of them.
struct Opened {
    handles: u64,
    /// `None` if they are read through the daemon.
    backing: Option<Arc<BackingId>>,
}

/// The plain files that are open.
#[derive(Default)]
pub(super) struct Passthrough {
    /// Whether the kernel can, and files are to be read so.
    pub(super) enabled: bool,
    /// Whether the log says why a file is not.
    said: AtomicBool,
    open: Mutex<HashMap<INodeNo, Opened>>,
}

impl Passthrough {
    /// Answers that the plain `file` of a node is open.
    pub(super) fn opened(
        &self,
        node: INodeNo,
        file: &File,
        fh: FileHandle,
        flags: FopenFlags,
        reply: ReplyOpen,
    ) {
        let backing = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let opened = open.entry(node).or_insert_with(|| Opened {
                handles: 0,
                // Refused without CAP_SYS_ADMIN, and for a file on a stacked file system.
                backing: (reply.open_backing(file).map(Arc::new))
                    .inspect_err(|e| self.refused(e))
                    .ok(),
            });
            opened.handles += 1;
            opened.backing.clone()
        };
        match backing {
            // There is no cache to keep, and the kernel takes that flag for a mistake.
            Some(backing) => {
                reply.opened_passthrough(fh, flags - FopenFlags::FOPEN_KEEP_CACHE, &backing);
            }
            None => reply.opened(fh, flags),
        }
    }

    fn refused(&self, error: &io::Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            log::info!("the kernel does not read all plain files by itself: {error}");
        }
    }

    /// A handle of a node is closed. The kernel has let go of it by now.
    pub(super) fn released(&self, node: INodeNo) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = open.get_mut(&node) {
            opened.handles -= 1;
            if opened.handles == 0 {
                open.remove(&node);
            }
        }
    }
}
