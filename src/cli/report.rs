//! Where text goes: results to standard output, warnings to standard error.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

use super::CliError;
use crate::store::shown;

/// Writes one line of a result to standard output. A closed pipe is an error that ends the command quietly.
pub fn print(line: impl Display) -> Result<(), CliError> {
    write_line(&shown(&line.to_string()))
}

/// Writes several lines that hold no words but the program's own.
pub fn print_lines(text: impl Display) -> Result<(), CliError> {
    text.to_string().lines().try_for_each(print)
}

fn write_line(text: &str) -> Result<(), CliError> {
    writeln!(io::stdout().lock(), "{text}").map_err(|e| CliError::io("standard output", &e))
}

/// Writes a result as indented JSON to standard output.
pub fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| CliError::failed(format!("the result can not be written as JSON: {e}")))?;
    write_line(&text)
}

/// Writes one line to standard error, in the form of every message of the program.
pub fn warn(message: impl Display) {
    // A standard error that nobody reads is no reason to fail.
    let _ = writeln!(
        io::stderr().lock(),
        "vortex-fs: {}",
        shown(&message.to_string())
    );
}
