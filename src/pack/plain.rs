//! A whole file written out plain: decoded, checked, read back.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::store::{BlockSource, Cancel, StoreError, TempFile};

/// Bytes in hand at a time for each thread: the largest block.
const CHUNK: u64 = 1 << 20;

/// Pieces of zeros of this size become holes.
const HOLE: usize = 1 << 12;

/// Writes all of `source` into `temp`, reads it back, compares and syncs. `tell` hears of bytes written.
///
/// # Errors
/// `ReadBack` if the file does not hold what was decoded (never use it then), `Cancelled`, errors of the source, I/O errors.
pub(super) fn write_plain(
    source: &dyn BlockSource,
    temp: &TempFile,
    threads: usize,
    cancel: &Cancel,
    tell: &(dyn Fn(u64) + Sync),
) -> Result<(), StoreError> {
    let fail = || StoreError::io("temporary file");
    let file: &File = temp.file();
    file.set_len(source.len()).map_err(fail())?;
    let mut batch = Vec::new();
    let mut sums: Vec<(u64, usize, u32)> = Vec::new();
    let mut at = 0;
    let mut work = |batch: &mut Vec<u64>| -> Result<(), StoreError> {
        let done: Result<Vec<_>, StoreError> = batch
            .par_drain(..)
            .map(|start| {
                if cancel.is_cancelled() {
                    return Err(StoreError::Cancelled);
                }
                let len = (source.len() - start).min(CHUNK);
                let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
                source.read_at(&mut data, start)?;
                write_data(file, &data, start).map_err(fail())?;
                tell(len);
                Ok((start, data.len(), crc32c::crc32c(&data)))
            })
            .collect();
        sums.extend(done?);
        Ok(())
    };
    while let Some(data) = source.next_data(at)? {
        let start = data / CHUNK * CHUNK;
        batch.push(start);
        at = start.saturating_add(CHUNK);
        if batch.len() >= threads.max(1) * 2 {
            work(&mut batch)?;
        }
    }
    work(&mut batch)?;
    file.sync_all().map_err(fail())?;
    sums.par_iter().try_for_each(|&(start, len, sum)| {
        let mut data = vec![0; len];
        file.read_exact_at(&mut data, start).map_err(fail())?;
        let same = crc32c::crc32c(&data) == sum;
        if same {
            Ok(())
        } else {
            Err(StoreError::ReadBack {
                block: start / CHUNK,
            })
        }
    })
}

/// Writes what is not zeros; the file is new and as long as it will be.
fn write_data(file: &File, data: &[u8], start: u64) -> std::io::Result<()> {
    let zero = |piece: &[u8]| piece.iter().all(|&b| b == 0);
    let pieces: Vec<&[u8]> = data.chunks(HOLE).collect();
    let mut at = 0;
    for run in pieces.chunk_by(|a, b| zero(a) == zero(b)) {
        let len: usize = run.iter().map(|p| p.len()).sum();
        let Some(bytes) = data.get(at..at + len) else {
            break;
        };
        if !zero(bytes) {
            file.write_all_at(bytes, start + at as u64)?;
        }
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use std::os::fd::AsFd;

    struct Bytes(Vec<u8>);

    impl BlockSource for Bytes {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
            let start = usize::try_from(offset).expect("small");
            buf.copy_from_slice(&self.0[start..start + buf.len()]);
            Ok(())
        }
    }

    fn temp() -> (tempfile::TempDir, TempFile) {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = TempFile::create_in(File::open(dir.path()).expect("open").as_fd(), "t")
            .expect("temp file");
        (dir, file)
    }

    #[test]
    fn what_changes_before_it_is_read_back_is_refused() {
        let (_dir, temp) = temp();
        let spoil = |_| temp.file().write_all_at(b"!", 5).expect("write");
        let result = write_plain(&Bytes(vec![1; 100]), &temp, 1, &Cancel::default(), &spoil);
        assert!(
            matches!(result, Err(StoreError::ReadBack { block: 0 })),
            "{result:?}"
        );
    }

    #[test]
    fn every_length_is_written_out_and_zeros_become_holes() {
        for len in [0, 1, 4095, 4096, (1 << 20) - 1, 1 << 20, (3 << 20) + 17] {
            let mut data: Vec<u8> = (0..len).map(|i: usize| (i * i >> 7) as u8 | 1).collect();
            if len > 2 << 20 {
                data[100_000..2_500_000].fill(0);
            }
            let (_dir, temp) = temp();
            write_plain(&Bytes(data.clone()), &temp, 2, &Cancel::default(), &|_| ())
                .expect("written");
            let mut back = vec![0; len];
            temp.file().read_exact_at(&mut back, 0).expect("read");
            let meta = temp.file().metadata().expect("stat");
            assert!(back == data && meta.len() == len as u64);
            if len > 2 << 20 {
                assert!(meta.blocks() * 512 < 1 << 20, "{}", meta.blocks());
            }
        }
    }

    #[test]
    fn cancelled_work_stops() {
        let (_dir, temp) = temp();
        let cancel = Cancel::default();
        cancel.cancel();
        let result = write_plain(&Bytes(vec![1; 100]), &temp, 1, &cancel, &|_| ());
        assert!(matches!(result, Err(StoreError::Cancelled)));
    }
}
