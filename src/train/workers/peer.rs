//! A worker as the leader sees it.

use super::leader::Shared;
use super::step::Step;
use super::wire::{self, ALIVE, HELLO, JOB, REFUSED, RESULT, bad, read_array};
use crate::train::TrainError;
use crate::train::data::Segment;
use crate::train::gradient::Gradient;
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a greeting may take.
const GREETING: Duration = Duration::from_secs(10);
/// Bytes of a version's name, at most.
const MAX_VERSION: u16 = 64;
/// Bits per byte that a model can say of anything, at most.
const MAX_LOSS: f64 = 1e7;

/// A worker that was greeted.
pub(super) struct Peer {
    pub(super) from: SocketAddr,
    pub(super) stream: BufReader<TcpStream>,
    pub(super) threads: usize,
    _place: Place,
}

/// A place among the workers, whose number is limited.
pub(super) struct Place(Arc<AtomicUsize>);

impl Place {
    pub(super) fn take(places: &Arc<AtomicUsize>) -> Place {
        places.fetch_add(1, Ordering::SeqCst);
        Place(Arc::clone(places))
    }
}

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

impl Peer {
    pub(super) fn greet(
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
    pub(super) fn is_there(&self) -> bool {
        let stream = self.stream.get_ref();
        let silent = stream.set_nonblocking(true).is_ok()
            && (stream.peek(&mut [0])).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        silent && self.stream.buffer().is_empty() && stream.set_nonblocking(false).is_ok()
    }

    /// Has the worker compute for as long as something of the step is left.
    pub(super) fn serve(
        &mut self,
        step: &Step<'_>,
        shared: &Shared,
        machines: usize,
    ) -> io::Result<()> {
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
