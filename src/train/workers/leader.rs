//! The side that has the data, the weights and the optimiser.

use super::wire::{self, ALIVE, END, HELLO, JOB, REFUSED, RESULT, Welcome, bad, read_array};
use crate::model::Params;
use crate::train::data::Segment;
use crate::train::gradient::Gradient;
use crate::train::{Settings, TrainError};
use rayon::prelude::*;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a worker may be silent or not take what it is sent. It says every few seconds that it is alive.
const SILENCE: Duration = Duration::from_secs(30);
/// When all else of a step is done, a worker may take so many times [`SILENCE`], and so many times what the rest of the step took.
const PATIENCE: (u32, u32) = (4, 20);
/// How long one is waited for after a stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long a greeting may take.
const GREETING: Duration = Duration::from_secs(10);
/// Bytes of a version's name, at most.
const MAX_VERSION: u16 = 64;
/// Bits per byte that a model can say of anything, at most.
const MAX_LOSS: f64 = 1e7;
/// Pause between two looks whether somebody came.
const LOOK: Duration = Duration::from_millis(20);
/// Workers, at most, with those that are being greeted. Others wait.
const MOST: usize = 256;

/// The workers of a run.
pub struct Workers {
    /// None when the run is over.
    listener: Mutex<Option<TcpListener>>,
    address: SocketAddr,
    least: usize,
    shared: Arc<Shared>,
}

struct Shared {
    /// What a worker is told about the run.
    welcome: String,
    peers: Mutex<Vec<Peer>>,
    /// Workers and those who may become some.
    places: Arc<AtomicUsize>,
    ended: AtomicBool,
    /// Lengths of the parameters.
    lens: Vec<usize>,
    silence: Duration,
}

/// A worker that was greeted.
struct Peer {
    from: SocketAddr,
    stream: BufReader<TcpStream>,
    threads: usize,
    _place: Place,
}

/// One of the [`MOST`] places.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Reads until a moment, however slowly something comes.
struct Until<'a>(&'a TcpStream, Instant);

impl Read for Until<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.0.set_read_timeout(Some(left))?;
        self.0.read(into)
    }
}

/// The segments of a step.
struct Step<'a> {
    /// Those that nobody took yet.
    left: Mutex<Range<u64>>,
    first: u64,
    gradients: Mutex<Vec<Option<Gradient>>>,
    failure: Mutex<Option<TrainError>>,
    weights: Vec<u8>,
    segment: &'a (dyn Fn(u64) -> Result<Segment, TrainError> + Sync),
}

impl Workers {
    /// Waits for workers of a run with these settings, who can come at any time. The port 0 stands for any that is free.
    ///
    /// # Errors
    /// [`TrainError::Remote`] if the address can not be listened on.
    pub fn listen(address: &str, settings: &Settings) -> Result<Workers, TrainError> {
        Workers::with_patience(address, settings, SILENCE)
    }

    pub(super) fn with_patience(
        address: &str,
        settings: &Settings,
        silence: Duration,
    ) -> Result<Workers, TrainError> {
        let remote = |error: io::Error| TrainError::Remote {
            address: address.to_owned(),
            reason: format!("can not be listened on: {error}"),
        };
        let welcome = Welcome {
            config: settings.config(),
            window: settings.dataset.window_size,
        };
        let welcome = serde_json::to_string(&welcome).map_err(|e| remote(e.into()))?;
        let listener = TcpListener::bind(address).map_err(remote)?;
        // Who came is let in between two steps.
        listener.set_nonblocking(true).map_err(remote)?;
        let shapes = crate::engine::tensor_shapes(&settings.config());
        let mut lens: Vec<(String, usize)> = shapes
            .into_iter()
            .map(|(name, shape)| (name, shape.iter().product()))
            .collect();
        lens.sort();
        Ok(Workers {
            address: listener.local_addr().map_err(remote)?,
            listener: Mutex::new(Some(listener)),
            least: 0,
            shared: Arc::new(Shared {
                welcome,
                peers: Mutex::default(),
                places: Arc::default(),
                ended: AtomicBool::new(false),
                lens: lens.into_iter().map(|(_, len)| len).collect(),
                silence,
            }),
        })
    }

    /// Has the run begin once there are so many.
    #[must_use]
    pub fn at_least(mut self, least: usize) -> Workers {
        self.least = least;
        self
    }

    /// Where workers find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Workers that there are.
    pub fn count(&self) -> usize {
        lock(&self.shared.peers).len()
    }

    /// The gradients of `count` segments from number `first` on, in their order. Those that `local` computes are computed on this machine's
    /// threads.
    ///
    /// None if `stop` says so and workers do not end soon.
    ///
    /// # Errors
    /// Those of `segment` and `local`. A worker that fails is none.
    pub(in crate::train) fn gradients(
        &self,
        params: &Params,
        (first, count): (u64, usize),
        segment: &(dyn Fn(u64) -> Result<Segment, TrainError> + Sync),
        local: &(dyn Fn(&Segment) -> Result<Gradient, TrainError> + Sync),
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Gradient>>, TrainError> {
        let begun = Instant::now();
        self.let_in();
        let peers = std::mem::take(&mut *lock(&self.shared.peers));
        let step = Step {
            left: Mutex::new(first..first + count as u64),
            first,
            gradients: Mutex::new(vec![None; count]),
            failure: Mutex::default(),
            weights: match peers.is_empty() {
                true => Vec::new(),
                false => bytes_of(params)?,
            },
            segment,
        };
        let machines = peers.len() + 1;
        let compute = |i: u64| match segment(i).and_then(|s| local(&s)) {
            Ok(gradient) => step.keep(i, [gradient]),
            Err(error) => step.fail(error),
        };
        let (stayed, given_up) = std::thread::scope(|scope| {
            // It ends when all have let go of it.
            let (serving, served) = channel::<()>();
            let mut threads = Vec::new();
            for mut peer in peers {
                let (step, shared, serving) = (&step, &*self.shared, serving.clone());
                // Without it nobody could hang up on one that is late.
                let line = match peer.stream.get_ref().try_clone() {
                    Ok(line) => line,
                    Err(error) => {
                        log::warn!("training goes on without worker {}: {error}", peer.from);
                        continue;
                    }
                };
                let serve = move || {
                    let result = peer.serve(step, shared, machines);
                    drop(serving);
                    match result {
                        Ok(()) => Some(peer),
                        Err(error) => {
                            let why = shared.why(&error);
                            log::warn!("training goes on without worker {}: {why}", peer.from);
                            None
                        }
                    }
                };
                match std::thread::Builder::new().spawn_scoped(scope, serve) {
                    Ok(thread) => threads.push((thread, line)),
                    Err(error) => log::warn!("no thread for a worker: {error}"),
                }
            }
            drop(serving);
            (0..rayon::current_num_threads())
                .into_par_iter()
                .for_each(|_| {
                    while let Some(taken) = step.take(1, 1) {
                        compute(taken.start);
                    }
                });
            let patience = PATIENCE.0 * self.shared.silence + PATIENCE.1 * begun.elapsed();
            let dry = Instant::now();
            let mut stopped: Option<Instant> = None;
            let mut given_up = false;
            while served.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if stop() {
                    stopped.get_or_insert_with(Instant::now);
                }
                given_up = stopped.is_some_and(|at| at.elapsed() > GRACE);
                if given_up || dry.elapsed() > patience {
                    // The threads of those who are waited for end with an error.
                    let late = threads.iter().filter(|(thread, _)| !thread.is_finished());
                    for (_, line) in late {
                        let _ = line.shutdown(Shutdown::Both);
                    }
                    break;
                }
            }
            let stayed: Vec<Peer> = threads
                .into_iter()
                .filter_map(|(thread, _)| thread.join().ok().flatten())
                .collect();
            (stayed, given_up)
        });
        lock(&self.shared.peers).extend(stayed);
        // What workers took and did not bring.
        let missing: Vec<u64> = (first..)
            .zip(&*lock(&step.gradients))
            .filter_map(|(i, gradient)| gradient.is_none().then_some(i))
            .collect();
        if given_up && !missing.is_empty() {
            return Ok(None);
        }
        if lock(&step.failure).is_none() {
            missing.into_par_iter().for_each(compute);
        }
        let (failure, gradients) = (step.failure, step.gradients);
        match into_inner(failure) {
            Some(error) => Err(error),
            None => Ok(Some(into_inner(gradients).into_iter().flatten().collect())),
        }
    }

    /// Waits until the run may begin, or is to stop.
    pub(in crate::train) fn wait(&self, stop: &dyn Fn() -> bool) {
        loop {
            self.let_in();
            if self.count() >= self.least || stop() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Greets whoever came, each on a thread of its own: a stranger that says nothing keeps nobody waiting. Forgets who is gone.
    fn let_in(&self) {
        lock(&self.shared.peers).retain(|peer| {
            let there = peer.is_there();
            if !there {
                log::warn!("training goes on without worker {}: it is gone", peer.from);
            }
            there
        });
        let listener = lock(&self.listener);
        let Some(listener) = &*listener else { return };
        while self.shared.places.load(Ordering::SeqCst) < MOST {
            let (stream, from) = match listener.accept() {
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("can not let a worker in: {error}");
                    return;
                }
            };
            self.shared.places.fetch_add(1, Ordering::SeqCst);
            let place = Place(Arc::clone(&self.shared.places));
            let shared = Arc::clone(&self.shared);
            let greeting = std::thread::Builder::new().spawn(move || {
                match Peer::greet(stream, from, &shared, place) {
                    Ok(peer) => {
                        log::info!("worker {from} came, with {} threads", peer.threads);
                        lock(&shared.peers).push(peer);
                        if shared.ended.load(Ordering::SeqCst) {
                            shared.send_home();
                        }
                    }
                    Err(error) => log::warn!("no worker from {from}: {}", shared.why(&error)),
                }
            });
            if let Err(error) = greeting {
                log::warn!("no thread for a worker: {error}");
            }
        }
    }

    /// Sends all workers home, also those that come just now. From now on nobody listens.
    pub(in crate::train) fn end(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.let_in();
        lock(&self.listener).take();
        self.shared.send_home();
    }
}

impl Shared {
    fn send_home(&self) {
        for mut peer in lock(&self.peers).drain(..) {
            // One that is gone needs not be told.
            let _ = peer.stream.get_mut().write_all(&[END]);
        }
    }

    /// What went wrong with a worker, in words.
    fn why(&self, error: &io::Error) -> String {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "it says nothing".to_owned(),
            ErrorKind::UnexpectedEof => "it is gone".to_owned(),
            _ => error.to_string(),
        }
    }
}

impl Peer {
    fn greet(
        stream: TcpStream,
        from: SocketAddr,
        shared: &Shared,
        place: Place,
    ) -> io::Result<Peer> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(GREETING))?;
        let mut hello = Until(&stream, Instant::now() + GREETING);
        if read_array(&mut hello)? != HELLO {
            return Err(bad("it is no worker of this version"));
        }
        let threads = u16::from_le_bytes(read_array(&mut hello)?);
        let len = u16::from_le_bytes(read_array(&mut hello)?);
        let mut version = vec![0; len.min(MAX_VERSION).into()];
        hello.read_exact(&mut version)?;
        let good = version == wire::version().as_bytes();
        let why = format!("the run is by version {} of the program", wire::version());
        let mut answer = Vec::new();
        answer.extend(if good { HELLO } else { REFUSED });
        wire::write_text(&mut answer, if good { &shared.welcome } else { &why })?;
        (&stream).write_all(&answer)?;
        if !good {
            return Err(bad(&why));
        }
        stream.set_read_timeout(Some(shared.silence))?;
        stream.set_write_timeout(Some(shared.silence))?;
        Ok(Peer {
            from,
            stream: BufReader::new(stream),
            threads: usize::from(threads).max(1),
            _place: place,
        })
    }

    /// Whether it waits for work, as far as can be seen: unasked it says nothing.
    fn is_there(&self) -> bool {
        let stream = self.stream.get_ref();
        let silent = stream.set_nonblocking(true).is_ok()
            && (stream.peek(&mut [0])).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        silent && self.stream.buffer().is_empty() && stream.set_nonblocking(false).is_ok()
    }

    /// Has the worker compute for as long as something of the step is left.
    fn serve(&mut self, step: &Step<'_>, shared: &Shared, machines: usize) -> io::Result<()> {
        let mut weights = &step.weights[..];
        while let Some(taken) = step.take(self.threads, machines) {
            let segments: Result<Vec<Segment>, TrainError> =
                taken.clone().map(step.segment).collect();
            let segments = match segments {
                Ok(segments) => segments,
                Err(error) => {
                    step.fail(error);
                    return Ok(());
                }
            };
            let mut head = vec![JOB, u8::from(!weights.is_empty())];
            head.extend((segments.len() as u32).to_le_bytes());
            let stream = self.stream.get_mut();
            stream.write_all(&head)?;
            stream.write_all(std::mem::take(&mut weights))?;
            for segment in &segments {
                stream.write_all(&segment.features)?;
                stream.write_all(&segment.targets)?;
            }
            let gradients = self.receive(segments.len(), shared)?;
            step.keep(taken.start, gradients);
        }
        Ok(())
    }

    fn receive(&mut self, count: usize, shared: &Shared) -> io::Result<Vec<Gradient>> {
        loop {
            match read_array(&mut self.stream)? {
                [ALIVE] => {}
                [RESULT] => break,
                _ => return Err(bad("it answered something else")),
            }
        }
        let one = |_| {
            let loss = f64::from_le_bytes(read_array(&mut self.stream)?);
            if !(0.0..=MAX_LOSS).contains(&loss) {
                return Err(bad("its loss is none"));
            }
            let mut values: Vec<Vec<f32>> = shared.lens.iter().map(|&len| vec![0.0; len]).collect();
            for values in &mut values {
                wire::read_floats(&mut self.stream, values)?;
            }
            Ok(Gradient { loss, values })
        };
        (0..count).map(one).collect()
    }
}

impl Step<'_> {
    /// Some of the segments that are left, `most` at most, and so many that all machines get some. None after a failure.
    fn take(&self, most: usize, machines: usize) -> Option<Range<u64>> {
        if lock(&self.failure).is_some() {
            return None;
        }
        let mut left = lock(&self.left);
        let count = (left.end - left.start)
            .div_ceil(machines as u64)
            .min(most as u64);
        let from = left.start;
        left.start += count;
        (count > 0).then_some(from..from + count)
    }

    fn keep(&self, from: u64, gradients: impl IntoIterator<Item = Gradient>) {
        let mut kept = lock(&self.gradients);
        let at = (from - self.first) as usize;
        for (place, gradient) in kept[at..].iter_mut().zip(gradients) {
            *place = Some(gradient);
        }
    }

    fn fail(&self, error: TrainError) {
        lock(&self.failure).get_or_insert(error);
    }
}

fn bytes_of(params: &Params) -> Result<Vec<u8>, TrainError> {
    let mut bytes = Vec::new();
    for var in params.values() {
        wire::floats_to_bytes(&var.flatten_all()?.to_vec1::<f32>()?, &mut bytes);
    }
    Ok(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
