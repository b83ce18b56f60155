//! Sealing: a whole file becomes one sealed segment, encoded in parallel, then read back and compared.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use super::decode::decode_entry;
use super::error::StoreError;
use super::key_run::{KeyRun, Primer};
use super::library::Library;
use super::models::Profile;
use super::temp::TempFile;
use super::write::write_segment;
use crate::codec::{self, CodecId, Effort, Encoded, Means, Start};
use crate::segment::{Segment, Storage};

/// Blocks in hand at a time.
const BATCH: usize = 64;

/// What a segment is made of: the bytes of a file.
pub trait BlockSource: Sync {
    /// Length in bytes. It must not change while the source is sealed.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`; the range lies within the length.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError>;

    /// First offset at or after `offset` that may hold something else than zeros, `None` if there is none.
    ///
    /// # Errors
    /// Whatever keeps the source from knowing.
    fn next_data(&self, offset: u64) -> Result<Option<u64>, StoreError> {
        Ok((offset < self.len()).then_some(offset))
    }
}

/// A plain file as a source, of the length that it had when this was made.
#[derive(Debug)]
pub struct PlainFile {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
}

impl PlainFile {
    /// Takes the file's present length.
    ///
    /// # Errors
    /// I/O errors.
    pub fn new(file: Arc<File>, path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        let len = file.metadata().map_err(StoreError::io(&path))?.len();
        Ok(PlainFile { file, path, len })
    }
}

impl BlockSource for PlainFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(StoreError::io(&self.path))
    }

    fn next_data(&self, offset: u64) -> Result<Option<u64>, StoreError> {
        use rustix::fs::{SeekFrom, seek};
        match seek(&*self.file, SeekFrom::Data(offset)) {
            Ok(data) => Ok((data < self.len).then_some(data)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                Ok((offset < self.len).then_some(offset))
            }
            Err(e) => Err(StoreError::io(&self.path)(e.into())),
        }
    }
}

/// How blocks are encoded.
#[derive(Debug, Clone)]
pub enum Encoding {
    /// Fast: raw or zstd, as a mount encodes fresh writes.
    Fresh,
    /// Small: the smallest of raw, zstd and neural, with a profile's model where it pays, if there is one.
    Packed(Packing),
}

/// What files are packed with.
#[derive(Debug, Clone, Default)]
pub struct Packing {
    /// The profile whose model may be used.
    pub profile: Option<Profile>,
    /// How much time it may take.
    pub effort: Effort,
}

impl Packing {
    /// As the profile wants it.
    #[must_use]
    pub fn with(profile: Option<Profile>) -> Packing {
        Packing {
            effort: profile.as_ref().map_or(Effort::Usual, Profile::effort),
            profile,
        }
    }

    /// What segments say that they were made with: see [`Summary::made_with`](crate::segment::Summary::made_with).
    #[must_use]
    pub fn made_with(&self) -> u8 {
        let mark = |profile: &Profile| 2 + (u128::from_le_bytes(profile.id().0) % 254) as u8;
        self.profile.as_ref().map_or(1, mark)
    }

    /// The model and the time.
    #[must_use]
    pub fn means(&self) -> Means<'_> {
        Means {
            model: self.profile.as_ref().map(|profile| &profile.model),
            effort: self.effort,
            behind: 0,
        }
    }
}

impl Encoding {
    /// Every way is tried, with the `model` or without, or only the one that `neighbour` was encoded. `before` is a key block just
    /// before this one.
    pub(super) fn encode(
        &self,
        block: &[u8],
        start: Option<&Start>,
        neighbour: Option<&Encoded>,
        before: Option<&Encoded>,
        model: bool,
    ) -> Encoded {
        let Encoding::Packed(packing) = self else {
            return codec::encode_fresh(block);
        };
        let means = packing.means();
        match neighbour {
            Some(neighbour) => codec::encode_like(neighbour, block, means, start),
            None if model => codec::encode_after(before, block, means, start),
            None => codec::encode_after(before, block, means.alone(), start),
        }
    }

    /// As a key block after `before`, without the model: only the [first](Encoding::encode_first) of a run may have it.
    pub(super) fn encode_key(
        &self,
        block: &[u8],
        start: Option<&Start>,
        before: Option<&Encoded>,
    ) -> Encoded {
        match self {
            Encoding::Fresh => codec::encode_fresh(block),
            Encoding::Packed(packing) => {
                codec::encode_after(before, block, packing.means().alone(), start)
            }
        }
    }

    /// As the first key block of a run, with the model if it saves enough for the `behind` blocks that need this one; and whether the model
    /// may pay in those.
    pub(super) fn encode_first(&self, block: &[u8], behind: u64) -> (Encoded, bool) {
        match self {
            Encoding::Fresh => (codec::encode_fresh(block), false),
            Encoding::Packed(packing) => codec::encode_first(block, packing.means().before(behind)),
        }
    }
}

/// Asks work under way to stop at the next block.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.is_cancelled() {
            Err(StoreError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// How a source is sealed.
pub struct SealOptions<'a> {
    /// Bytes in a block: a power of two from 16 KiB to 1 MiB.
    pub block_size: u32,
    /// How blocks are encoded.
    pub encoding: Encoding,
    /// Which blocks others start from. Fast encoding starts every block cold.
    pub key_run: KeyRun,
    /// A sample that all blocks may start from, instead of key blocks. Readers must find it in their library.
    pub primer: Option<Primer>,
    /// Threads that encode and decode.
    pub jobs: usize,
    /// Called with the number of source bytes dealt with, each byte once when encoded and once when compared.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
    /// Stops the work.
    pub cancel: Option<&'a Cancel>,
}

/// What sealing made of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealReport {
    /// Bytes of the source.
    pub logical: u64,
    /// Bytes of the segment, all headers and the index included.
    pub stored: u64,
    /// Number of blocks by codec: raw, zstd, neural.
    pub blocks: [u64; 3],
    /// Blocks that are all zeros and take no space.
    pub holes: u64,
    /// Blocks that were coded from a start state.
    pub started: u64,
    /// Blocks that need the model.
    pub modelled: u64,
    /// Bytes that the model saves in them, estimated.
    pub model_saves: u64,
}

/// Seals `source` into `temp`, then reads the segment back from the file, decodes and compares every block, and syncs.
///
/// # Errors
/// `ReadBack` if the segment does not give the source's bytes (never use it then), `Cancelled`, errors of the source, I/O errors.
pub fn seal(
    source: &dyn BlockSource,
    temp: &TempFile,
    library: &Library,
    options: &SealOptions<'_>,
) -> Result<SealReport, StoreError> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.jobs.max(1))
        .thread_name(|i| format!("seal-{i}"))
        .build()
        .map_err(|e| StoreError::io("worker threads")(std::io::Error::other(e)))?;
    if let Encoding::Packed(packing) = &options.encoding
        && let Some(profile) = &packing.profile
    {
        library.models().add_loaded(&profile.model);
    }
    let report = pool.install(|| write_segment(source, temp, options))?;
    pool.install(|| compare(source, temp, library, options))?;
    temp.file()
        .sync_all()
        .map_err(StoreError::io("temporary segment"))?;
    Ok(report)
}

/// Decodes the finished segment and compares it with the source, holes included.
fn compare(
    source: &dyn BlockSource,
    temp: &TempFile,
    library: &Library,
    options: &SealOptions<'_>,
) -> Result<(), StoreError> {
    let segment = Segment::open(Arc::clone(temp.file()) as Arc<dyn Storage>)?;
    if segment.logical_size() != source.len() {
        return Err(StoreError::ReadBack { block: 0 });
    }
    let seen = AtomicU64::new(0);
    for_each_batch(source, options, |batch| {
        batch.par_iter().try_for_each(|&block| {
            let expected = read_block(source, options, block)?;
            let same = match segment.entry(block)? {
                Some(entry) => {
                    seen.fetch_add(1, Ordering::Relaxed);
                    decode_entry(&segment, block, &entry, library).is_ok_and(|got| got == expected)
                }
                None => expected.iter().all(|&b| b == 0),
            };
            note_progress(options, expected.len());
            if same {
                Ok(())
            } else {
                Err(StoreError::ReadBack { block })
            }
        })
    })?;
    // A block that the source holds no data for must not be stored.
    let mut stored = 0;
    for found in segment.entries() {
        found?;
        stored += 1;
    }
    if stored == seen.into_inner() {
        Ok(())
    } else {
        Err(StoreError::ReadBack { block: stored })
    }
}

/// Calls `work` with runs of numbers of blocks that may hold data, ascending.
pub(super) fn for_each_batch(
    source: &dyn BlockSource,
    options: &SealOptions<'_>,
    mut work: impl FnMut(&[u64]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let size = u64::from(options.block_size);
    let mut batch = Vec::with_capacity(BATCH);
    let mut at = 0;
    while let Some(data) = source.next_data(at)? {
        if let Some(cancel) = options.cancel {
            cancel.check()?;
        }
        let block = data / size;
        batch.push(block);
        at = (block + 1).saturating_mul(size);
        if batch.len() == BATCH {
            work(&batch)?;
            batch.clear();
        }
    }
    work(&batch)
}

pub(super) fn block_count(source: &dyn BlockSource, options: &SealOptions<'_>) -> u64 {
    source.len().div_ceil(u64::from(options.block_size))
}

pub(super) fn read_block(
    source: &dyn BlockSource,
    options: &SealOptions<'_>,
    block: u64,
) -> Result<Vec<u8>, StoreError> {
    if let Some(cancel) = options.cancel {
        cancel.check()?;
    }
    let start = block * u64::from(options.block_size);
    let len = (source.len() - start).min(u64::from(options.block_size));
    let mut data = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    source.read_at(&mut data, start)?;
    Ok(data)
}

pub(super) fn note_progress(options: &SealOptions<'_>, bytes: usize) {
    if let Some(progress) = options.progress {
        progress(bytes as u64);
    }
}

impl SealReport {
    pub(super) fn count(&mut self, block: &Encoded) {
        self.blocks[block.codec as usize] += 1;
        self.started += u64::from(block.started);
        self.modelled += u64::from(block.model.is_some());
        self.model_saves += u64::from(block.model_saves);
    }

    /// Adds another file's figures.
    pub fn add(&mut self, other: &SealReport) {
        self.logical += other.logical;
        self.stored += other.stored;
        self.holes += other.holes;
        self.started += other.started;
        self.modelled += other.modelled;
        self.model_saves += other.model_saves;
        for codec in CodecId::ALL {
            self.blocks[codec as usize] += other.blocks[codec as usize];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::sync::Mutex;

    use super::*;
    use crate::store::SegmentReader;

    /// A source that holds its bytes, and may change them between two reads.
    struct Bytes {
        data: Mutex<Vec<u8>>,
        len: u64,
        reads_before_change: Option<AtomicU64>,
    }

    impl Bytes {
        fn new(data: Vec<u8>) -> Self {
            Bytes {
                len: data.len() as u64,
                data: Mutex::new(data),
                reads_before_change: None,
            }
        }
    }

    impl BlockSource for Bytes {
        fn len(&self) -> u64 {
            self.len
        }

        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
            let mut data = self.data.lock().unwrap();
            if let Some(left) = &self.reads_before_change
                && left.fetch_sub(1, Ordering::Relaxed) == 0
            {
                data[0] ^= 1;
            }
            let at = usize::try_from(offset).unwrap();
            buf.copy_from_slice(&data[at..at + buf.len()]);
            Ok(())
        }
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| {
                if i % 7 == 0 {
                    (i / 1000) as u8
                } else {
                    (i % 13) as u8
                }
            })
            .collect()
    }

    fn options(jobs: usize) -> SealOptions<'static> {
        SealOptions {
            block_size: 1 << 14,
            encoding: Encoding::Fresh,
            key_run: KeyRun::default(),
            primer: None,
            jobs,
            progress: None,
            cancel: None,
        }
    }

    fn seal_in(
        dir: &std::path::Path,
        source: &dyn BlockSource,
        options: &SealOptions<'_>,
    ) -> (TempFile, Result<SealReport, StoreError>) {
        let temp = TempFile::create_in(File::open(dir).unwrap().as_fd(), "t").unwrap();
        let report = seal(source, &temp, &Library::default(), options);
        (temp, report)
    }

    #[test]
    fn sealed_bytes_read_back_for_any_length_and_thread_count() {
        let dir = tempfile::tempdir().unwrap();
        let library = Library::default();
        let mut streams = Vec::new();
        for jobs in [1, 2, 5] {
            for len in [0, 1, (1 << 14) - 1, 1 << 14, (1 << 14) + 1, 400_000] {
                let data = sample(len);
                let (temp, report) = seal_in(dir.path(), &Bytes::new(data.clone()), &options(jobs));
                let report = report.unwrap();
                assert_eq!(report.logical, len as u64);
                assert_eq!(report.stored, temp.file().metadata().unwrap().len());
                let reader =
                    SegmentReader::from_file(Arc::clone(temp.file()), dir.path(), &library)
                        .unwrap();
                let mut got = vec![0; len];
                reader.read_at(&mut got, 0).unwrap();
                assert!(got == data, "{len} bytes with {jobs} jobs");
                let mut bytes = vec![0; report.stored as usize];
                temp.file().read_exact_at(&mut bytes, 0).unwrap();
                streams.push((len, bytes));
            }
        }
        for (len, bytes) in &streams {
            assert!(
                streams.iter().all(|(l, b)| l != len || b == bytes),
                "{len} bytes differ by thread count"
            );
        }
    }

    #[test]
    fn zero_blocks_take_no_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create_new(&path).unwrap();
        file.set_len(100 << 20).unwrap();
        Storage::write_all_at(&file, b"in the middle", 50 << 20).unwrap();
        let source = PlainFile::new(Arc::new(File::open(&path).unwrap()), &path).unwrap();
        let (temp, report) = seal_in(dir.path(), &source, &options(2));
        let report = report.unwrap();
        assert_eq!(report.blocks.iter().sum::<u64>(), 1);
        assert!(report.stored < 200, "{report:?}");
        let library = Library::default();
        let reader = SegmentReader::from_file(Arc::clone(temp.file()), &path, &library).unwrap();
        let mut got = vec![1; 32];
        reader.read_at(&mut got, (50 << 20) - 16).unwrap();
        assert_eq!(&got, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0in the middle\0\0\0");
    }

    #[test]
    fn source_that_changes_meanwhile_is_not_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let mut source = Bytes::new(sample(100_000));
        source.reads_before_change = Some(AtomicU64::new(7));
        let (_, report) = seal_in(dir.path(), &source, &options(1));
        assert!(
            matches!(report, Err(StoreError::ReadBack { block: 0 })),
            "{report:?}"
        );
    }

    #[test]
    fn cancelled_work_stops() {
        let dir = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        let options = SealOptions {
            cancel: Some(&cancel),
            ..options(1)
        };
        let (_, report) = seal_in(dir.path(), &Bytes::new(sample(10)), &options);
        assert!(matches!(report, Err(StoreError::Cancelled)));
    }

    #[test]
    fn every_flipped_byte_is_found_by_verify() {
        let dir = tempfile::tempdir().unwrap();
        let (temp, report) = seal_in(dir.path(), &Bytes::new(sample(40_000)), &options(1));
        let mut bytes = vec![0; report.unwrap().stored as usize];
        temp.file().read_exact_at(&mut bytes, 0).unwrap();
        let (path, library) = (dir.path().join("s.vortex"), Library::default());
        let check = |bytes: &[u8]| {
            File::create(&path).unwrap().write_all(bytes).unwrap();
            crate::store::verify_segment(&path, &library, crate::store::Depth::Content, &|_| {})
                .unwrap()
        };
        assert_eq!(check(&bytes).findings, []);
        for at in 0..bytes.len() {
            bytes[at] ^= 0x10;
            assert!(!check(&bytes).is_sound(), "byte {at} of {}", bytes.len());
            bytes[at] ^= 0x10;
        }
        for len in 1..bytes.len() {
            assert!(!check(&bytes[..len]).is_sound(), "cut to {len}");
        }
    }
}
