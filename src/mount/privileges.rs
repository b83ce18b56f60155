//! What the daemon gives up before it serves anybody.
//!
//! As root it acts on the backing directory in everybody's name, mounts and unmounts; all other capabilities are dropped for
//! good, and no program that it might start gains any. For a read-only mount those to change anything are dropped too.
//! Without root there are none, and `fusermount3`, which is set-user-id root, is needed to unmount.

use std::io;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, geteuid, set_dumpable_behavior, setrlimit, umask,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs,
};

use crate::fs::{grow_descriptor_table, raise_file_limit};
use crate::store::Access;

/// To read any file, also by its handle (`crate::fs` parks nodes so), and to mount and unmount.
const READING: CapabilitySet = CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::SYS_ADMIN);

/// To do in the backing directory whatever the kernel has allowed a user of the mount: owners, modes, set-user-id bits, device
/// files, file capabilities.
const WRITING: CapabilitySet = READING
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);

/// To be called before there are other threads: each thread has capabilities of its own, taken from the one that made it.
pub(super) fn give_up(access: Access) -> io::Result<()> {
    raise_file_limit();
    grow_descriptor_table();
    // Its memory holds everybody's data: no dump of it, and no look into it by other processes of its user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    umask(Mode::from_raw_mode(0o077));
    if !geteuid().is_root() {
        return Ok(());
    }
    let needed = match access {
        Access::Read => READING,
        Access::Write => WRITING,
    };
    let kept = capabilities(None)?.permitted & needed;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}
