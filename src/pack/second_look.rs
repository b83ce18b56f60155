//! Checking a segment to which the mount may write meanwhile.
//!
//! A commit between two reads looks like damage, so damage must be found twice in a file that stays the same.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::segment::{Report, Severity, Storage};
use crate::store::{Depth, Library, StoreError, open_regular, verify_storage};

/// Damaged parts of a file that are told one by one.
const MOST_LINES: usize = 20;
/// Looks at a file that never stays the same, before what two of them found counts all the same.
const MOST_LOOKS: usize = 20;

/// What is wrong with the checksums of a segment, a line each. `wait` is called between two looks and tells whether to go on.
///
/// # Errors
/// I/O errors that are no damage, and those of what `slowly` makes of the file.
pub(super) fn damage(
    path: &Path,
    library: &Library,
    slowly: &dyn Fn(File) -> Arc<dyn Storage>,
    wait: &dyn Fn() -> bool,
) -> Result<Vec<String>, StoreError> {
    let mut first = look(path, library, slowly)?;
    let mut looks = 1;
    while !first.lines.is_empty() && wait() {
        let second = look(path, library, slowly)?;
        looks += 1;
        if looks >= MOST_LOOKS {
            let again = |line: &String| first.lines.contains(line);
            return Ok(second.lines.into_iter().filter(again).collect());
        }
        if first.before == second.after && first.lines == second.lines {
            return Ok(first.lines);
        }
        first = second;
    }
    Ok(Vec::new())
}

/// What was found, and what the file was like before and after.
struct Look {
    before: Stamp,
    lines: Vec<String>,
    after: Stamp,
}

fn look(
    path: &Path,
    library: &Library,
    slowly: &dyn Fn(File) -> Arc<dyn Storage>,
) -> Result<Look, StoreError> {
    let failed = || StoreError::io(path);
    let file = open_regular(path).map_err(failed())?;
    let same = file.try_clone().map_err(failed())?;
    let before = stamp(&same.metadata().map_err(failed())?);
    let lines = match verify_storage(slowly(file), path, library, Depth::Checksums, &|_| {}) {
        Ok(report) => lines(&report),
        Err(e) if e.is_medium_error() => vec![e.to_string()],
        Err(e) => return Err(e),
    };
    let after = stamp(&same.metadata().map_err(failed())?);
    Ok(Look {
        before,
        lines,
        after,
    })
}

/// What is wrong, with the bytes of the content that are lost where they are known. Of very much damage the first lines, and how much
/// more there is.
fn lines(report: &Report) -> Vec<String> {
    let serious = report.findings.iter();
    let serious = serious.filter(|f| f.severity >= Severity::Warning);
    let more = serious.clone().count().saturating_sub(MOST_LINES);
    let more =
        (more > 0).then(|| format!("{more} more damaged parts; `vortex-fs verify` lists them"));
    serious
        .take(MOST_LINES)
        .map(|finding| match finding.content(report.summary.as_ref()) {
            Some(bytes) => format!(
                "bytes {} to {}: {}",
                bytes.start,
                bytes.end - 1,
                finding.what
            ),
            None => finding.what.clone(),
        })
        .chain(more)
        .collect()
}

/// Inode, size, times of content and attribute change.
type Stamp = (u64, u64, [(i64, i64); 2]);

fn stamp(m: &Metadata) -> Stamp {
    let times = [(m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())];
    (m.ino(), m.len(), times)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::codec::encode_fresh;
    use crate::segment::Segment;
    use crate::store::{Access, Archive};

    const BLOCK: u64 = 16 << 10;

    /// What is found in a file of two blocks that is changed like this before each look.
    fn found(changes: &[&dyn Fn(&File)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        Archive::init(dir.path()).unwrap();
        let archive = Archive::open(dir.path(), Access::Read).unwrap();
        let path = dir.path().join("a.vortex");
        let mut create = File::options();
        let file = create.read(true).write(true).create_new(true);
        let file = Arc::new(file.open(&path).unwrap());
        let storage = Arc::clone(&file) as Arc<dyn Storage>;
        let mut segment = Segment::create(storage, BLOCK as u32).unwrap();
        for block in 0..2 {
            let mut bytes = vec![0; BLOCK as usize];
            blake3::Hasher::new()
                .update(&[block])
                .finalize_xof()
                .fill(&mut bytes);
            let entry = segment.append(&encode_fresh(&bytes)).unwrap();
            segment.set_entry(block.into(), Some(entry)).unwrap();
        }
        segment.set_logical_size(2 * BLOCK).unwrap();
        segment.commit().unwrap();
        let changes = RefCell::new(changes.iter());
        let slowly = |looked_at| {
            if let Some(change) = changes.borrow_mut().next() {
                // The clock that stamps files goes on meanwhile.
                std::thread::sleep(std::time::Duration::from_millis(15));
                change(&file);
            }
            Arc::new(looked_at) as Arc<dyn Storage>
        };
        damage(&path, archive.library(), &slowly, &|| true).unwrap()
    }

    /// Changes a byte, or changes it back.
    fn flip(file: &File, at: u64) {
        let mut byte = [0];
        FileExt::read_exact_at(file, &mut byte, at).unwrap();
        FileExt::write_all_at(file, &[!byte[0]], at).unwrap();
    }

    #[test]
    fn only_damage_that_is_found_twice_in_a_file_that_stays_the_same_counts() {
        let (one, other) = (|f: &File| flip(f, 2000), |f: &File| flip(f, 20_000));
        let moves = |f: &File| {
            one(f);
            other(f);
        };
        let touched = |f: &File| {
            one(f);
            one(f);
        };
        let stays = |_: &File| {};
        assert_eq!(found(&[]).len(), 0);
        // Changed during the first look, it must be found twice more.
        let lines = found(&[&one, &stays, &stays]);
        assert!(
            lines.len() == 1 && lines[0].starts_with("bytes 0 to "),
            "{lines:?}"
        );
        assert_eq!(found(&[&one, &one]).len(), 0, "it was well again");
        assert_eq!(found(&[&one, &moves, &other]).len(), 0, "it was another");
        assert_eq!(found(&[&one, &touched, &one]).len(), 0, "it was changed");
        // A file that is written to all the time, and damaged.
        let mut busy: Vec<&dyn Fn(&File)> = vec![&one];
        busy.resize(MOST_LOOKS, &touched);
        assert_eq!(found(&busy).len(), 1);
    }
}
