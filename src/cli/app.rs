//! The three programs: arguments in, exit code out.

use std::any::Any;
use std::panic;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::store::shown;

use super::{
    CliError, Outcome, bench, cat, compress, decompress, demo, mount, pack, profiles, repair, stat,
    status, train, umount, unpack, verify, warn,
};

/// Keeps years of telemetry in neurally compressed, randomly readable files, on a file system that existing tools use unchanged.
#[derive(Debug, Parser)]
#[command(
    name = "vortex-fs",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples:
  vortex-fs demo                                   see it work, in a temporary directory
  vortex-fs mount /data/archive /mnt/telemetry     then use /mnt/telemetry as any directory
  vortex-fs pack /data/archive                     make what is cold small
  vortex-fs umount /mnt/telemetry

`vortex-fs COMMAND --help` explains each command."
)]
struct VortexFs {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Args),
    Umount(umount::Args),
    Status(status::Args),
    Pack(pack::Args),
    Unpack(unpack::Args),
    Compress(compress::Args),
    Decompress(decompress::Args),
    Cat(cat::Args),
    Stat(stat::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Profiles(profiles::Args),
    Bench(bench::Args),
    Train(train::Args),
    TrainWorker(train::worker::Args),
    Demo(demo::Args),
}

#[derive(Debug, Parser)]
#[command(name = "vortex-compress", version, max_term_width = 100)]
struct VortexCompress {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(flatten)]
    args: compress::Args,
}

#[derive(Debug, Parser)]
#[command(name = "vortex-decompress", version, max_term_width = 100)]
struct VortexDecompress {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(flatten)]
    args: decompress::Args,
}

#[derive(Debug, clap::Args)]
struct Verbosity {
    /// Log more: once for information, twice for debugging, three times for every operation
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

/// The program `vortex-fs`.
pub fn vortex_fs() -> ExitCode {
    program::<VortexFs>(|cli| {
        // A daemon has a log of its own.
        if !crate::mount::in_background() {
            log_to_stderr(cli.verbosity.verbose);
        }
        match cli.command {
            Command::Mount(args) => mount::run(args),
            Command::Umount(args) => umount::run(args),
            Command::Status(args) => status::run(args),
            Command::Pack(args) => pack::run(args),
            Command::Unpack(args) => unpack::run(args),
            Command::Compress(args) => compress::run(args),
            Command::Decompress(args) => decompress::run(args),
            Command::Cat(args) => cat::run(args),
            Command::Stat(args) => stat::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Repair(args) => repair::run(args),
            Command::Profiles(args) => profiles::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Train(args) => train::run(args),
            Command::TrainWorker(args) => train::worker::run(args),
            Command::Demo(args) => demo::run(args),
        }
    })
}

/// The program `vortex-compress`.
pub fn vortex_compress() -> ExitCode {
    program::<VortexCompress>(|cli| {
        log_to_stderr(cli.verbosity.verbose);
        compress::run(cli.args)
    })
}

/// The program `vortex-decompress`.
pub fn vortex_decompress() -> ExitCode {
    program::<VortexDecompress>(|cli| {
        log_to_stderr(cli.verbosity.verbose);
        decompress::run(cli.args)
    })
}

/// Parses, runs, reports: the outer shell of every program.
fn program<P: Parser>(run: impl FnOnce(P) -> Result<Outcome, CliError>) -> ExitCode {
    panic::set_hook(Box::new(report_panic));
    let parsed = match P::try_parse() {
        Ok(parsed) => parsed,
        Err(message) => {
            // Help and version are good; everything else is wrong usage. A closed pipe changes neither.
            let _ = message.print();
            return ExitCode::from(u8::from(message.use_stderr()));
        }
    };
    finish(|| run(parsed)).into()
}

/// Runs and reports: what is wrong in one line, a closed pipe not at all; a panic has been reported by its hook.
fn finish(run: impl FnOnce() -> Result<Outcome, CliError>) -> Outcome {
    // Nothing outlives the closure, so no half-changed value can be seen after a panic.
    match panic::catch_unwind(panic::AssertUnwindSafe(run)) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) if error.is_broken_pipe() => Outcome::Good,
        Ok(Err(error)) => {
            warn(&error);
            error.outcome()
        }
        Err(_) => Outcome::Failed,
    }
}

/// One line for a defect of the program itself, with what a report of it needs.
fn report_panic(info: &panic::PanicHookInfo<'_>) {
    warn(panic_line(info.payload(), info.location()));
}

fn panic_line(payload: &(dyn Any + Send), location: Option<&panic::Location<'_>>) -> String {
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .replace('\n', " ");
    let place = location
        .map(|l| format!(" at {}:{}", l.file(), l.line()))
        .unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    format!("internal error{place} in version {version}: {what}; please report this line")
}

/// Sends the log to standard error: warnings by default, more with `-v`; `VORTEX_LOG` overrides.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = env_logger::Env::default().filter_or("VORTEX_LOG", level);
    // Fails only where a logger is set already, which is as good.
    let _ = env_logger::Builder::from_env(filter)
        .format(|out, record| {
            use std::io::Write;
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(
                out,
                "vortex-fs: {level}: {}",
                shown(&record.args().to_string())
            )
        })
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_is_a_failure_and_one_line() {
        assert_eq!(
            finish(|| panic!("a test of the panic line")),
            Outcome::Failed
        );
        let line = panic_line(&String::from("two\nlines"), Some(panic::Location::caller()));
        assert!(
            line.contains("app.rs:") && line.contains("two lines; please report"),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn closed_pipe_is_quiet_and_good() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(
            finish(|| Err(CliError::io("standard output", &closed))),
            Outcome::Good
        );
        assert_eq!(finish(|| Err(CliError::damaged("x"))), Outcome::Damaged);
    }

    #[test]
    fn arguments_are_consistent() {
        use clap::CommandFactory;
        VortexFs::command().debug_assert();
        VortexCompress::command().debug_assert();
        VortexDecompress::command().debug_assert();
    }
}
