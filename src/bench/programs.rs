//! Compressors that are programs of their own, run on files in a scratch directory and timed by the clock on the wall.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::error::BenchError;
use super::peers::{Peer, PeerRun};

/// The file with the bytes, relative to the scratch directory; the packed file; where it is unpacked to.
const DATA: &str = "data";
const PACKED: &str = "packed.zpaq";
const BACK: &str = "back";

/// Whether a program of this name can be run.
pub(super) fn on_path(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| is_in(&path, name))
}

fn is_in(path: &OsStr, name: &str) -> bool {
    std::env::split_paths(path).any(|folder| {
        fs::metadata(folder.join(name))
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// Runs a peer's program both ways; what it gives back is not compared yet.
pub(super) fn run(
    peer: Peer,
    data: &[u8],
    scratch: &Path,
) -> Result<(PeerRun, Vec<u8>), BenchError> {
    let fail = BenchError::peer(peer.name());
    let folder = tempfile::tempdir_in(scratch).map_err(&fail)?;
    let inside = |name: &str| folder.path().join(name);
    fs::write(inside(DATA), data).map_err(&fail)?;
    fs::create_dir(inside(BACK)).map_err(&fail)?;
    let to_back = format!("{BACK}/{DATA}");
    let from_back = format!("../{PACKED}");
    let (pack, unpack) = if peer == Peer::Zpaq {
        let pack = ["a", PACKED, DATA, "-m5", "-t1"];
        // It unpacks to the name that it has stored, so it must not find the original there.
        let unpack = ["x", &from_back, "-t1"];
        (
            timed(peer, &pack, folder.path())?,
            timed(peer, &unpack, &inside(BACK))?,
        )
    } else {
        let pack = ["-q", "11", "-w", "24", "-o", PACKED, DATA];
        let unpack = ["-d", "-o", &to_back, PACKED];
        (
            timed(peer, &pack, folder.path())?,
            timed(peer, &unpack, folder.path())?,
        )
    };
    let stored = fs::metadata(inside(PACKED)).map_err(&fail)?.len();
    let back = fs::read(inside(&to_back)).map_err(&fail)?;
    let run = PeerRun {
        stored,
        pack,
        unpack,
    };
    Ok((run, back))
}

fn timed(peer: Peer, arguments: &[&str], folder: &Path) -> Result<Duration, BenchError> {
    let start = Instant::now();
    let output = Command::new(peer.name())
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .map_err(BenchError::peer(peer.name()))?;
    let took = start.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(BenchError::PeerFailed {
        name: peer.name(),
        status: output.status,
        message: said.lines().next_back().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_can_be_run_are_programs() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("zpaq");
        let path = std::env::join_paths([Path::new("/no/such"), dir.path()]).unwrap();
        assert!(!is_in(&path, "zpaq"));
        fs::write(&file, "")?;
        assert!(!is_in(&path, "zpaq"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        assert!(is_in(&path, "zpaq"));
        Ok(())
    }
}
