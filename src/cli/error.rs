//! What a command ends with: an [`Outcome`] and its exit code, or a [`CliError`] and its one line.
//!
//! The exit codes are part of the interface (docs/CLI.md): 0 good, 1 usage or environment, 2 damaged data,
//! 3 partial, 4 whole but with a safeguard damaged.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// How a command that ran to its end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was asked for is done: exit code 0.
    Good,
    /// Nothing could be done for reasons outside the data: exit code 1.
    Failed,
    /// Damaged data were found: exit code 2.
    Damaged,
    /// A part was done and a part was not: exit code 3.
    Partial,
    /// Nothing is lost, but what keeps it safe is damaged: exit code 4.
    Degraded,
}

impl Outcome {
    /// The documented exit code.
    pub fn code(self) -> u8 {
        match self {
            Outcome::Good => 0,
            Outcome::Failed => 1,
            Outcome::Damaged => 2,
            Outcome::Partial => 3,
            Outcome::Degraded => 4,
        }
    }

    /// The outcome of two parts together: damage outweighs all, success and failure make a partial result, a damaged
    /// safeguard outweighs success.
    pub fn and(self, other: Outcome) -> Outcome {
        match (self, other) {
            (Outcome::Damaged, _) | (_, Outcome::Damaged) => Outcome::Damaged,
            (a, b) if a == b => a,
            (Outcome::Degraded, Outcome::Good) | (Outcome::Good, Outcome::Degraded) => {
                Outcome::Degraded
            }
            _ => Outcome::Partial,
        }
    }

    /// The outcome of a list of parts, each of which reports its own errors; an empty list is good.
    pub fn of_all(parts: impl IntoIterator<Item = Outcome>) -> Outcome {
        parts
            .into_iter()
            .reduce(Outcome::and)
            .unwrap_or(Outcome::Good)
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> ExitCode {
        ExitCode::from(outcome.code())
    }
}

/// Why a command, or its work on one file, failed: displayed as `SUBJECT: what is wrong; what to do`.
#[derive(Debug)]
pub struct CliError {
    outcome: Outcome,
    subject: Option<String>,
    message: String,
    remedy: Option<String>,
    kind: Option<io::ErrorKind>,
}

impl CliError {
    fn new(outcome: Outcome, message: impl Into<String>) -> CliError {
        CliError {
            outcome,
            subject: None,
            message: message.into(),
            remedy: None,
            kind: None,
        }
    }

    /// A wrong call or an environment that can not do it: exit code 1.
    pub fn failed(message: impl Into<String>) -> CliError {
        CliError::new(Outcome::Failed, message)
    }

    /// Data on disk that do not pass their checks: exit code 2.
    pub fn damaged(message: impl Into<String>) -> CliError {
        CliError::new(Outcome::Damaged, message)
    }

    /// Work that was cut short with a part of it done: exit code 3.
    pub fn partial(message: impl Into<String>) -> CliError {
        CliError::new(Outcome::Partial, message)
    }

    /// A system call failed on `path`: the system's own words and, where one is known, the remedy.
    pub fn io(path: impl AsRef<Path>, error: &io::Error) -> CliError {
        let mut made = CliError::failed(system_words(error)).on(path);
        made.kind = Some(error.kind());
        made.remedy = system_remedy(error.kind()).map(str::to_owned);
        made
    }

    /// Names the file or directory that the failure is about.
    pub fn on(mut self, path: impl AsRef<Path>) -> CliError {
        self.subject = Some(path.as_ref().display().to_string());
        self
    }

    /// Says what the user can do about it.
    pub fn remedy(mut self, what_to_do: impl Into<String>) -> CliError {
        self.remedy = Some(what_to_do.into());
        self
    }

    /// What the command's exit code becomes if nothing else was done.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the reader of standard output went away, which is no reason for a message.
    pub fn is_broken_pipe(&self) -> bool {
        self.kind == Some(io::ErrorKind::BrokenPipe)
    }

    /// Whether something is not there.
    pub fn is_missing(&self) -> bool {
        self.kind == Some(io::ErrorKind::NotFound)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CliError {}

/// The system's text without Rust's "(os error N)", first letter small.
fn system_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "unknown error".to_owned(),
    }
}

fn system_remedy(kind: io::ErrorKind) -> Option<&'static str> {
    Some(match kind {
        io::ErrorKind::NotFound => "check the spelling of the path",
        io::ErrorKind::PermissionDenied => "check its owner and mode, or run as its owner",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space, or write elsewhere with -o; nothing was changed"
        }
        io::ErrorKind::ReadOnlyFilesystem => "write elsewhere with -o, or remount it writable",
        io::ErrorKind::AlreadyExists => "remove it, or name another place",
        io::ErrorKind::IsADirectory => "name a file inside it",
        io::ErrorKind::NotADirectory => "name a directory",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_outweighs_and_mixed_parts_are_partial() {
        use Outcome::*;
        assert_eq!(Outcome::of_all([]), Good);
        assert_eq!(Outcome::of_all([Good, Good]), Good);
        assert_eq!(Outcome::of_all([Failed, Failed]), Failed);
        assert_eq!(Outcome::of_all([Good, Failed]), Partial);
        assert_eq!(Outcome::of_all([Good, Failed, Damaged]), Damaged);
        assert_eq!(Outcome::of_all([Damaged, Good]), Damaged);
        assert_eq!(Outcome::of_all([Good, Degraded, Good]), Degraded);
        assert_eq!(Outcome::of_all([Degraded, Failed]), Partial);
        assert_eq!(Outcome::of_all([Degraded, Damaged]), Damaged);
    }

    #[test]
    fn error_is_one_line_with_path_cause_and_remedy() {
        let error = CliError::damaged("block 3 fails its checksum")
            .on("/a/b.vortex")
            .remedy("restore it from a copy");
        assert_eq!(
            error.to_string(),
            "/a/b.vortex: block 3 fails its checksum; restore it from a copy"
        );
        assert_eq!(error.outcome().code(), 2);
    }

    #[test]
    fn system_errors_carry_a_remedy_and_no_number() {
        let error = CliError::io("/none", &io::Error::from_raw_os_error(2));
        assert_eq!(
            error.to_string(),
            "/none: no such file or directory; check the spelling of the path"
        );
        let full = CliError::io("/x", &io::Error::from_raw_os_error(28));
        assert!(full.to_string().contains("no space left"), "{full}");
        assert!(CliError::io("-", &io::Error::from_raw_os_error(32)).is_broken_pipe());
    }
}
