//! The commands as a user runs them: arguments in, files, text and exit codes out.

mod bad_input;
mod bench;
mod bench_fs;
mod cat;
mod common;
mod compress;
mod decompress;
mod deep;
mod demo;
mod full_disk;
mod help;
mod profiles;
mod repair;
mod starts;
mod stat;
mod train;
mod verify;
mod workers;
