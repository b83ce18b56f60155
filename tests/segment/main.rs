//! Promises of segments, tested through their public interface.

mod api;
mod support;
