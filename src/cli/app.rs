//! The three programs: arguments in, exit code out.

use std::panic;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::{
    CliError, Outcome, cat, compress, decompress, demo, mount, pack, profiles, stat, train, umount,
    unpack, verify, warn,
};

/// Keeps years of telemetry in neurally compressed, randomly readable files, on a file system that existing tools use unchanged.
#[derive(Debug, Parser)]
#[command(
    name = "vortex-fs",
    version,
    propagate_version = true,
    max_term_width = 100
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
    Pack(pack::Args),
    Unpack(unpack::Args),
    Compress(compress::Args),
    Decompress(decompress::Args),
    Cat(cat::Args),
    Stat(stat::Args),
    Verify(verify::Args),
    Profiles(profiles::Args),
    Train(train::Args),
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
            Command::Pack(args) => pack::run(args),
            Command::Unpack(args) => unpack::run(args),
            Command::Compress(args) => compress::run(args),
            Command::Decompress(args) => decompress::run(args),
            Command::Cat(args) => cat::run(args),
            Command::Stat(args) => stat::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Profiles(args) => profiles::run(args),
            Command::Train(args) => train::run(args),
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
    // Nothing outlives the closure, so no half-changed value can be seen after a panic.
    match panic::catch_unwind(panic::AssertUnwindSafe(|| run(parsed))) {
        Ok(Ok(outcome)) => outcome.into(),
        Ok(Err(error)) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            warn(&error);
            error.outcome().into()
        }
        Err(_) => Outcome::Failed.into(),
    }
}

/// One line for a defect of the program itself, with what a report of it needs.
fn report_panic(info: &panic::PanicHookInfo<'_>) {
    let payload = info.payload();
    let what = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
        .replace('\n', " ");
    let place = info
        .location()
        .map(|l| format!("{}:{}", l.file(), l.line()))
        .unwrap_or_default();
    warn(format_args!(
        "internal error at {place} in version {}: {what}; please report this line",
        env!("CARGO_PKG_VERSION")
    ));
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
            writeln!(out, "vortex-fs: {level}: {}", record.args())
        })
        .try_init();
}
