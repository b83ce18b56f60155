//! Promises of segments, tested through their public interface.

mod api;
mod crash;
mod damage;
mod faulty;
mod model;
mod support;
