//! `vortex-fs profiles`: the models to compress with.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{Models, with_path};
use super::repack::in_mount;
use super::{CliError, Outcome, print, print_json, show_bytes, warn};
use crate::engine::tensor_shapes;
use crate::pack::DEFAULT_PROFILE;
use crate::store::{Access, Archive, Profile};

/// List the profiles that --profile takes: built in, and those stored in an archive
///
/// A profile is a model, named by the hash of its file. Every block says which model it needs. What a byte costs is given in
/// multiply-accumulates at most, of 8-bit integers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vortex-fs profiles
  vortex-fs profiles /srv/archive             also those that its files need")]
pub(crate) struct Args {
    /// Also list the models stored in the archive that PATH is or lies in, mounted or not
    #[arg(value_name = "PATH")]
    archive: Option<PathBuf>,
    /// Print a JSON list
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    model: String,
    bytes: u64,
    parameters: u64,
    macs_per_byte: u64,
    built_in: bool,
    stored_in_archive: bool,
    is_default: bool,
}

pub(crate) fn run(args: Args) -> Result<Outcome, CliError> {
    let models = match &args.archive {
        Some(path) => around(path)?,
        None => Models::built_in(),
    };
    let failure = with_path(args.archive.as_deref().unwrap_or(Path::new("profiles")));
    let stored = models.library().models().stored().map_err(failure)?;
    let mut rows = Vec::new();
    for name in crate::profiles::NAMES {
        let profile = models.profile(name)?;
        let in_archive = stored.contains(&profile.id());
        rows.push(Row {
            built_in: true,
            stored_in_archive: in_archive,
            ..row(&profile)
        });
    }
    let mut outcome = Outcome::Good;
    for id in stored {
        let id = id.to_string();
        if rows.iter().any(|row| row.model == id) {
            continue;
        }
        match models.profile(&id) {
            Ok(profile) => rows.push(Row {
                name: id,
                stored_in_archive: true,
                ..row(&profile)
            }),
            Err(error) => {
                // It is there, and of no use.
                outcome = Outcome::Damaged;
                warn(error);
            }
        }
    }
    if args.json {
        print_json(&rows)?;
    } else {
        show(&rows)?;
    }
    Ok(outcome)
}

fn around(path: &Path) -> Result<Models, CliError> {
    let mounted = in_mount(path)?.map(|place| place.root);
    let Some(root) = mounted.or_else(|| Archive::find(path)) else {
        return Err(CliError::failed(
            "is in no archive: neither it nor a directory above is mounted or has a .vortex directory",
        )
        .on(path)
        .remedy("name an archive's backing directory, or its mount"));
    };
    Models::of(&root, Access::Read)
}

fn row(profile: &Profile) -> Row {
    let config = profile.model.config();
    let parameters = tensor_shapes(config)
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>() as u64)
        .sum();
    Row {
        name: profile.name.clone(),
        model: profile.id().to_string(),
        bytes: profile.bytes.len() as u64,
        parameters,
        macs_per_byte: config.macs_per_byte() as u64,
        built_in: false,
        stored_in_archive: false,
        is_default: profile.name == DEFAULT_PROFILE,
    }
}

fn show(rows: &[Row]) -> Result<(), CliError> {
    print(format_args!(
        "{:<16} {:<32} {:>10} {:>10} {:>10}  WHERE",
        "NAME", "MODEL", "SIZE", "PARAMETERS", "MACS/BYTE"
    ))?;
    for row in rows {
        let name = if row.name == row.model {
            "-"
        } else {
            &row.name
        };
        let mut places = Vec::new();
        places.extend(row.built_in.then_some("built in"));
        places.extend(row.stored_in_archive.then_some("archive"));
        places.extend(row.is_default.then_some("default"));
        print(format_args!(
            "{name:<16} {:<32} {:>10} {:>10} {:>10}  {}",
            row.model,
            show_bytes(row.bytes),
            row.parameters,
            row.macs_per_byte,
            places.join(", ")
        ))?;
    }
    Ok(())
}
