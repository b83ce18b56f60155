//! Ctrl-C and its kin: either the command is told to stop, or its unfinished file is removed and it dies.
//!
//! Nothing is installed until a command asks for it, so a daemon can fork first. Signals concerned are
//! SIGINT, SIGTERM and SIGHUP.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// A flag that the first signal raises; the second signal kills the process as if none of this were here.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    raised: Arc<AtomicBool>,
}

impl Cancel {
    /// Installs the handlers.
    pub fn on_signals() -> io::Result<Cancel> {
        let cancel = Cancel::default();
        for signal in SIGNALS {
            // Handlers run in this order: the first signal finds the flag down and only raises it.
            let raised = Arc::clone(&cancel.raised);
            signal_hook::flag::register_conditional_default(signal, raised)?;
            signal_hook::flag::register(signal, Arc::clone(&cancel.raised))?;
        }
        Ok(cancel)
    }

    /// Whether the user asked to stop.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// The flag itself, for functions that poll one.
    pub fn flag(&self) -> &AtomicBool {
        &self.raised
    }
}

static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
static WATCHER: OnceLock<bool> = OnceLock::new();

/// Makes a file, or a directory, and while the returned guard lives, a signal removes it with all that is in it before it ends the
/// process. A signal that comes while it is being made waits until it is known. `path` says where it is.
///
/// # Errors
/// Those of `make`.
pub fn make_removed_if_killed<T, E>(
    make: impl FnOnce() -> Result<T, E>,
    path: impl FnOnce(&T) -> PathBuf,
) -> Result<(T, UnfinishedFile), E> {
    WATCHER.get_or_init(|| match Signals::new(SIGNALS) {
        Ok(signals) => thread::Builder::new()
            .name("signals".into())
            .spawn(move || remove_and_die(signals))
            .is_ok(),
        Err(_) => false,
    });
    // The watcher takes this list before it does anything.
    let mut list = unfinished();
    let made = make()?;
    let path = path(&made);
    list.push(path.clone());
    Ok((made, UnfinishedFile { path }))
}

/// Keeps a path on the list of [`make_removed_if_killed`].
#[derive(Debug)]
pub struct UnfinishedFile {
    path: PathBuf,
}

impl Drop for UnfinishedFile {
    fn drop(&mut self) {
        unfinished().retain(|path| path != &self.path);
    }
}

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove_and_die(mut signals: Signals) {
    for signal in signals.forever() {
        // Nothing new is made any more.
        let mut list = unfinished();
        for path in list.drain(..) {
            // It may be renamed into place at this very moment: then nothing is left to remove.
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
        // Dies of the same signal, so that the shell sees what happened.
        let _ = emulate_default_handler(signal);
    }
}
