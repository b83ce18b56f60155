//! Room on the disk: a job that may not fit is refused before it writes anything.

use std::cmp::Reverse;

use super::PackError;
use super::file::{DISK_BLOCK, Encoder, plain_bytes};
use super::walk::Target;
use crate::fs::{Fs, FsError};

/// What a block takes in an index, and what a file takes besides its blocks, at most.
const INDEX_ENTRY: u64 = 32;
const OVERHEAD: u64 = 2 * DISK_BLOCK;

/// For names, and for what the backing file system writes down about files.
const RESERVE: u64 = 64 << 10;

/// Files that are dealt with one after another, `at_once` of them at a time.
pub(super) struct Group<'a> {
    pub(super) targets: Vec<&'a Target>,
    pub(super) at_once: usize,
}

/// What a file needs, in bytes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Need {
    /// Its new form, which for a while stands beside the old one.
    new: u64,
    /// How much more than the old form that is, for good.
    growth: u64,
}

/// What a job would do with files.
pub(super) struct Plan<'a> {
    pub(super) fs: &'a Fs,
    /// None to unpack.
    pub(super) encoder: Option<&'a Encoder>,
    pub(super) groups: Vec<Group<'a>>,
}

impl Plan<'_> {
    /// How many bytes it may need beside what there is.
    ///
    /// # Errors
    /// `NoSpace` if there are fewer; the backing file system does not answer.
    pub(super) fn check(&self) -> Result<u64, PackError> {
        let free = free(self.fs)?;
        let needed = self.total(&|target| self.need_of(target, target.attr.size))?;
        if needed <= free {
            return Ok(needed);
        }
        // Looking into every file takes a while, so it is done only where it matters.
        let needed = self.total(&|target| self.exact_need_of(target))?;
        if needed <= free {
            return Ok(needed);
        }
        let all = self.groups.iter().flat_map(|group| &group.targets);
        let largest = all.max_by_key(|target| target.attr.size);
        Err(PackError::NoSpace {
            path: largest
                .map(|target| target.path.clone())
                .unwrap_or_default(),
            needed,
            free,
        })
    }

    fn total(&self, need_of: &dyn Fn(&Target) -> Need) -> Result<u64, PackError> {
        let groups = self.groups.iter().map(|group| {
            let needs = group.targets.iter().map(|target| need_of(target)).collect();
            (needs, group.at_once)
        });
        let files = most(groups.collect());
        if files == 0 {
            return Ok(0);
        }
        let model = self.encoder.map_or(Ok(0), |e| e.unstored_model(self.fs))?;
        Ok(files.saturating_add(model).saturating_add(RESERVE))
    }

    /// With so many bytes of content that are not zeros.
    fn need_of(&self, target: &Target, bytes: u64) -> Need {
        let plain = bytes.next_multiple_of(DISK_BLOCK);
        match self.encoder {
            Some(encoder) => Need {
                new: plain + OVERHEAD + bytes / u64::from(encoder.block_size) * INDEX_ENTRY,
                growth: 0,
            },
            None => Need {
                new: plain,
                growth: plain.saturating_sub(target.attr.blocks.saturating_mul(512)),
            },
        }
    }

    /// Nothing for holes, and nothing for a file that stays as it is. What is wrong with a file is told when its turn comes.
    fn exact_need_of(&self, target: &Target) -> Need {
        let bytes = || -> Result<u64, FsError> {
            let snapshot = self.fs.snapshot(&target.path)?;
            let stays = match self.encoder {
                Some(encoder) => encoder.leaves(&snapshot)?.is_some(),
                None => !snapshot.is_segment() || snapshot.links() > 1,
            };
            Ok(if stays { 0 } else { plain_bytes(&snapshot) })
        };
        match bytes() {
            Ok(0) | Err(_) => Need::default(),
            Ok(bytes) => self.need_of(target, bytes),
        }
    }
}

/// What files may need at any moment: what the job adds for good, and in the worst group the new forms that stand beside the old.
fn most(groups: Vec<(Vec<Need>, usize)>) -> u64 {
    let (mut growth, mut beside) = (0u64, 0);
    for (mut needs, at_once) in groups {
        let sum = |a: u64, b: u64| a.saturating_add(b);
        growth = needs.iter().map(|need| need.growth).fold(growth, sum);
        needs.sort_unstable_by_key(|need| Reverse(need.new - need.growth));
        let together = needs
            .iter()
            .take(at_once)
            .map(|need| need.new - need.growth);
        beside = together.fold(0, sum).max(beside);
    }
    growth.saturating_add(beside)
}

/// Bytes that may still be written, less what is only in memory yet.
pub(super) fn free(fs: &Fs) -> Result<u64, FsError> {
    let stat = fs.statfs()?;
    let free = stat.bavail.saturating_mul(u64::from(stat.frsize));
    Ok(free.saturating_sub(fs.stats().dirty_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_at_the_same_time_need_room_together_and_growth_adds_up() {
        let need = |new, growth| Need { new, growth };
        let packed = [need(5, 0), need(9, 0), need(7, 0)];
        assert_eq!(most(vec![(packed.to_vec(), 1)]), 9);
        assert_eq!(most(vec![(packed.to_vec(), 2), (vec![need(12, 0)], 1)]), 16);
        assert_eq!(most(vec![(packed.to_vec(), 2), (vec![need(20, 0)], 1)]), 20);
        // Unpacked: 3 and 4 more in the end, and one old form of 6 beside its new one.
        let unpacked = [need(9, 3), need(8, 4)];
        assert_eq!(most(vec![(unpacked.to_vec(), 1)]), 13);
        assert_eq!(most(Vec::new()), 0);
        let huge = [need(u64::MAX, 0), need(u64::MAX, u64::MAX)];
        assert_eq!(most(vec![(huge.to_vec(), 2)]), u64::MAX);
    }
}
