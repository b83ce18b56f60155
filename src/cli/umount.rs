//! `vortex-fs umount`

use std::path::PathBuf;

use super::{CliError, Outcome, warn};
use crate::mount::{self, Unmounted};

/// Unmounts an archive
///
/// Returns when everything is durable and the daemon is gone, which the system's own umount does not wait for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  vortex-fs umount /mnt/telemetry")]
pub(crate) struct Args {
    /// Where the archive is mounted
    mountpoint: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let shown = args.mountpoint.display();
    let how = mount::umount(&args.mountpoint, || {
        warn(format_args!(
            "{shown}: waiting for the last writes to be stored"
        ))
    })?;
    if how == Unmounted::DaemonWasDead {
        warn(format_args!(
            "{shown}: its daemon had died; unmounted. Everything up to the last fsync is there; the next mount checks the rest"
        ));
    }
    Ok(Outcome::Good)
}
