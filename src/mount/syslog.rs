//! The system's log, by the socket `/dev/log` (RFC 3164): for the daemon of a read-only mount, which writes nothing to the backing
//! directory.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::logfile::{message, to_pipe};

const SOCKET: &str = "/dev/log";

/// The facility of system daemons.
const DAEMON: u8 = 3 << 3;

/// Each write is a message. Nobody waits for who takes them: what he does not take, or if there is nobody, is lost.
struct SystemLog {
    socket: UnixDatagram,
    path: PathBuf,
}

impl SystemLog {
    fn new(path: &Path) -> io::Result<SystemLog> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(SystemLog {
            socket,
            path: path.to_owned(),
        })
    }
}

impl Write for SystemLog {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        // By its path each time, because it is another socket when the system's log was started again.
        let _ = self.socket.send_to(buf, &self.path);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the log of this process to the system's.
pub(super) fn log_to_system() -> io::Result<()> {
    let log = SystemLog::new(Path::new(SOCKET))?;
    let pid = std::process::id();
    // Fails only where a logger is set already.
    let _ = to_pipe(Box::new(log))
        .format(move |out, record| {
            let priority = DAEMON | severity(record.level());
            write!(out, "<{priority}>vortex-fs[{pid}]: {}", message(record))
        })
        .try_init();
    Ok(())
}

fn severity(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_who_takes_messages_and_he_may_come_and_go() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("log");
        let mut log = SystemLog::new(&path).expect("a socket");
        log.write_all(b"nobody").expect("lost");
        for _ in 0..2 {
            let taker = UnixDatagram::bind(&path).expect("a socket");
            // More than it keeps.
            for _ in 0..10_000 {
                log.write_all(b"told").expect("taken or lost");
            }
            let mut buf = [0; 16];
            let len = taker.recv(&mut buf).expect("a message");
            assert_eq!(buf.get(..len), Some(&b"told"[..]));
            std::fs::remove_file(&path).expect("removed");
        }
    }
}
