//! The client's side of the control protocol.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use std::time::Duration;

use rustix::net::sockopt::socket_peercred;

use super::protocol::{Event, MAX_REQUEST, Request, SOCKET, Status};
use crate::store::is_trusted;
use crate::store::names::PRIVATE_DIR;

/// Longest event line in bytes that a client reads.
const MAX_EVENT: u64 = 1 << 20;

/// How long a daemon may take to hear a request, and to answer where it need not work for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon that has an archive mounted.
#[derive(Debug)]
pub struct Client {
    lines: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon of the archive at `root`; none if no daemon serves it.
    ///
    /// # Errors
    /// The socket is there but refuses this user, or serves one who does not own the archive, and other I/O errors.
    pub fn connect(root: &Path) -> io::Result<Option<Client>> {
        let result =
            File::open(root.join(PRIVATE_DIR)).and_then(|dir| UnixStream::connect(socket_in(&dir)));
        match result {
            Ok(stream) => {
                let peer = socket_peercred(&stream)?.uid.as_raw();
                if !is_trusted(peer, File::open(root)?.as_fd())? {
                    return Err(io::Error::other(format!(
                        "user {peer}, who does not own it, answers on its control socket; remove .vortex/control.sock if that is no daemon of yours"
                    )));
                }
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Some(Client {
                    lines: BufReader::new(stream),
                }))
            }
            // Nobody made one, or whoever made it is dead.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Sends the request, the first and only one of this connection.
    ///
    /// # Errors
    /// The daemon is gone, or the request too long.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        if line.len() as u64 > MAX_REQUEST {
            let many = "these are more paths than a daemon takes at once; name their directories";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, many));
        }
        self.lines.get_mut().write_all(&line)
    }

    /// The next event; none when the daemon has closed the connection.
    ///
    /// # Errors
    /// The connection broke, or what came is no event.
    pub fn next_event(&mut self) -> io::Result<Option<Event>> {
        let mut line = Vec::new();
        if self
            .lines
            .by_ref()
            .take(MAX_EVENT)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// The answer to a question that takes the daemon no time.
    fn answer(&mut self, request: &Request) -> io::Result<Option<Event>> {
        self.send(request)?;
        self.lines.get_ref().set_read_timeout(Some(PATIENCE))?;
        let event = self.next_event()?;
        self.lines.get_ref().set_read_timeout(None)?;
        Ok(event)
    }

    /// A handle through which another thread, or a signal, may cut the connection.
    ///
    /// # Errors
    /// No more descriptors.
    pub fn stream(&self) -> io::Result<UnixStream> {
        self.lines.get_ref().try_clone()
    }
}

/// The socket's path by the directory's descriptor: the path itself may be longer than a socket address.
#[must_use]
pub fn socket_in(private: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", private.as_raw_fd()))
}

/// A daemon whose end is awaited.
#[derive(Debug)]
pub struct Watch(Client);

/// Asks the daemon of the archive at `root` for its last word.
///
/// # Errors
/// No daemon, or it does not answer.
pub fn watch(root: &Path) -> io::Result<Watch> {
    let mut client = Client::connect(root)?.ok_or(io::ErrorKind::NotFound)?;
    match client.answer(&Request::Watch)? {
        Some(Event::Watching) => Ok(Watch(client)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Figures of the daemon of the archive at `root`.
///
/// # Errors
/// No daemon, or it does not answer.
pub fn status(root: &Path) -> io::Result<Status> {
    let mut client = Client::connect(root)?.ok_or(io::ErrorKind::NotFound)?;
    match client.answer(&Request::Status)? {
        Some(Event::Status(status)) => Ok(*status),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Watch {
    /// Waits for the daemon's end; what it says if not everything is durable.
    #[must_use]
    pub fn finish(mut self) -> Option<String> {
        match self.0.next_event() {
            Ok(Some(Event::Closed { error })) => error,
            _ => Some(
                "the daemon ended before its last commit; its log, .vortex/log, may say why"
                    .to_string(),
            ),
        }
    }
}
