//! The segments of one step, which threads and workers take, and what they make of them.

use crate::train::TrainError;
use crate::train::data::{Segment, lock};
use crate::train::gradient::Gradient;
use std::ops::Range;
use std::sync::Mutex;

/// The segments of a step.
pub(super) struct Step<'a> {
    /// Those that nobody took yet.
    pub(super) left: Mutex<Range<u64>>,
    pub(super) first: u64,
    pub(super) gradients: Mutex<Vec<Option<Gradient>>>,
    pub(super) failure: Mutex<Option<TrainError>>,
    pub(super) weights: Vec<u8>,
    pub(super) segment: &'a (dyn Fn(u64) -> Result<Segment, TrainError> + Sync),
}

impl Step<'_> {
    /// Some of the segments that are left, `most` at most, and so many that all machines get some. None after a failure.
    pub(super) fn take(&self, most: usize, machines: usize) -> Option<Range<u64>> {
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

    pub(super) fn keep(&self, from: u64, gradients: impl IntoIterator<Item = Gradient>) {
        let mut kept = lock(&self.gradients);
        let at = (from - self.first) as usize;
        for (place, gradient) in kept[at..].iter_mut().zip(gradients) {
            *place = Some(gradient);
        }
    }

    pub(super) fn fail(&self, error: TrainError) {
        lock(&self.failure).get_or_insert(error);
    }
}
