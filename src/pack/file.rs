//! One file: re-encoded or decoded aside, compared, swapped in.

use std::path::Path;

use super::plain::write_plain;
use super::protocol::{FileOutcome, FileReport, Job, escape};
use super::walk::Target;
use super::{Defaults, PackError};
use crate::codec::{self, Means, ModelId};
use crate::fs::{Fs, FsError, Outcome, Snapshot};
use crate::segment::{Form, Summary, valid_block_size};
use crate::store::twins::BOTH;
use crate::store::{
    BlockSource, Cancel, Encoding, KeyRun, NO_PROFILE, Packing, Primer, Profile, SealOptions,
    SealReport, StoreError, TempFile, names, seal,
};

/// How often a file that is written meanwhile is tried.
const ATTEMPTS: usize = 2;

/// What file systems allot at a time, nearly all of them.
pub(super) const DISK_BLOCK: u64 = 4096;

/// Hears of bytes dealt with.
pub(super) type Tell<'a> = &'a (dyn Fn(u64) + Sync);

/// How files are encoded.
pub(super) struct Encoder {
    pub(super) packing: Packing,
    /// Whether the model is used only where an archive saves more by it than it takes. Who names a profile wants it used.
    must_earn: bool,
    pub(super) block_size: u32,
    pub(super) key_blocks: u8,
    /// Whether files may start from primers. Who names a number of key blocks wants those.
    pub(super) primers: bool,
}

impl Encoder {
    /// From what the job says and, where it says nothing, the defaults.
    pub(super) fn new(
        fs: &Fs,
        job: Option<&Job>,
        defaults: &Defaults,
    ) -> Result<Encoder, PackError> {
        let name = job
            .and_then(|j| j.profile.as_deref())
            .unwrap_or(&defaults.profile);
        let block_size = job
            .and_then(|j| j.block_size)
            .unwrap_or(defaults.block_size);
        if !valid_block_size(block_size) {
            return Err(PackError::BlockSize(block_size));
        }
        let packing = Packing::with(fs.archive().models().profile_or_none(name)?);
        Ok(Encoder {
            must_earn: job.is_none_or(|j| j.profile.is_none()),
            block_size,
            key_blocks: job
                .and_then(|j| j.key_blocks)
                .unwrap_or(KeyRun::usual(packing.effort).blocks),
            primers: job.is_none_or(|j| j.key_blocks.is_none()),
            packing,
        })
    }

    fn profile(&self) -> Option<&Profile> {
        self.packing.profile.as_ref()
    }

    fn model_id(&self) -> Option<ModelId> {
        self.profile().map(Profile::id)
    }

    /// Profile and block size: what one encoder makes of a file another one makes, too, if this is the same.
    pub(super) fn told_apart_by(&self) -> String {
        let profile = self
            .model_id()
            .map_or(NO_PROFILE.into(), |id| id.to_string());
        format!("{profile} {}", self.block_size)
    }

    /// Bytes that the archive's copies of the model will take, as far as they are not there.
    pub(super) fn unstored_model(&self, fs: &Fs) -> Result<u64, StoreError> {
        let Some(profile) = self.profile() else {
            return Ok(0);
        };
        let mut bytes = 0;
        for copy in BOTH {
            let condition = fs.archive().models().condition(profile.id(), copy)?;
            if !condition.is_good() {
                bytes += profile.bytes.len() as u64 + DISK_BLOCK;
            }
        }
        Ok(bytes)
    }

    /// What is said of a file that is left as it is; none of one that is to be encoded.
    pub(super) fn leaves(&self, snapshot: &Snapshot<'_>) -> Result<Option<Done>, FsError> {
        Ok(match snapshot.summary() {
            Some(segment) if self.made(snapshot, &segment)? => {
                Some(Done::new(FileOutcome::Already))
            }
            None if snapshot.links() > 1 => Some(Done::why(
                FileOutcome::Left,
                "a plain file with several names stays plain",
            )),
            None if snapshot.name().len() > names::NAME_MAX => Some(Done::why(
                FileOutcome::Left,
                "its name is too long for a segment's, so it stays plain",
            )),
            None if snapshot.len() <= DISK_BLOCK => Some(Done::new(FileOutcome::Left)),
            Some(_) if snapshot.is_empty() => Some(Done::new(FileOutcome::Left)),
            _ => foreign(snapshot)?,
        })
    }

    /// Whether a segment is packed: with this profile, or without one, if somebody named that, else with any.
    pub(super) fn made(&self, snapshot: &Snapshot<'_>, segment: &Summary) -> Result<bool, FsError> {
        let models = snapshot.models();
        let own_models = self.must_earn || models.iter().all(|&id| Some(id) == self.model_id());
        if snapshot.links() > 1 {
            // Re-encoded in place, it keeps its block size and does not become sealed.
            let [_, zstd, _] = snapshot.blocks()?;
            return Ok(own_models && zstd == 0);
        }
        // Blocks that name no model may have been coded in less time, or by a writer that had another one.
        let made = match self.must_earn {
            true => segment.made_with != 0,
            false => segment.made_with == self.packing.made_with(),
        };
        let sealed = segment.form == Form::Sealed && segment.block_size == self.block_size;
        Ok(own_models && made && sealed)
    }
}

/// What is said of a file that cannot be replaced, because its owner would lose it; none of one that is to be replaced.
fn foreign(snapshot: &Snapshot<'_>) -> Result<Option<Done>, FsError> {
    // With several names it is changed in place.
    let stays = snapshot.links() > 1 || snapshot.owner_stays()?;
    let why = "its owner and group could not be kept; let root, or its owner, do this";
    Ok((!stays).then(|| Done::why(FileOutcome::Failed, why)))
}

/// What to do besides: for how many threads, whether for good, until when, and who hears of it.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    pub(super) threads: usize,
    pub(super) dry_run: bool,
    pub(super) cancel: &'a Cancel,
    pub(super) tell: Tell<'a>,
}

/// What became of a file: how it went, its exact bytes now, and why.
pub(super) struct Done {
    outcome: FileOutcome,
    after: Option<u64>,
    worked: bool,
    why: Option<String>,
}

impl Done {
    fn new(outcome: FileOutcome) -> Done {
        Done {
            outcome,
            after: None,
            worked: false,
            why: None,
        }
    }

    fn why(outcome: FileOutcome, why: impl Into<String>) -> Done {
        Done {
            why: Some(why.into()),
            ..Done::new(outcome)
        }
    }

    fn worked(outcome: FileOutcome, after: u64) -> Done {
        Done {
            after: Some(after),
            worked: true,
            ..Done::new(outcome)
        }
    }
}

/// Makes the file small; its blocks may start from the primer. None if the work was cancelled before it was done.
pub(super) fn encode_file(
    fs: &Fs,
    target: &Target,
    encoder: &Encoder,
    primer: Option<&Primer>,
    how: How<'_>,
) -> Option<FileReport> {
    attempts(fs, target, how, |snapshot, how| {
        encode(fs, snapshot, encoder, primer, how)
    })
}

/// Makes the file plain. None if the work was cancelled before it was done.
pub(super) fn decode_file(fs: &Fs, target: &Target, how: How<'_>) -> Option<FileReport> {
    attempts(fs, target, how, |snapshot, how| decode(fs, snapshot, how))
}

/// Tries until nobody writes meanwhile, but not often.
fn attempts(
    fs: &Fs,
    target: &Target,
    how: How<'_>,
    work: impl Fn(Snapshot<'_>, How<'_>) -> Result<Option<Done>, FsError>,
) -> Option<FileReport> {
    let mut report = FileReport {
        path: escape(&target.path),
        logical: target.attr.size,
        disk_before: target.attr.blocks * 512,
        disk_after: target.attr.blocks * 512,
        ..FileReport::default()
    };
    for _ in 0..ATTEMPTS {
        let result = fs.snapshot(&target.path).and_then(|snapshot| {
            report.logical = snapshot.len();
            report.before = exact_bytes(&snapshot);
            work(snapshot, how)
        });
        let done = match result {
            Ok(Some(done)) => done,
            Ok(None) => continue,
            Err(_) if how.cancel.is_cancelled() => return None,
            Err(FsError::NotFound) => Done::why(FileOutcome::Left, "it is gone"),
            Err(error) if error.is_damage() => Done::why(FileOutcome::Damaged, error.to_string()),
            Err(error) => Done::why(FileOutcome::Failed, error.to_string()),
        };
        report.after = done.after.unwrap_or(report.before);
        report.outcome = done.outcome;
        report.why = done.why;
        if done.worked {
            report.worked = report.logical;
            report.disk_after = disk_now(fs, &target.path).unwrap_or(report.disk_before);
        }
        return Some(report);
    }
    if how.cancel.is_cancelled() {
        return None;
    }
    report.after = report.before;
    report.outcome = FileOutcome::Skipped;
    report.why = Some("it is being written; try again later".to_string());
    Some(report)
}

/// None if the file was written meanwhile.
fn encode(
    fs: &Fs,
    snapshot: Snapshot<'_>,
    encoder: &Encoder,
    primer: Option<&Primer>,
    how: How<'_>,
) -> Result<Option<Done>, FsError> {
    if let Some(left) = encoder.leaves(&snapshot)? {
        return Ok(Some(left));
    }
    let segment = snapshot.summary();
    if segment.is_some() && snapshot.links() > 1 {
        return encode_in_place(fs, &snapshot, encoder, how).map(Some);
    }
    let before = exact_bytes(&snapshot);
    let plain_disk = plain_bytes(&snapshot).next_multiple_of(DISK_BLOCK);
    let sealed = sealed_with(fs, &snapshot, encoder, primer, encoder.packing.clone(), how);
    let earned = |(sealed, _): &(SealReport, TempFile)| match encoder.profile() {
        Some(profile) if sealed.modelled > 0 && encoder.must_earn => {
            fs.archive().models().earns(profile, sealed.model_saves)
        }
        _ => Ok(true),
    };
    let sealed = sealed.and_then(|made| {
        if earned(&made)? {
            return Ok(made);
        }
        // The archive would have to keep a model for less than that takes.
        drop(made);
        let quietly = How {
            tell: &|_| (),
            ..how
        };
        let packing = Packing {
            profile: None,
            ..encoder.packing
        };
        sealed_with(fs, &snapshot, encoder, primer, packing, quietly)
    });
    let (sealed, temp) = match sealed {
        Ok(made) => made,
        Err(_) if snapshot.is_changed() && !how.cancel.is_cancelled() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let saves = |stored: u64| stored.next_multiple_of(DISK_BLOCK) < plain_disk;
    if let Some(segment) = &segment
        && sealed.stored > before
        && saves(before)
    {
        // Who names a profile wants what is packed with another one in that form, if it makes sense at all.
        let wanted = !encoder.must_earn && segment.form == Form::Sealed && saves(sealed.stored);
        if !wanted {
            return Ok(Some(Done {
                worked: true,
                ..Done::new(FileOutcome::Left)
            }));
        }
    }
    if !saves(sealed.stored) {
        // No disk block would be saved.
        return match segment {
            None => Ok(Some(Done {
                worked: true,
                ..Done::new(FileOutcome::Left)
            })),
            Some(_) => {
                drop(temp);
                decode(
                    fs,
                    snapshot,
                    How {
                        tell: &|_| (),
                        ..how
                    },
                )
            }
        };
    }
    if !how.dry_run {
        if let Some(profile) = encoder.profile().filter(|_| sealed.modelled > 0) {
            fs.archive().models().store(profile)?;
        }
        if fs.finish_repack(snapshot, temp)? == Outcome::Changed {
            return Ok(None);
        }
    }
    Ok(Some(Done::worked(FileOutcome::Done, sealed.stored)))
}

/// The content as a sealed segment in a temporary file.
fn sealed_with(
    fs: &Fs,
    snapshot: &Snapshot<'_>,
    encoder: &Encoder,
    primer: Option<&Primer>,
    packing: Packing,
    how: How<'_>,
) -> Result<(SealReport, TempFile), StoreError> {
    let temp = fs.archive().temp_file()?;
    let stop = Cancel::default();
    let tell = watch(snapshot, how, &stop);
    let options = SealOptions {
        block_size: encoder.block_size,
        encoding: Encoding::Packed(packing),
        key_run: KeyRun::of(encoder.key_blocks),
        primer: primer.cloned(),
        jobs: how.threads,
        progress: Some(&tell),
        cancel: Some(&stop),
    };
    let report = seal(snapshot, &temp, fs.archive().library(), &options)?;
    Ok((report, temp))
}

/// A file with several names: block by block, where that makes it smaller. A model that must earn its place is used if it has done so
/// before: what it saves here is known only when the file is changed.
fn encode_in_place(
    fs: &Fs,
    snapshot: &Snapshot<'_>,
    encoder: &Encoder,
    how: How<'_>,
) -> Result<Done, FsError> {
    if how.dry_run {
        return Ok(Done::why(
            FileOutcome::Left,
            "a file with several names is not measured in a dry run",
        ));
    }
    let before = exact_bytes(snapshot);
    let models = fs.archive().models();
    let profile = match encoder.profile() {
        Some(profile) if !encoder.must_earn || models.earns(profile, 0)? => {
            models.store(profile)?;
            Some(profile)
        }
        _ => None,
    };
    let encode = |block: &[u8]| {
        (how.tell)(0);
        if how.cancel.is_cancelled() {
            // Not smaller than what is there, so it changes nothing.
            return codec::encode_fresh(block);
        }
        let means = Means {
            model: profile.map(|profile| &profile.model),
            effort: encoder.packing.effort,
            ..Means::default()
        };
        codec::encode_after(None, block, means, None)
    };
    fs.repack_in_place(snapshot, how.threads, &encode, how.tell)?;
    if how.cancel.is_cancelled() {
        return Err(StoreError::Cancelled.into());
    }
    let after = snapshot.summary().map_or(before, |s| s.live_bytes);
    let outcome = if after < before {
        FileOutcome::Done
    } else {
        FileOutcome::Left
    };
    Ok(Done::worked(outcome, after))
}

/// None if the file was written meanwhile.
fn decode(fs: &Fs, snapshot: Snapshot<'_>, how: How<'_>) -> Result<Option<Done>, FsError> {
    if !snapshot.is_segment() {
        return Ok(Some(Done::new(FileOutcome::Already)));
    }
    if snapshot.links() > 1 {
        return Ok(Some(Done::why(
            FileOutcome::Skipped,
            "it has several names; remove all but one to unpack it",
        )));
    }
    if let Some(left) = foreign(&snapshot)? {
        return Ok(Some(left));
    }
    let after = plain_bytes(&snapshot);
    if how.dry_run {
        return Ok(Some(Done {
            after: Some(after),
            ..Done::new(FileOutcome::Done)
        }));
    }
    let temp = fs.archive().temp_file()?;
    let stop = Cancel::default();
    let tell = watch(&snapshot, how, &stop);
    match in_pool(how.threads, || {
        write_plain(&snapshot, &temp, how.threads, &stop, &tell)
    }) {
        Ok(()) => {}
        Err(_) if snapshot.is_changed() && !how.cancel.is_cancelled() => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    drop(tell);
    swapped(fs.finish_unpack(snapshot, temp)?, after)
}

fn swapped(outcome: Outcome, after: u64) -> Result<Option<Done>, FsError> {
    Ok((outcome == Outcome::Swapped).then(|| Done::worked(FileOutcome::Done, after)))
}

/// Tells on, and stops the work when the job is cancelled or its result has become useless.
fn watch<'a>(
    snapshot: &'a Snapshot<'_>,
    how: How<'a>,
    stop: &'a Cancel,
) -> impl Fn(u64) + Sync + use<'a> {
    move |bytes| {
        if how.cancel.is_cancelled() || snapshot.is_changed() {
            stop.cancel();
        }
        (how.tell)(bytes);
    }
}

pub(super) fn in_pool<T: Send>(
    threads: usize,
    work: impl FnOnce() -> Result<T, StoreError> + Send,
) -> Result<T, StoreError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|i| format!("pack-{i}"));
    let pool = pool
        .build()
        .map_err(|e| StoreError::io("worker threads")(std::io::Error::other(e)))?;
    pool.install(work)
}

/// Exact bytes of the present form: what a segment needs of its file, or what a plain file holds.
fn exact_bytes(snapshot: &Snapshot<'_>) -> u64 {
    snapshot.summary().map_or_else(
        || snapshot.len().min(snapshot.stored_bytes()),
        |s| s.live_bytes,
    )
}

/// What the file takes, or would take, as a plain file: its length without holes, as far as they are known.
pub(super) fn plain_bytes(snapshot: &Snapshot<'_>) -> u64 {
    const STEP: u64 = 64 << 10;
    let (mut bytes, mut at) = (0, 0);
    // An index that cannot be read is found out soon enough.
    while let Ok(Some(data)) = snapshot.next_data(at) {
        let end = (data / STEP + 1).saturating_mul(STEP).min(snapshot.len());
        bytes += end - data;
        at = end;
    }
    bytes
}

fn disk_now(fs: &Fs, path: &Path) -> Result<u64, FsError> {
    let held = super::walk::Held::resolve(fs, path)?;
    Ok(fs.getattr(held.id, None)?.blocks * 512)
}
