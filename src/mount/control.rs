//! The daemon's end of the control socket: who may ask, one thread a client, one job at a time.
//!
//! Only the daemon's own user and root are heard. A job ends when its client hangs up, or when the daemon does.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::figures::Figures;
use crate::fs::Fs;
use crate::pack::client::socket_in;
use crate::pack::protocol::{Event, Job, MAX_REQUEST, Request};
use crate::pack::{Defaults, Direction, run};
use crate::store::Cancel;

/// Clients served at once; more are turned away.
const MAX_CLIENTS: usize = 64;
/// How long a client may take to ask, and to hear an event.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all clients share.
pub(super) struct Control {
    fs: Arc<Fs>,
    defaults: Defaults,
    figures: Arc<Figures>,
    /// Held by the one job that runs.
    turn: Mutex<()>,
    clients: Mutex<Clients>,
    changed: Condvar,
    closing: AtomicBool,
}

#[derive(Default)]
struct Clients {
    count: usize,
    running: Vec<Arc<Cancel>>,
    watchers: Vec<Arc<UnixStream>>,
}

impl Control {
    /// Binds the socket in the archive's private directory, in place of one that a dead daemon left, and serves it.
    /// The caller holds the archive's lock, so no other daemon can be listening.
    pub(super) fn listen(
        private: BorrowedFd<'_>,
        fs: Arc<Fs>,
        defaults: Defaults,
        figures: Arc<Figures>,
    ) -> io::Result<Arc<Control>> {
        let dir = File::from(private.try_clone_to_owned()?);
        let path = socket_in(&dir);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = bind(&path)?;
        let control = Arc::new(Control {
            fs,
            defaults,
            figures,
            turn: Mutex::new(()),
            clients: Mutex::default(),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let serving = Arc::clone(&control);
        thread::Builder::new()
            .name("control".into())
            .spawn(move || serving.accept(&listener))?;
        Ok(control)
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let reserve = || File::open("/dev/null").ok();
        let (mut spare, mut gave_up) = (reserve(), false);
        loop {
            if spare.is_none() && !gave_up {
                spare = reserve();
            }
            gave_up = false;
            let stream = match listener.accept() {
                Ok((stream, _)) => Arc::new(stream),
                // Where directories in use hold all descriptors, whoever wants to unmount is heard all the same.
                Err(e) if is_out_of_descriptors(&e) && spare.take().is_some() => {
                    gave_up = true;
                    continue;
                }
                Err(e) => {
                    log::warn!("control socket: {e}");
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if self.closing.load(Ordering::Relaxed) || self.clients().count >= MAX_CLIENTS {
                let message = "the daemon is busy or ending; try again".to_string();
                let _ = send(&mut &*stream, &Event::Error { message });
                continue;
            }
            self.clients().count += 1;
            let control = Arc::clone(self);
            let spawned = thread::Builder::new().name("client".into()).spawn(move || {
                if let Err(e) = control.serve(&stream) {
                    log::info!("control client: {e}");
                }
                control.clients().count -= 1;
            });
            if spawned.is_err() {
                self.clients().count -= 1;
            }
        }
    }

    fn serve(self: &Arc<Self>, stream: &Arc<UnixStream>) -> io::Result<()> {
        let peer = rustix::net::sockopt::socket_peercred(stream)?;
        let me = rustix::process::geteuid();
        if peer.uid != me && !peer.uid.is_root() {
            let message =
                "only the user who mounted the archive, and root, may do that".to_string();
            return send(&mut &**stream, &Event::Error { message });
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = Vec::new();
        BufReader::new((&**stream).take(MAX_REQUEST)).read_until(b'\n', &mut line)?;
        match serde_json::from_slice(&line) {
            Ok(Request::Pack(job)) => self.job(stream, &job, Direction::Pack),
            Ok(Request::Unpack(job)) => self.job(stream, &job, Direction::Unpack),
            Ok(Request::Ping | Request::Status) => {
                let status = Box::new(self.figures.status());
                send(&mut &**stream, &Event::Status(status))
            }
            Ok(Request::Watch) => {
                send(&mut &**stream, &Event::Watching)?;
                self.clients().watchers.push(Arc::clone(stream));
                Ok(())
            }
            Err(e) => {
                let message = format!(
                    "the daemon does not understand this request ({e}); use the same version"
                );
                send(&mut &**stream, &Event::Error { message })
            }
        }
    }

    fn job(
        self: &Arc<Self>,
        stream: &UnixStream,
        job: &Job,
        direction: Direction,
    ) -> io::Result<()> {
        let cancel = Arc::new(Cancel::default());
        self.clients().running.push(Arc::clone(&cancel));
        let result = self.run_watched(stream, job, direction, &cancel);
        self.clients().running.retain(|c| !Arc::ptr_eq(c, &cancel));
        self.changed.notify_all();
        result
    }

    fn run_watched(
        &self,
        stream: &UnixStream,
        job: &Job,
        direction: Direction,
        cancel: &Arc<Cancel>,
    ) -> io::Result<()> {
        // A client has nothing more to say: whatever comes, it is the end of the connection.
        stream.set_read_timeout(None)?;
        let (mut ear, ended) = (stream.try_clone()?, Arc::clone(cancel));
        thread::Builder::new()
            .name("client-ear".into())
            .spawn(move || {
                let _ = ear.read(&mut [0; 1]);
                ended.cancel();
            })?;
        let out = Mutex::new(stream);
        let counted = self.figures.tally.job(direction, job.dry_run);
        let say = |event: Event| {
            counted.hear(&event);
            let stream = out.lock().unwrap_or_else(PoisonError::into_inner);
            if send(&mut &**stream, &event).is_err() {
                cancel.cancel();
            }
        };
        let Some(_turn) = self.await_turn(cancel, &say) else {
            return Ok(());
        };
        let last = match run(&self.fs, job, direction, &self.defaults, cancel, &say) {
            Ok(summary) => Event::Done(summary),
            Err(e) => Event::Error {
                message: e.to_string(),
            },
        };
        say(last);
        // Ends the thread that listens.
        let _ = stream.shutdown(std::net::Shutdown::Both);
        Ok(())
    }

    fn await_turn(&self, cancel: &Cancel, say: &dyn Fn(Event)) -> Option<MutexGuard<'_, ()>> {
        let mut told = false;
        while !cancel.is_cancelled() {
            match self.turn.try_lock() {
                Ok(turn) => return Some(turn),
                Err(TryLockError::Poisoned(turn)) => return Some(turn.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
            if !std::mem::replace(&mut told, true) {
                say(Event::Waiting);
            }
            thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Cancels all jobs and waits until none runs; later ones are turned away.
    pub(super) fn stop(&self) {
        self.closing.store(true, Ordering::Relaxed);
        let mut clients = self.clients();
        loop {
            for cancel in &clients.running {
                cancel.cancel();
            }
            if clients.running.is_empty() {
                return;
            }
            let wait = self
                .changed
                .wait_timeout(clients, Duration::from_millis(100));
            clients = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last word to those who watch; removes the socket.
    pub(super) fn close(&self, private: BorrowedFd<'_>, error: Option<&str>) {
        let last = Event::Closed {
            error: error.map(str::to_string),
        };
        for watcher in &self.clients().watchers {
            let _ = send(&mut &**watcher, &last);
        }
        if let Ok(dir) = private.try_clone_to_owned() {
            let _ = fs::remove_file(socket_in(&dir));
        }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that only its owner may connect to, from its first moment: it takes the mode from the descriptor.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 128)?;
    Ok(UnixListener::from(socket))
}

fn send(stream: &mut impl Write, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let out = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    out.iter()
        .any(|e| error.raw_os_error() == Some(e.raw_os_error()))
}
