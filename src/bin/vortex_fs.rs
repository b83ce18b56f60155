//! Replaced by the command line.
fn main() {}
