//! Promises of segments, tested through their public interface.

mod api;
mod crash;
mod damage;
mod document;
mod faulty;
mod golden;
mod model;
mod repair;
mod starts;
mod support;
