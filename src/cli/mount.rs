//! `vortex-fs mount`

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;

use super::repack::absolute_profile;
use super::{CliError, Outcome, parse_size, warn};
use crate::fs::DiskCacheOptions;
use crate::mount::{self, LEAST_MEMORY, MetricsAddr, MountError, MountSettings, Options};

/// Shows an archive as an ordinary directory tree
///
/// Returns when the mount is usable; a daemon serves it until `vortex-fs umount`. A plain directory becomes an archive: its
/// files are shown as they are, and what is written is compressed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vortex-fs mount /data/archive /mnt/telemetry
  vortex-fs mount --read-only /data/archive /mnt/look
  vortex-fs mount --pack idle --scrub 30 --allow-other /data/archive /srv/telemetry")]
pub(crate) struct Args {
    /// Directory that holds the archive
    backing: PathBuf,
    /// Directory to show it at
    mountpoint: PathBuf,
    /// Stay in the foreground, log to standard error, unmount on Ctrl-C
    #[arg(short, long)]
    foreground: bool,
    /// Allow no changes; any number of these work beside one writable mount
    #[arg(short, long)]
    read_only: bool,
    /// Let other users in, as the modes of the files permit
    #[arg(long)]
    allow_other: bool,
    /// Memory for decoded blocks
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    cache_size: u64,
    /// Memory of the daemon in all, caches and all else, 320M at least; the caches give way
    #[arg(long, value_name = "SIZE", value_parser = parse_memory_limit)]
    memory_limit: Option<u64>,
    /// Directory to keep decoded blocks in, so that what is read often stays fast after a remount; it may be deleted at any time
    #[arg(long, value_name = "DIR")]
    disk_cache: Option<PathBuf>,
    /// Disk space for those
    #[arg(long, value_name = "SIZE", default_value = "1G", requires = "disk_cache", value_parser = parse_size)]
    disk_cache_size: u64,
    /// Block size of new files, a power of two from 16K to 1M: smaller reads faster at random, larger stores smaller
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_block_size)]
    block_size: u32,
    /// Profile that packing uses: a name, a model file, or `none`
    #[arg(long, value_name = "NAME|FILE", default_value = "fast")]
    profile: String,
    /// Pack files in the background when nobody has written them for a while
    #[arg(long, value_enum, default_value_t = Pack::Off)]
    pack: Pack,
    /// How long a file must have been left alone for `--pack idle`, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pack_after: u64,
    /// Serve figures over HTTP: /metrics for Prometheus and /json. A bare port is one of this machine's own; 0 is any that is free
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    metrics: Option<MetricsAddr>,
    /// Check the checksums of all segments in the background, again so many days after the last time; what is damaged goes to the log
    #[arg(long, value_name = "DAYS|off", default_value = "off", value_parser = parse_scrub)]
    scrub: Scrub,
    /// Mount options, separated by commas: ro, allow_other, fsname=NAME, noexec, noatime, ...
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pack {
    /// Only when told to
    Off,
    /// Files that nobody has written for a while
    Idle,
}

/// How often to scrub, if ever.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scrub(Option<Duration>);

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let mut options = Options::parse(&args.options).map_err(|e| CliError::failed(e.to_string()))?;
    options.read_only |= args.read_only;
    options.allow_other |= args.allow_other;
    let backing = mount::check_backing(&args.backing)?;
    let mountpoint = mount::check_mountpoint(&args.mountpoint, &backing)?;
    let disk_cache = (args.disk_cache.as_deref())
        .map(|dir| disk_cache_in(dir, args.disk_cache_size, [&backing, &mountpoint]))
        .transpose()?;
    if !args.foreground && !mount::in_background() {
        if mount::hides_entries(&mountpoint) {
            warn(format_args!(
                "{}: not empty; what is in it is hidden until the archive is unmounted",
                args.mountpoint.display()
            ));
        }
        let code = mount::launch()
            .map_err(|e| CliError::failed(format!("cannot start the daemon: {e}")))?;
        // What went wrong was told by the daemon itself.
        return Ok(if code == 0 {
            Outcome::Good
        } else {
            Outcome::Failed
        });
    }
    let profile = absolute_profile(&args.profile)?;
    mount::serve(&MountSettings {
        backing,
        mountpoint,
        options,
        cache_bytes: args.cache_size,
        memory_limit: args.memory_limit,
        disk_cache,
        block_size: args.block_size,
        profile,
        pack_after: (args.pack == Pack::Idle).then(|| Duration::from_secs(args.pack_after)),
        metrics: args.metrics,
        scrub: args.scrub.0,
    })?;
    Ok(Outcome::Good)
}

/// The directory, absolute and without symlinks; it must lie neither in the archive nor in the mount.
fn disk_cache_in(
    dir: &Path,
    bytes: u64,
    outside: [&PathBuf; 2],
) -> Result<DiskCacheOptions, CliError> {
    let (above, name) = match (dir.parent(), dir.file_name()) {
        (Some(above), Some(name)) if !dir.is_dir() => (above, Some(name)),
        _ => (dir, None),
    };
    let above = match above.as_os_str().is_empty() {
        true => Path::new("."),
        false => above,
    };
    let mut real = std::fs::canonicalize(above).map_err(|e| CliError::io(above, &e))?;
    real.extend(name);
    if let Some(inside) = outside.into_iter().find(|o| real.starts_with(o)) {
        let why = format!("lies in {}", inside.display());
        let remedy = "keep decoded blocks outside of the archive and of the mount";
        return Err(CliError::failed(why).on(dir).remedy(remedy));
    }
    Ok(DiskCacheOptions { dir: real, bytes })
}

pub(super) fn parse_memory_limit(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size < LEAST_MEMORY {
        return Err(format!(
            "`{text}` is too little: the daemon needs 320M at least"
        ));
    }
    Ok(size)
}

/// Reads a block size: a power of two that a segment can have.
pub(super) fn parse_block_size(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    if size.is_power_of_two() && (16 << 10..=1 << 20).contains(&size) {
        return u32::try_from(size).map_err(|e| e.to_string());
    }
    Err(format!(
        "`{text}` is no block size: 16K, 32K, 64K, 128K, 256K, 512K or 1M"
    ))
}

fn parse_scrub(text: &str) -> Result<Scrub, String> {
    if text == "off" {
        return Ok(Scrub(None));
    }
    let days = text
        .parse::<f64>()
        .ok()
        .filter(|&d| d > 0.0 && d <= 36_500.0);
    let every = days.map(|days| Duration::from_secs_f64(days * 86_400.0));
    every
        .map(|every| Scrub(Some(every)))
        .ok_or_else(|| format!("`{text}` is neither a number of days nor off"))
}

impl From<MountError> for CliError {
    fn from(error: MountError) -> CliError {
        CliError::failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrubs_come_every_so_many_days_or_never() {
        assert_eq!(parse_scrub("off"), Ok(Scrub(None)));
        let day = Duration::from_secs(86_400);
        assert_eq!(parse_scrub("30"), Ok(Scrub(Some(30 * day))));
        assert_eq!(parse_scrub("0.5"), Ok(Scrub(Some(day / 2))));
        for text in ["0", "-1", "nan", "inf", "x", ""] {
            assert!(parse_scrub(text).is_err(), "{text}");
        }
    }

    #[test]
    fn block_sizes_are_powers_of_two_in_range() {
        assert_eq!(parse_block_size("64K"), Ok(65536));
        assert_eq!(parse_block_size("1M"), Ok(1 << 20));
        for text in ["0", "8K", "2M", "65000", "x"] {
            assert!(parse_block_size(text).is_err(), "{text}");
        }
    }
}
