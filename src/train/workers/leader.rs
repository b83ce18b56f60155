//! The side that has the data, the weights and the optimiser.

use super::wire::{self, ALIVE, END, HELLO, JOB, REFUSED, RESULT, Welcome, bad, read_array};
use crate::model::Params;
use crate::train::data::Segment;
use crate::train::gradient::Gradient;
use crate::train::{Settings, TrainError};
use rayon::prelude::*;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a worker may be silent or not take what it is sent. It says every few seconds that it is alive.
const SILENCE: Duration = Duration::from_secs(30);
/// How long each part of a greeting may take.
const GREETING: Duration = Duration::from_secs(10);
/// Pause between two looks whether somebody came.
const LOOK: Duration = Duration::from_millis(20);
/// Greetings under way, at most: others wait.
const GREETINGS: usize = 16;
/// Workers, at most.
const MOST: usize = 256;

/// The workers of a run.
pub struct Workers {
    listener: TcpListener,
    address: SocketAddr,
    least: usize,
    shared: Arc<Shared>,
}

struct Shared {
    /// What a worker is told about the run.
    welcome: String,
    peers: Mutex<Vec<Peer>>,
    greetings: AtomicUsize,
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
            listener,
            least: 0,
            shared: Arc::new(Shared {
                welcome,
                peers: Mutex::default(),
                greetings: AtomicUsize::new(0),
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
    /// # Errors
    /// Those of `segment` and `local`. A worker that fails is none.
    pub(in crate::train) fn gradients(
        &self,
        params: &Params,
        (first, count): (u64, usize),
        segment: &(dyn Fn(u64) -> Result<Segment, TrainError> + Sync),
        local: &(dyn Fn(&Segment) -> Result<Gradient, TrainError> + Sync),
    ) -> Result<Vec<Gradient>, TrainError> {
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
        let stayed: Vec<Peer> = std::thread::scope(|scope| {
            let serve = |mut peer: Peer| {
                let (step, shared) = (&step, &*self.shared);
                scope.spawn(move || match peer.serve(step, shared, machines) {
                    Ok(()) => Some(peer),
                    Err(error) => {
                        let why = match error.kind() {
                            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                                format!("it says nothing for {} s", shared.silence.as_secs())
                            }
                            ErrorKind::UnexpectedEof => "it is gone".to_owned(),
                            _ => error.to_string(),
                        };
                        log::warn!("training goes on without worker {}: {why}", peer.from);
                        None
                    }
                })
            };
            let serving: Vec<_> = peers.into_iter().map(serve).collect();
            (0..rayon::current_num_threads())
                .into_par_iter()
                .for_each(|_| {
                    while let Some(taken) = step.take(1, 1) {
                        compute(taken.start);
                    }
                });
            serving
                .into_iter()
                .filter_map(|thread| thread.join().ok().flatten())
                .collect()
        });
        lock(&self.shared.peers).extend(stayed);
        // What workers took and did not bring.
        let missing: Vec<u64> = (first..)
            .zip(&*lock(&step.gradients))
            .filter_map(|(i, gradient)| gradient.is_none().then_some(i))
            .collect();
        if lock(&step.failure).is_none() {
            missing.into_par_iter().for_each(compute);
        }
        let (failure, gradients) = (step.failure, step.gradients);
        match into_inner(failure) {
            Some(error) => Err(error),
            None => Ok(into_inner(gradients).into_iter().flatten().collect()),
        }
    }

    /// Waits until the run may begin, or is to stop.
    pub(in crate::train) fn wait(&self, stop: &dyn Fn() -> bool) {
        while self.count() < self.least && !stop() {
            self.let_in();
            std::thread::sleep(LOOK);
        }
    }

    /// Greets whoever came, each on a thread of its own: a stranger that says nothing keeps nobody waiting.
    fn let_in(&self) {
        while self.shared.greetings.load(Ordering::Relaxed) < GREETINGS {
            let (stream, from) = match self.listener.accept() {
                Ok(came) => came,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("can not let a worker in: {error}");
                    return;
                }
            };
            self.shared.greetings.fetch_add(1, Ordering::Relaxed);
            let shared = Arc::clone(&self.shared);
            std::thread::spawn(move || {
                match Peer::greet(stream, from, &shared) {
                    Ok(peer) => {
                        log::info!("worker {from} came, with {} threads", peer.threads);
                        lock(&shared.peers).push(peer);
                        if shared.ended.load(Ordering::SeqCst) {
                            shared.send_home();
                        }
                    }
                    Err(error) => log::warn!("no worker from {from}: {error}"),
                }
                shared.greetings.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Sends all workers home, also those that are being greeted.
    pub(in crate::train) fn end(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
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
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Peer {
    fn greet(stream: TcpStream, from: SocketAddr, shared: &Shared) -> io::Result<Peer> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING))?;
        stream.set_write_timeout(Some(GREETING))?;
        let mut stream = BufReader::new(stream);
        if read_array(&mut stream)? != HELLO {
            return Err(bad("it is no worker of this version"));
        }
        let threads = u16::from_le_bytes(read_array(&mut stream)?);
        let mut version = vec![0; u16::from_le_bytes(read_array(&mut stream)?).into()];
        stream.read_exact(&mut version)?;
        let why = if version != wire::version().as_bytes() {
            format!("the run is by version {} of the program", wire::version())
        } else if lock(&shared.peers).len() >= MOST {
            format!("the run has {MOST} workers")
        } else {
            String::new()
        };
        let mut answer = Vec::new();
        answer.extend(if why.is_empty() { HELLO } else { REFUSED });
        wire::write_text(
            &mut answer,
            if why.is_empty() {
                &shared.welcome
            } else {
                &why
            },
        )?;
        stream.get_mut().write_all(&answer)?;
        if !why.is_empty() {
            return Err(bad(&why));
        }
        stream.get_mut().set_read_timeout(Some(shared.silence))?;
        stream.get_mut().set_write_timeout(Some(shared.silence))?;
        Ok(Peer {
            from,
            stream,
            threads: usize::from(threads).max(1),
        })
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
            let mut job = vec![JOB, u8::from(!weights.is_empty())];
            job.extend((segments.len() as u32).to_le_bytes());
            job.extend_from_slice(std::mem::take(&mut weights));
            for segment in &segments {
                job.extend_from_slice(&segment.features);
                job.extend_from_slice(&segment.targets);
            }
            self.stream.get_mut().write_all(&job)?;
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
