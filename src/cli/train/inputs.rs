//! From `--data` to the files to learn from: plain files, and segments that are decoded as they are read.

use crate::cli::CliError;
use crate::cli::files::{Models, block_failure, store_failure, walk};
use crate::segment::{Segment, SegmentError};
use crate::store::names::{self, Kind};
use crate::store::{Access, Archive, BlockSource, SegmentReader, StoreError};
use crate::train::{Decoder, Input, TrainError};
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What [`find`] found.
pub(super) struct Found {
    pub(super) inputs: Vec<Input>,
    /// Segments that can not be opened, and are left out.
    pub(super) damaged: Vec<CliError>,
}

/// The regular files of `paths`: files, directories with all below them, and patterns. Segments stand for the files that they hold.
///
/// # Errors
/// A path that is not there or can not be read, a pattern that nothing matches.
pub(super) fn find(paths: &[PathBuf]) -> Result<Found, CliError> {
    let mut libraries = Libraries::default();
    let mut found = Found {
        inputs: Vec::new(),
        damaged: Vec::new(),
    };
    for path in paths {
        for path in expand(path)? {
            let metadata = std::fs::metadata(&path).map_err(|e| CliError::io(&path, &e))?;
            if metadata.is_dir() {
                let (files, failures) = walk(&path);
                if let Some(failure) = failures.into_iter().next() {
                    return Err(failure);
                }
                for file in files {
                    found.add(&file.path, file.metadata.len(), &mut libraries)?;
                }
            } else if metadata.is_file() {
                found.add(&path, metadata.len(), &mut libraries)?;
            } else {
                return Err(CliError::failed("is neither file nor directory")
                    .on(&path)
                    .remedy("name files with telemetry, or a directory of them"));
            }
        }
    }
    found.drop_shadowed();
    Ok(found)
}

impl Found {
    fn add(&mut self, path: &Path, len: u64, libraries: &mut Libraries) -> Result<(), CliError> {
        let name = path.file_name().unwrap_or_default();
        let mut input = Input {
            path: path.to_owned(),
            len,
            decoder: None,
        };
        // A segment of no bytes is an empty file.
        if names::logical_name(name, true).1 == Kind::Segment && len > 0 {
            let segments = libraries.around(path)?;
            match SegmentReader::open(path, segments.models.library()) {
                Ok(reader) => input.len = reader.len(),
                Err(error) => {
                    let failure = store_failure(path, &error);
                    if !is_damage(&error) {
                        return Err(failure);
                    }
                    self.damaged.push(failure);
                    return Ok(());
                }
            }
            input.decoder = Some(segments);
        }
        self.inputs.push(input);
        Ok(())
    }

    /// Leaves out plain files beside a segment of the same file: what a swap was interrupted at, which an archive does not show.
    fn drop_shadowed(&mut self) {
        let segments: HashSet<PathBuf> = self
            .inputs
            .iter()
            .filter(|input| input.decoder.is_some())
            .map(|input| input.path.with_extension(""))
            .collect();
        self.inputs
            .retain(|input| input.decoder.is_some() || !segments.contains(&input.path));
    }
}

/// The path itself if it is there; otherwise, if it is a pattern, what matches it.
fn expand(path: &Path) -> Result<Vec<PathBuf>, CliError> {
    let text = path.to_string_lossy();
    if path.symlink_metadata().is_ok() || !text.contains(['*', '?', '[']) {
        return Ok(vec![path.to_owned()]);
    }
    let matches = glob::glob(&text).map_err(|e| {
        CliError::failed(format!("is no pattern: {e}"))
            .on(path)
            .remedy("use *, ?, [ab] and **, as in '/data/**/*.csv'")
    })?;
    let found = matches
        .collect::<Result<Vec<PathBuf>, _>>()
        .map_err(|e| CliError::io(e.path(), e.error()))?;
    if found.is_empty() {
        return Err(CliError::failed("matches no file")
            .on(path)
            .remedy("check the spelling of the pattern"));
    }
    Ok(found)
}

fn is_damage(error: &StoreError) -> bool {
    let foreign = matches!(
        error,
        StoreError::Segment(SegmentError::NotASegment { .. } | SegmentError::UnknownVersion { .. })
    );
    error.is_damage() && !foreign
}

/// The models and primers around segments, each archive's opened once.
#[derive(Default)]
struct Libraries {
    by_directory: HashMap<PathBuf, Option<PathBuf>>,
    by_archive: HashMap<Option<PathBuf>, Arc<Segments>>,
}

impl Libraries {
    fn around(&mut self, path: &Path) -> Result<Arc<Segments>, CliError> {
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        let archive = self
            .by_directory
            .entry(directory)
            .or_insert_with(|| Archive::find(path));
        if let Some(known) = self.by_archive.get(archive) {
            return Ok(Arc::clone(known));
        }
        let segments = Arc::new(Segments {
            models: Models::around(path, Access::Read)?,
            open: Mutex::new(LruCache::new(OPEN)),
        });
        self.by_archive
            .insert(archive.clone(), Arc::clone(&segments));
        Ok(segments)
    }
}

/// Segments that share models and primers.
struct Segments {
    models: Models,
    open: Mutex<LruCache<PathBuf, Arc<Segment>>>,
}

/// Segments of an archive that are kept open: start states are shared as long as one is.
const OPEN: NonZeroUsize = NonZeroUsize::new(64).expect("not 0");

impl Segments {
    fn reader(&self, path: &Path) -> Result<SegmentReader<'_>, StoreError> {
        let library = self.models.library();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(segment) = open.get(path) {
            return Ok(SegmentReader::of(Arc::clone(segment), path, library));
        }
        let reader = SegmentReader::open(path, library)?;
        open.put(path.to_owned(), Arc::clone(reader.segment()));
        Ok(reader)
    }
}

impl Decoder for Segments {
    fn read(&self, path: &Path, from: u64, len: usize) -> Result<Vec<u8>, TrainError> {
        let failed = |line: CliError, damaged| TrainError::Decode {
            line: line.to_string(),
            damaged,
        };
        let reader = self
            .reader(path)
            .map_err(|e| failed(store_failure(path, &e), is_damage(&e)))?;
        if reader.len() < from + len as u64 {
            return Err(TrainError::Shorter {
                path: path.to_owned(),
            });
        }
        let block = from / u64::from(reader.segment().block_size());
        let mut bytes = vec![0; len];
        reader
            .read_at(&mut bytes, from)
            .map_err(|e| failed(block_failure(path, block, &e), e.is_damage()))?;
        Ok(bytes)
    }
}
