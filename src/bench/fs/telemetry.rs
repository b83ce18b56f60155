//! Data to measure with: the user's files again and again, under other names and with other readings.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{FsBenchError, Result, at};

/// The most that is taken of one file.
const PIECE: usize = 8 << 20;

/// Fills `folder` with `bytes` of telemetry, in as many sub-directories as there are to be readers or writers.
pub(super) fn make(folder: &Path, data: &[PathBuf], bytes: u64, parts: usize) -> Result<()> {
    let mut samples = Vec::new();
    let mut have = 0;
    for path in data {
        let mut sample = fs::read(path).map_err(at(path))?;
        sample.truncate(PIECE);
        if sample.is_empty() {
            continue;
        }
        have += sample.len() as u64;
        samples.push((path, sample));
        if have >= bytes {
            break;
        }
    }
    if samples.is_empty() {
        return Err(FsBenchError::NoData);
    }
    for part in 0..parts {
        let inside = folder.join(format!("part{part}"));
        fs::create_dir(&inside).map_err(at(&inside))?;
    }
    let mut made = 0;
    for (number, (path, sample)) in samples.iter().cycle().enumerate() {
        if made >= bytes {
            break;
        }
        let round = number / samples.len();
        let mut copy = sample.clone();
        copy.truncate(usize::try_from(bytes - made).unwrap_or(usize::MAX));
        change(&mut copy, round);
        let name = path.file_name().unwrap_or_default().display();
        let to = folder.join(format!("part{}/{round}-{number}-{name}", number % parts));
        fs::write(&to, &copy).map_err(at(&to))?;
        made += copy.len() as u64;
    }
    Ok(())
}

/// Changes readings: in text the last digit of long numbers, else a byte of every 64.
fn change(data: &mut [u8], round: usize) {
    if round == 0 {
        return;
    }
    let step = (round % 9 + 1) as u8;
    if data.iter().take(4096).any(|&b| b == 0) {
        for byte in data.iter_mut().step_by(64) {
            *byte = byte.wrapping_add(step);
        }
        return;
    }
    let mut digits = 0;
    for at in 0..data.len() {
        let next_is_digit = data.get(at + 1).is_some_and(u8::is_ascii_digit);
        let byte = &mut data[at];
        digits = if byte.is_ascii_digit() { digits + 1 } else { 0 };
        if digits >= 4 && !next_is_digit {
            *byte = b'0' + (*byte - b'0' + step) % 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_have_other_names_and_readings_and_the_size_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("a.csv");
        fs::write(&source, "1700000001,20.5\n".repeat(100)).unwrap();
        let folder = dir.path().join("out");
        fs::create_dir(&folder).unwrap();
        make(&folder, std::slice::from_ref(&source), 4000, 2).unwrap();
        let files = crate::bench::files::files(&[folder]).unwrap();
        let read: Vec<_> = files.iter().map(|f| fs::read(f).unwrap()).collect();
        assert_eq!(read.iter().map(Vec::len).sum::<usize>(), 4000);
        assert_eq!(read.len(), 3);
        assert!(
            read.iter()
                .any(|data| data.starts_with(b"1700000001,20.5\n"))
        );
        assert!(
            read.iter()
                .any(|data| data.starts_with(b"1700000003,20.5\n"))
        );
        let empty = dir.path().join("empty");
        fs::write(&empty, "").unwrap();
        assert!(matches!(
            make(dir.path(), &[empty], 10, 1),
            Err(FsBenchError::NoData)
        ));
    }
}
