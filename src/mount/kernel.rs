//! What is agreed with the kernel: how it may ask when a mount begins, and what it may do with each open file.

use fuser::{FopenFlags, InitFlags, KernelConfig, OpenAccMode, OpenFlags};

use super::adapter::Adapter;

/// The largest request in either direction.
pub(super) const MAX_IO: u32 = 1 << 20;

/// What the kernel may do with an open file. What was only read has nothing to be told of when it is closed.
pub(super) fn open_flags(flags: OpenFlags) -> FopenFlags {
    if flags.acc_mode() == OpenAccMode::O_RDONLY {
        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
    } else {
        FopenFlags::FOPEN_KEEP_CACHE
    }
}

impl Adapter {
    /// Asks for what the kernel can do, and notes what of it there is.
    pub(super) fn agree(&mut self, config: &mut KernelConfig) {
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            // Not ATOMIC_O_TRUNC: with it an open that empties a running program does so before the kernel refuses it.
            // Without it the kernel takes the mask of an access control list for the group's permissions.
            | InitFlags::FUSE_POSIX_ACL
            // A directory's default list takes the place of the umask, which the kernel does not look at.
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_ASYNC_DIO;
        if self.read_only {
            // Beside a writer the contents change behind the kernel: let it compare times.
            wanted |= InitFlags::FUSE_AUTO_INVAL_DATA;
            // Where the kernel has it. The backing files may not lie on a stacked file system.
            self.passthrough.enabled = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
                && config.set_max_stack_depth(1).is_ok();
        }
        if !self.read_only {
            let ours = config.add_capabilities(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
            self.set_ids.ours = ours.is_ok();
        }
        if let Err(missing) = config.add_capabilities(wanted) {
            let _ = config.add_capabilities(wanted - missing);
        }
        if let Err(largest) = config.set_max_readahead(MAX_IO) {
            let _ = config.set_max_readahead(largest);
        }
        if let Err(largest) = config.set_max_write(MAX_IO) {
            let _ = config.set_max_write(largest);
        }
        let _ = config.set_max_background(64);
    }
}
