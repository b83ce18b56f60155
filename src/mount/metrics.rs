//! `--metrics`: the figures over HTTP, as text for Prometheus and as JSON.
//!
//! Whoever reaches the port may read the figures and nothing else. A client has [`PATIENCE`] for everything and [`LONGEST`] bytes for
//! its request; beyond [`MOST_CLIENTS`] at once, others are turned away. So none can hold the daemon up or make it grow.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::exposition::exposition;
use super::figures::Figures;

/// Clients served at once.
const MOST_CLIENTS: usize = 8;
/// How long a client may take to ask, and then to hear the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request in bytes, all headers included.
const LONGEST: usize = 8 << 10;

/// Where to serve metrics: a bare port is one of this machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddr(pub SocketAddr);

impl FromStr for MetricsAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.parse::<u16>() {
            return Ok(MetricsAddr((Ipv4Addr::LOCALHOST, port).into()));
        }
        text.parse().map(MetricsAddr).map_err(|_| {
            format!(
                "`{text}` is neither a port nor ADDRESS:PORT, such as 127.0.0.1:9100 or [::1]:9100"
            )
        })
    }
}

/// The port is taken; nobody is served yet.
pub(super) struct Listening {
    listener: TcpListener,
    pub(super) addr: SocketAddr,
}

impl Listening {
    pub(super) fn bind(addr: MetricsAddr) -> io::Result<Listening> {
        let listener = TcpListener::bind(addr.0)?;
        let addr = listener.local_addr()?;
        let open = match addr.ip() {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => !ip.is_loopback(),
        };
        if open {
            log::warn!("metrics are served on {addr}, which others than this machine may reach");
        }
        Ok(Listening { listener, addr })
    }

    /// Serves until the process ends.
    pub(super) fn serve(self, figures: Arc<Figures>) -> io::Result<()> {
        thread::Builder::new()
            .name("metrics".into())
            .spawn(move || accept(&self.listener, &figures))
            .map(drop)
    }
}

/// Counts a client off when it is dropped.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener, figures: &Arc<Figures>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // No more descriptors, most likely; some will be free.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let taken = clients.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(&clients));
        if taken >= MOST_CLIENTS {
            continue;
        }
        let figures = Arc::clone(figures);
        // Without a thread for it the client is turned away.
        let _ = thread::Builder::new()
            .name("metrics-client".into())
            .spawn(move || {
                let _seat = seat;
                if let Err(e) = answer(&stream, &figures) {
                    log::debug!("metrics: {e}");
                }
            });
    }
}

fn answer(stream: &TcpStream, figures: &Figures) -> io::Result<()> {
    let request = request(stream)?;
    let (status, kind, body) = match request {
        Ok(Asked::Text) => {
            let text = exposition(&figures.status());
            ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text)
        }
        Ok(Asked::Json) => {
            let text = serde_json::to_string_pretty(&figures.status().without_names())?;
            ("200 OK", "application/json", text + "\n")
        }
        Err(status) => {
            let text = format!("{status}; here are /metrics and /json, by GET\n");
            (status, "text/plain; charset=utf-8", text)
        }
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let until = Instant::now() + PATIENCE;
    send(stream, head.as_bytes(), until)?;
    send(stream, body.as_bytes(), until)?;
    stream.shutdown(Shutdown::Write)
}

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Text,
    Json,
}

/// What is asked for, or the status that refuses it.
type Request = Result<Asked, &'static str>;

/// Reads a request to the end of its headers.
fn request(stream: &TcpStream) -> io::Result<Request> {
    let until = Instant::now() + PATIENCE;
    let mut raw = vec![0; LONGEST];
    let mut len = 0;
    loop {
        stream.set_read_timeout(Some(left(until)?))?;
        let rest = raw.get_mut(len..).unwrap_or_default();
        let n = (&*stream).read(rest)?;
        len += n;
        let so_far = raw.get(..len).unwrap_or_default();
        if so_far.windows(4).any(|w| w == b"\r\n\r\n") || so_far.windows(2).any(|w| w == b"\n\n") {
            return Ok(asked(so_far));
        }
        if len == LONGEST {
            return Ok(Err("431 Request Header Fields Too Large"));
        }
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn asked(request: &[u8]) -> Request {
    let line = request.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ');
    match (words.next(), words.next(), words.next()) {
        (Some(b"GET"), Some(path), Some(version)) if version.starts_with(b"HTTP/1.") => {
            match path.split(|&b| b == b'?').next() {
                Some(b"/metrics") => Ok(Asked::Text),
                Some(b"/json") => Ok(Asked::Json),
                _ => Err("404 Not Found"),
            }
        }
        (Some(_), Some(_), Some(version)) if version.starts_with(b"HTTP/") => {
            Err("405 Method Not Allowed")
        }
        _ => Err("400 Bad Request"),
    }
}

fn send(mut stream: &TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(until)?))?;
        let n = stream.write(bytes)?;
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_one_of_this_machine_and_others_are_written_out() {
        let addr = |text: &str| text.parse::<MetricsAddr>().map(|a| a.0.to_string());
        assert_eq!(addr("9100"), Ok("127.0.0.1:9100".into()));
        assert_eq!(addr("0.0.0.0:9100"), Ok("0.0.0.0:9100".into()));
        assert_eq!(addr("[::1]:9100"), Ok("[::1]:9100".into()));
        for bad in ["", "x", ":9100", "localhost:9100", "70000", "127.0.0.1"] {
            assert!(addr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_two_things_can_be_asked_for() {
        let of = |line: &str| asked(format!("{line}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(of("GET /metrics HTTP/1.1"), Ok(Asked::Text));
        assert_eq!(of("GET /json?x=1 HTTP/1.0"), Ok(Asked::Json));
        for (line, code) in [
            ("GET / HTTP/1.1", "404"),
            ("GET /metrics/.. HTTP/1.1", "404"),
            ("POST /json HTTP/1.1", "405"),
            ("GET /json HTTP/2", "405"),
            ("GET /json", "400"),
            ("\0\u{7f}", "400"),
            ("", "400"),
        ] {
            assert!(of(line).is_err_and(|s| s.starts_with(code)), "{line}");
        }
    }
}
