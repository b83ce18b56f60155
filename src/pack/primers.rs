//! Choosing primers: a sample of a kind of files that all files of the kind start from, where a trial shows that it pays.
//!
//! Files are of one kind if their names end alike, their first bytes look alike, and the same people own and may read them. A trial encodes a few blocks of files
//! that were not sampled, once from the sample and once as they would be without it. Nothing depends on
//! the choice but sizes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;

use super::file::{DISK_BLOCK, Encoder, How, in_pool};
use super::room::free;
use super::walk::Target;
use crate::codec::{self, Start};
use crate::fs::{Fs, Snapshot};
use crate::segment::MAX_START_BYTES;
use crate::store::{BlockSource, Primer, StoreError};

/// Bytes of a sample.
const SAMPLE: usize = 256 << 10;

/// Files that a sample is taken from.
const SAMPLED: usize = 4;

/// Files of a kind, or bytes beyond the sample, from which on a new sample is tried.
const FILES: usize = 3;
const BYTES: u64 = 1 << 20;

/// Blocks that a trial encodes; also at most a tenth of the kind's.
const PROBES: u64 = 8;

/// Primers of a kind that are tried before a new sample is taken.
const KNOWN: usize = 2;

/// Bytes at a file's beginning that tell its kind.
const HEAD: usize = 4096;

/// A file to pack, and how long it is.
struct File<'a> {
    target: &'a Target,
    len: u64,
}

/// The primer of each file that is to have one.
#[derive(Default)]
pub(super) struct Choice {
    primers: HashMap<PathBuf, Primer>,
}

impl Choice {
    /// The primer that a file starts from.
    pub(super) fn of(&self, path: &Path) -> Option<&Primer> {
        self.primers.get(path)
    }
}

/// Chooses primers for files. A new one is kept in the archive, unless this is a dry run. A kind for which that fails does
/// without; what is wrong with a file is found when it is packed.
///
/// Of the disk's room `needed` bytes are left alone.
pub(super) fn choose(
    fs: &Fs,
    targets: &[Target],
    encoder: &Encoder,
    needed: u64,
    how: How<'_>,
) -> Choice {
    if !encoder.primers {
        return Choice::default();
    }
    let mut kinds: BTreeMap<String, Vec<File<'_>>> = BTreeMap::new();
    for target in targets {
        if how.cancel.is_cancelled() {
            return Choice::default();
        }
        if target.attr.size <= DISK_BLOCK {
            continue;
        }
        if let Some(kind) = kind_of(fs, target, encoder) {
            let len = target.attr.size;
            kinds.entry(kind).or_default().push(File { target, len });
        }
    }
    let mut choice = Choice::default();
    for (kind, files) in kinds {
        if how.cancel.is_cancelled() {
            return Choice::default();
        }
        match in_pool(how.threads, || {
            choose_for(fs, &kind, &files, encoder, needed, how)
        }) {
            Ok(Some(primer)) => {
                log::info!(
                    "{} files of kind {kind} start from primer {}",
                    files.len(),
                    primer.id
                );
                let paths = files.iter().map(|f| f.target.path.clone());
                choice
                    .primers
                    .extend(paths.map(|path| (path, primer.clone())));
            }
            Ok(None) => {}
            Err(error) => log::warn!("no primer for files of kind {kind}: {error}"),
        }
    }
    choice
}

fn choose_for(
    fs: &Fs,
    kind: &str,
    files: &[File<'_>],
    encoder: &Encoder,
    needed: u64,
    how: How<'_>,
) -> Result<Option<Primer>, StoreError> {
    let library = fs.archive().library();
    let files: Vec<&File<'_>> = files.iter().collect();
    let total: u64 = files.iter().map(|f| f.len).sum();
    // One that is only remembered could be read until the next mount, no longer.
    let stored = library.primers().stored()?;
    let known: Vec<_> = library
        .primers()
        .kinds()?
        .into_iter()
        .filter(|(id, k)| k == kind && stored.contains(id))
        .map(|(id, _)| id)
        .collect();
    if !known.is_empty() {
        let trial = Trial::new(fs, &spread(&files, SAMPLED), total, encoder);
        for id in known.into_iter().rev().take(KNOWN) {
            let Ok(state) = library.primed(id) else {
                continue;
            };
            if trial
                .gain(&state, encoder, how)
                .is_some_and(|gain| pays(gain, total, 0))
            {
                if !how.dry_run
                    && let Err(e) = library.primers().secure(id)
                {
                    log::warn!("primer {id} is not used for more files: {e}");
                    continue;
                }
                return Ok(Some(Primer { id, state }));
            }
        }
    }
    let sampled = (files.len() / 2).clamp(1, SAMPLED);
    if files.len() < FILES && total < SAMPLE as u64 + BYTES {
        return Ok(None);
    }
    let from = spread(&files, sampled);
    let sampled_too = |f: &File<'_>| from.iter().any(|s| std::ptr::eq(*s, f));
    let others: Vec<&File<'_>> = files
        .iter()
        .copied()
        .filter(|f| files.len() == 1 || !sampled_too(f))
        .collect();
    let mut sample = Vec::with_capacity(SAMPLE);
    for file in &from {
        sample.extend(read(fs, file, 0, SAMPLE / sampled));
    }
    if sample.is_empty() || how.cancel.is_cancelled() {
        return Ok(None);
    }
    let state = Arc::new(Start::then(None, &sample, None));
    let trial = Trial::new(fs, &spread(&others, SAMPLED), total, encoder);
    let Some(gain) = trial.gain(&state, encoder, how) else {
        return Ok(None);
    };
    // What the sample itself takes is worth finding out only where it can pay.
    if !pays(gain, total, 0) {
        return Ok(None);
    }
    (how.tell)(0);
    let stored = codec::encode_packed(&sample, None, None).payload.len() as u64;
    if !pays(gain, total, stored) {
        return Ok(None);
    }
    let primers = library.primers();
    let id = if how.dry_run {
        primers.offer(&sample)
    } else if !has_room(fs, needed, stored) {
        log::info!("no primer for files of kind {kind}: the disk is too full for it");
        return Ok(None);
    } else {
        let id = primers.add(&sample)?;
        primers.note(id, kind)?;
        id
    };
    let state = library.primed(id)?;
    Ok(Some(Primer { id, state }))
}

/// Whether the two copies of a primer of `stored` bytes leave `needed` bytes alone.
fn has_room(fs: &Fs, needed: u64, stored: u64) -> bool {
    let with = needed.saturating_add(2 * (stored + 2 * DISK_BLOCK));
    free(fs).is_ok_and(|free| with <= free)
}

/// Stored bytes for each byte of content, with a primer and without, over all that was tried.
#[derive(Debug, Clone, Copy)]
struct Gain {
    with: f64,
    without: f64,
}

/// Whether files of `total` bytes become 2 % smaller, the primer's own bytes counted.
fn pays(gain: Gain, total: u64, stored: u64) -> bool {
    gain.with * total as f64 + stored as f64 <= 0.98 * gain.without * total as f64
}

/// Blocks of some files, and what they start from without a primer.
struct Trial {
    blocks: Vec<Probe>,
}

struct Probe {
    data: Vec<u8>,
    /// After the file's key blocks; cold for its first block.
    state: Option<Arc<Start>>,
    /// Blocks that need this one to be decoded.
    behind: u64,
    /// Bytes of the file that are like this block.
    weight: f64,
}

impl Trial {
    fn new(fs: &Fs, files: &[&File<'_>], total: u64, encoder: &Encoder) -> Trial {
        let size = u64::from(encoder.block_size);
        let most = (total / size / 10).clamp(2, PROBES);
        let files = files
            .get(..files.len().min((most / 2) as usize))
            .unwrap_or_default();
        let each = (most / files.len().max(1) as u64).saturating_sub(1).max(1);
        let blocks = files
            .iter()
            .flat_map(|f| probes(fs, f, size, each, encoder.key_blocks));
        Trial {
            blocks: blocks.collect(),
        }
    }

    /// None if there is nothing to try.
    fn gain(&self, state: &Start, encoder: &Encoder, how: How<'_>) -> Option<Gain> {
        let cost = |probe: &Probe| {
            let len = |means, start| {
                (how.tell)(0);
                let block = codec::encode_after(None, &probe.data, means, start);
                block.payload.len() as f64 * probe.weight / probe.data.len() as f64
            };
            let means = encoder.packing.means();
            let without = len(means.before(probe.behind), probe.state.as_deref());
            (len(means, Some(state)), without)
        };
        let sums: Vec<(f64, f64)> = self.blocks.par_iter().map(cost).collect();
        let weight: f64 = self.blocks.iter().map(|p| p.weight).sum();
        (weight > 0.0).then(|| Gain {
            with: sums.iter().map(|s| s.0).sum::<f64>() / weight,
            without: sums.iter().map(|s| s.1).sum::<f64>() / weight,
        })
    }
}

/// The first block of a file, and `more` later ones for all the others.
fn probes(fs: &Fs, file: &File<'_>, size: u64, more: u64, key_blocks: u8) -> Vec<Probe> {
    let count = file.len.div_ceil(size);
    let keys = u64::from(key_blocks)
        .min(count.saturating_sub(1))
        .min(u64::from(MAX_START_BYTES) / size);
    let block = |n: u64| read(fs, file, n * size, size as usize);
    let first = block(0);
    if first.is_empty() {
        return Vec::new();
    }
    let rest = file.len.saturating_sub(first.len() as u64) as f64;
    let mut out = Vec::new();
    if rest > 0.0 {
        let state = (0..keys).try_fold(None, |state: Option<Arc<Start>>, n| {
            let data = block(n);
            (!data.is_empty()).then(|| Some(Arc::new(Start::would(state.as_deref(), &data))))
        });
        // Spread over what the key run does not hold.
        let span = count.saturating_sub(keys).max(1);
        let mut later: Vec<u64> = (1..=more).map(|i| keys + span * i / (more + 1)).collect();
        later.retain(|&n| n > 0 && n < count);
        later.dedup();
        if later.is_empty() {
            later.push(count - 1);
        }
        let weight = rest / later.len() as f64;
        for data in later.into_iter().map(block).filter(|d| !d.is_empty()) {
            let state = state.clone().flatten();
            out.push(Probe {
                data,
                state,
                behind: 0,
                weight,
            });
        }
    }
    let weight = first.len() as f64;
    out.push(Probe {
        data: first,
        state: None,
        behind: if keys > 0 { count - 1 } else { 0 },
        weight,
    });
    out
}

/// Up to `len` bytes of a file; none if it can not be read.
fn read(fs: &Fs, file: &File<'_>, offset: u64, len: usize) -> Vec<u8> {
    fs.snapshot(&file.target.path)
        .map(|snapshot| read_snapshot(&snapshot, offset, len))
        .unwrap_or_default()
}

fn read_snapshot(snapshot: &Snapshot<'_>, offset: u64, len: usize) -> Vec<u8> {
    let left = usize::try_from(snapshot.len().saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut data = vec![0; left.min(len)];
    match snapshot.read_at(&mut data, offset) {
        Ok(()) => data,
        Err(_) => Vec::new(),
    }
}

/// `count` of them, evenly spread, the first among them.
fn spread<'a>(files: &[&'a File<'a>], count: usize) -> Vec<&'a File<'a>> {
    let n = count.min(files.len());
    (0..n)
        .filter_map(|i| files.get(i * files.len() / n.max(1)).copied())
        .collect()
}

/// The kind of a file that is to be packed; none if it is packed already or can not be read.
fn kind_of(fs: &Fs, target: &Target, encoder: &Encoder) -> Option<String> {
    let snapshot = fs.snapshot(&target.path).ok()?;
    if snapshot.links() > 1 {
        return None;
    }
    if let Some(segment) = snapshot.summary()
        && encoder.made(&snapshot, &segment).ok()?
    {
        return None;
    }
    let head = read_snapshot(&snapshot, 0, HEAD);
    let attr = &target.attr;
    (!head.is_empty()).then(|| {
        let kind = kind(&target.path, &head);
        // Who may read one of the files, and so learns the primer's name, may read all that it was sampled from.
        format!("{kind}-{}.{}.{:03o}", attr.uid, attr.gid, attr.perm & 0o444)
    })
}

/// `csv-text-aaaa`: what the name ends in, text or binary, and what the first four bytes are like.
fn kind(path: &Path, head: &[u8]) -> String {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    let extension: String = extension
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(16)
        .collect();
    let is_text = |b: u8| b >= 32 && b != 127 || matches!(b, 9 | 10 | 13);
    let text = head.iter().filter(|&&b| is_text(b)).count() * 20 >= head.len() * 19;
    let first: String = head
        .iter()
        .take(4)
        .map(|b| match b {
            0 => '0',
            b'0'..=b'9' => '9',
            b'A'..=b'Z' | b'a'..=b'z' => 'a',
            32..=126 => '-',
            _ => 'x',
        })
        .collect();
    format!(
        "{extension}-{}-{first}",
        if text { "text" } else { "binary" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_tell_names_and_beginnings_apart() {
        let of = |name: &str, head: &[u8]| kind(Path::new(name), head);
        assert_eq!(of("a/b.CSV", b"time,value\n"), "csv-text-aaaa");
        assert_eq!(of("c.csv", b"temp,value\n"), of("b.CSV", b"time,value\n"));
        assert_ne!(of("c.csv", b"2026-01-01\n"), of("b.csv", b"time,value\n"));
        assert_eq!(of("x", &[0, 1, 0x41, 0x20, 9]), "-binary-0xa-");
        assert_eq!(of("odd.a b\n..", b"q"), "-text-a");
    }

    #[test]
    fn a_primer_must_pay_for_itself() {
        let gain = Gain {
            with: 0.1,
            without: 0.2,
        };
        assert!(pays(gain, 1000, 96) && !pays(gain, 1000, 97));
    }
}
