//! Training on several machines.
//!
//! The *leader* runs `train` with `--listen`. *Workers* have neither data nor state: for each step they are sent the weights and segments,
//! and answer with the gradients. The leader sums these in the order of the segments, as it does alone, so what comes out does not
//! depend on who computed which, provided that all machines compute alike. Workers come and go as they like: what one took and did not bring
//! the leader computes itself.
//!
//! Nothing is encrypted and nobody is asked who he is: for networks whose members trust each other, or for tunnels.

mod leader;
mod peer;
mod step;
mod wire;
mod worker;

pub use leader::Workers;
pub use worker::{Done, work};

use std::sync::{Mutex, PoisonError};

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
