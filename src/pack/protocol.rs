//! The control protocol: one JSON object a line over `.vortex/control.sock`.
//!
//! A client sends one request and reads events until `done`, `error` or `closed`. Closing the connection cancels
//! the job at its next block. Paths are logical, relative to the archive's root, with bytes that JSON or a line
//! could not carry written as `%XX`.

use serde::{Deserialize, Serialize};

pub use super::status::Status;
pub use crate::store::names::{escape, unescape};

/// Name of the socket in the archive's private directory.
pub const SOCKET: &str = "control.sock";
/// Longest request line in bytes.
pub const MAX_REQUEST: u64 = 1 << 20;

/// What to do with which files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Files and directories, each escaped by [`escape`]; empty text is the root.
    pub paths: Vec<String>,
    /// Profile to encode with: a name, an absolute path, or none for the mount's own.
    #[serde(default)]
    pub profile: Option<String>,
    /// Bytes in a block, or none for the mount's own.
    #[serde(default)]
    pub block_size: Option<u32>,
    /// Key blocks in a group, 0 to 16, or none for as many as usual.
    #[serde(default)]
    pub key_blocks: Option<u8>,
    /// Threads, or none for one a core.
    #[serde(default)]
    pub jobs: Option<usize>,
    /// Encode and measure, but change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Make files small.
    Pack(Job),
    /// Make files plain.
    Unpack(Job),
    /// Who is there?
    Ping,
    /// Figures of the daemon.
    Status,
    /// Tell me when you end, and how the last commit went.
    Watch,
}

/// How a job went for one file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileOutcome {
    /// Its stored form was replaced (or would be, in a dry run).
    #[default]
    Done,
    /// It has the wanted form already.
    Already,
    /// Its present form is the better one: left as it is.
    Left,
    /// It was written meanwhile: left as it is.
    Skipped,
    /// It could not be read or stored; left as it is.
    Failed,
    /// It holds damaged data; left as it is.
    Damaged,
}

/// What a job did to one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReport {
    /// Logical path, escaped.
    pub path: String,
    /// How it went.
    pub outcome: FileOutcome,
    /// Logical size.
    pub logical: u64,
    /// Exact bytes of the stored form before.
    pub before: u64,
    /// Exact bytes of the stored form after.
    pub after: u64,
    /// Disk space before, as `du` counts.
    pub disk_before: u64,
    /// Disk space after.
    pub disk_after: u64,
    /// Logical bytes that were encoded or decoded.
    pub worked: u64,
    /// Why, if it was skipped or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a job did in all.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Files looked at.
    pub files: u64,
    /// Files whose stored form was replaced.
    pub done: u64,
    /// Files that had the wanted form.
    pub already: u64,
    /// Files whose present form is the better one.
    pub left: u64,
    /// Files left alone because they were written meanwhile.
    pub skipped: u64,
    /// Files that failed.
    pub failed: u64,
    /// Files with damaged data.
    pub damaged: u64,
    /// Logical bytes of all files looked at.
    pub logical: u64,
    /// Exact stored bytes of them before and after.
    pub before: u64,
    /// See `before`.
    pub after: u64,
    /// Disk space of them before, as `du` counts.
    pub disk_before: u64,
    /// Disk space of them after.
    pub disk_after: u64,
    /// Logical bytes that were encoded or decoded.
    pub worked: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Whether it was cancelled before the end.
    pub cancelled: bool,
}

/// What a client hears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Another job runs; this one waits.
    Waiting,
    /// How much there is to do.
    Plan {
        /// Files.
        files: u64,
        /// Units of progress.
        bytes: u64,
    },
    /// How much is done, in units of the plan.
    Progress {
        /// Units done since the beginning.
        bytes: u64,
    },
    /// One file is done.
    File(FileReport),
    /// The job is done.
    Done(Summary),
    /// The request could not be done at all: one line.
    Error {
        /// What is wrong and what to do.
        message: String,
    },
    /// The answer to `ping` and to `status`.
    Status(Box<Status>),
    /// The answer to `watch`.
    Watching,
    /// The daemon ends; everything is durable unless there is an error.
    Closed {
        /// Why the last commit failed.
        error: Option<String>,
    },
}

impl Summary {
    /// Counts one file.
    pub fn count(&mut self, report: &FileReport) {
        self.files += 1;
        match report.outcome {
            FileOutcome::Done => self.done += 1,
            FileOutcome::Already => self.already += 1,
            FileOutcome::Left => self.left += 1,
            FileOutcome::Skipped => self.skipped += 1,
            FileOutcome::Failed => self.failed += 1,
            FileOutcome::Damaged => self.damaged += 1,
        }
        self.logical += report.logical;
        self.before += report.before;
        self.after += report.after;
        self.disk_before += report.disk_before;
        self.disk_after += report.disk_after;
        self.worked += report.worked;
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn every_path_survives_as_text() {
        for path in [
            "",
            "a/b",
            "a b,c\\d%e",
            "tab\tnewline\n",
            "100%",
            "%41",
            "\u{e9}",
        ] {
            let text = escape(Path::new(path));
            assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            assert_eq!(unescape(&text), Path::new(path));
        }
        let odd = PathBuf::from(OsString::from_vec(vec![0xff, b'/', 0x80]));
        assert_eq!(unescape(&escape(&odd)), odd);
        assert_eq!(unescape("50%zz%4"), Path::new("50%zz%4"));
    }

    #[test]
    fn messages_are_one_line_and_read_back() {
        let request = Request::Pack(Job {
            paths: vec!["a%0Ab".into()],
            jobs: Some(2),
            ..Job::default()
        });
        let line = serde_json::to_string(&request).expect("serializable");
        assert!(
            !line.contains('\n') && line.contains("\"command\":\"pack\""),
            "{line}"
        );
        assert_eq!(
            serde_json::from_str::<Request>(&line).expect("readable"),
            request
        );
        let event = Event::Closed {
            error: Some("full\ndisk".into()),
        };
        let line = serde_json::to_string(&event).expect("serializable");
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(
            serde_json::from_str::<Event>(&line).expect("readable"),
            event
        );
        let bare: Request =
            serde_json::from_str(r#"{"command":"unpack","paths":["x"]}"#).expect("readable");
        assert_eq!(
            bare,
            Request::Unpack(Job {
                paths: vec!["x".into()],
                ..Job::default()
            })
        );
    }
}
