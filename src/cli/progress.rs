//! A progress bar for long work: drawn on standard error if that is a terminal, otherwise absent.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Progress over a known number of bytes. Shared by reference between threads; erased when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar that counts up to `bytes`, with `label` before it.
    pub fn bytes(label: impl Into<String>, bytes: u64) -> Progress {
        // indicatif hides a stderr target by itself where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr_with_hz(8));
        let template = "{prefix} {wide_bar} {percent:>3}% eta {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label.into());
        Progress { bar }
    }

    /// A bar that is never drawn: for `--json`, and for the daemon.
    pub fn hidden() -> Progress {
        Progress {
            bar: ProgressBar::hidden(),
        }
    }

    /// Counts `bytes` more as done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Sets the number of bytes done so far.
    pub fn set(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// Replaces the label, for example by the name of the next file.
    pub fn label(&self, label: impl Into<String>) {
        self.bar.set_prefix(label.into());
    }

    /// Writes a line above the bar, as [`super::warn`] does without one.
    pub fn warn(&self, message: impl std::fmt::Display) {
        self.bar.suspend(|| super::warn(message));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
