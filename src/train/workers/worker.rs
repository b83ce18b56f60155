//! The side that computes.

use super::wire::{self, ALIVE, END, HELLO, JOB, REFUSED, RESULT, Welcome, bad, read_array};
use crate::model::{CompressiveTransformer, Params, initial};
use crate::train::data::Segment;
use crate::train::gradient::{Gradient, gradient, model_of};
use crate::train::{BLOCK, TrainError};
use candle_core::Tensor;
use rayon::prelude::*;
use rustix::net::sockopt;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Pause between two signs of life: the leader waits for several.
const SIGN: Duration = Duration::from_secs(5);
/// Time for an attempt to reach the leader, at least.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach the leader.
const RETRY: Duration = Duration::from_millis(200);
/// Silence of the leader's machine after which it is asked whether it is still there, and pause between questions.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(10)];
/// Segments of a job, at most: those of the largest batch.
const MOST: u32 = 1024;

/// What a worker has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Jobs, of which there are one or more in a step.
    pub jobs: u64,
    /// Segments that it differentiated.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Works for the run at `address` until it needs no more steps. Waits so long for it to begin.
///
/// # Errors
/// [`TrainError::Remote`] if there is no run, it refuses, or it is lost before its end; candle's.
pub fn work(
    address: &str,
    wait: Duration,
    watch: &mut dyn FnMut(Done),
) -> Result<Done, TrainError> {
    let remote = |reason: String| TrainError::Remote {
        address: address.to_owned(),
        reason,
    };
    let begun = Instant::now();
    let (stream, welcome) = loop {
        let left = wait.saturating_sub(begun.elapsed());
        let (what, error) = match connect(address, left.max(ATTEMPT)) {
            Err(error) => ("can not be reached", error),
            Ok(stream) => match greet(stream) {
                Ok(Ok(greeted)) => break greeted,
                Ok(Err(why)) => return Err(remote(format!("refuses: {why}"))),
                Err(error) => ("is no training run", error),
            },
        };
        if left.is_zero() || !may_begin(&error) {
            return Err(remote(format!("{what}: {}", wire::why(&error))));
        }
        std::thread::sleep(RETRY);
    };
    let mut worker = Worker::new(stream, &welcome)?;
    let lost = |e: io::Error| remote(format!("the run is lost: {}", wire::why(&e)));
    let mut done = Done::default();
    watch(done);
    while let Some(segments) = worker.next().map_err(lost)? {
        let gradients = worker.compute(&segments).map_err(|error| match error {
            Failure::Remote(error) => lost(error),
            Failure::Candle(error) => TrainError::Candle(error),
        })?;
        worker.answer(&gradients).map_err(lost)?;
        done.jobs += 1;
        done.segments += segments.len() as u64;
        done.bytes += (segments.len() * worker.window) as u64;
        watch(done);
    }
    Ok(done)
}

/// Whether the run may be about to begin. A tunnel's end is always there, and hangs up if the other one finds nobody.
fn may_begin(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::UnexpectedEof
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

/// Tries all addresses of a name, each for so long.
fn connect(address: &str, time: Duration) -> io::Result<TcpStream> {
    let mut last = ErrorKind::NotFound.into();
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, time) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Says hello; the answer may take as long as the leader has other things to do. An inner error is its refusal.
fn greet(stream: TcpStream) -> io::Result<Result<(BufReader<TcpStream>, Welcome), String>> {
    stream.set_nodelay(true)?;
    // Between steps a leader may be silent for long; a machine that is gone should still be noticed.
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, KEEPALIVE[0])?;
    sockopt::set_tcp_keepintvl(&stream, KEEPALIVE[1])?;
    let threads = u16::try_from(rayon::current_num_threads()).unwrap_or(u16::MAX);
    let version = wire::version();
    let mut hello = HELLO.to_vec();
    hello.extend(threads.to_le_bytes());
    hello.extend((version.len() as u16).to_le_bytes());
    hello.extend(version.as_bytes());
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&hello)?;
    let answer = read_array(&mut stream)?;
    if answer != HELLO && answer != REFUSED {
        return Err(bad("it answers something else"));
    }
    let text = wire::read_text(&mut stream)?;
    if answer == REFUSED {
        return Ok(Err(text));
    }
    let welcome: Welcome = serde_json::from_str(&text)?;
    if welcome.config.validate().is_err() || !(1..=BLOCK).contains(&welcome.window) {
        return Err(bad("its configuration is not valid"));
    }
    Ok(Ok((stream, welcome)))
}

struct Worker {
    stream: BufReader<TcpStream>,
    window: usize,
    features: usize,
    params: Params,
    model: CompressiveTransformer,
}

enum Failure {
    Remote(io::Error),
    Candle(candle_core::Error),
}

impl Worker {
    fn new(stream: BufReader<TcpStream>, welcome: &Welcome) -> Result<Worker, TrainError> {
        // Whatever the weights are: the first job brings others.
        let params = initial(&welcome.config, 0)?;
        Ok(Worker {
            stream,
            window: welcome.window,
            features: welcome.config.model.features.len(),
            model: model_of(&welcome.config, &params)?,
            params,
        })
    }

    /// The next job; none after the last.
    fn next(&mut self) -> io::Result<Option<Vec<Segment>>> {
        match read_array(&mut self.stream)? {
            [END] => return Ok(None),
            [JOB] => {}
            _ => return Err(bad("it asks for something else")),
        }
        let [weights] = read_array(&mut self.stream)?;
        let count = u32::from_le_bytes(read_array(&mut self.stream)?);
        if weights > 1 || !(1..=MOST).contains(&count) {
            return Err(bad("its job is not valid"));
        }
        if weights == 1 {
            for var in self.params.values() {
                let mut values = vec![0.0; var.elem_count()];
                wire::read_floats(&mut self.stream, &mut values)?;
                Tensor::from_vec(values, var.shape(), var.device())
                    .and_then(|tensor| var.set(&tensor))
                    .map_err(io::Error::other)?;
            }
        }
        let mut segment = || {
            let mut features = vec![0; self.window * self.features];
            let mut targets = vec![0; self.window];
            self.stream.read_exact(&mut features)?;
            self.stream.read_exact(&mut targets)?;
            Ok(Segment {
                features: Arc::new(features),
                targets: Arc::new(targets),
            })
        };
        (0..count)
            .map(|_| segment())
            .collect::<io::Result<_>>()
            .map(Some)
    }

    /// Differentiates segments, and says meanwhile that it is alive.
    fn compute(&mut self, segments: &[Segment]) -> Result<Vec<Gradient>, Failure> {
        let (model, params, stream) = (&self.model, &self.params, self.stream.get_mut());
        std::thread::scope(|scope| {
            let (done, wait) = channel();
            scope.spawn(move || {
                let gradients: candle_core::Result<Vec<Gradient>> = segments
                    .par_iter()
                    .map(|segment| gradient(model, params, segment))
                    .collect();
                // Nobody listens if the leader is gone.
                let _ = done.send(gradients);
            });
            loop {
                match wait.recv_timeout(SIGN) {
                    Ok(gradients) => return gradients.map_err(Failure::Candle),
                    Err(RecvTimeoutError::Timeout) => {
                        stream.write_all(&[ALIVE]).map_err(Failure::Remote)?;
                    }
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Failure::Remote(bad("a thread ended early")));
                    }
                }
            }
        })
    }

    fn answer(&mut self, gradients: &[Gradient]) -> io::Result<()> {
        let mut answer = vec![RESULT];
        for gradient in gradients {
            answer.extend(gradient.loss.to_le_bytes());
            for values in &gradient.values {
                wire::floats_to_bytes(values, &mut answer);
            }
        }
        self.stream.get_mut().write_all(&answer)
    }
}
