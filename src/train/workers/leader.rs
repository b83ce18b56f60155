//! The side that has the data, the weights and the optimiser.

use super::into_inner;
use super::peer::{Peer, Place};
use super::step::Step;
use super::wire::{self, END, Welcome};
use crate::model::Params;
use crate::train::data::{Segment, lock};
use crate::train::gradient::Gradient;
use crate::train::{Settings, TrainError};
use rayon::prelude::*;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a worker may be silent or not take what it is sent. It says every few seconds that it is alive.
const SILENCE: Duration = Duration::from_secs(30);
/// When all else of a step is done, a worker may take so many times [`SILENCE`], and so many times what the rest of the step took.
const PATIENCE: (u32, u32) = (4, 20);
/// How long one is waited for after a stop.
const GRACE: Duration = Duration::from_secs(5);
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

pub(super) struct Shared {
    /// What a worker is told about the run.
    pub(super) welcome: String,
    peers: Mutex<Vec<Peer>>,
    /// Workers and those who may become some.
    places: Arc<AtomicUsize>,
    ended: AtomicBool,
    /// Lengths of the parameters.
    pub(super) lens: Vec<usize>,
    pub(super) silence: Duration,
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
                            let why = wire::why(&error);
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
            let place = Place::take(&self.shared.places);
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
                    Err(error) => log::warn!("no worker from {from}: {}", wire::why(&error)),
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
}

fn bytes_of(params: &Params) -> Result<Vec<u8>, TrainError> {
    let mut bytes = Vec::new();
    for var in params.values() {
        wire::floats_to_bytes(&var.flatten_all()?.to_vec1::<f32>()?, &mut bytes);
    }
    Ok(bytes)
}
