//! One function for each decoder: whatever the bytes are, it comes back.

use std::fs::File;
use std::sync::Arc;

use vortex_fs::codec::{self, CodecId, Effort, Start};
use vortex_fs::engine::{Model, State};
use vortex_fs::pack::protocol::{Event, Request, escape, unescape};
use vortex_fs::segment::{MemStorage, Segment, Storage, check, heal};
use vortex_fs::store::{Access, Archive, Library, PrimerStore, StartCache, decode_entry};
use vortex_fs::train::Settings;

/// The name of a target and the target.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
#[allow(dead_code, reason = "the fuzzer takes them one by one")]
pub const ALL: [Target; 6] = [
    ("segment", segment),
    ("payload", payload),
    ("model", model),
    ("settings", settings),
    ("protocol", protocol),
    ("archive", archive),
];

/// Longest block that is decoded: a valid one may take a second for each 400 KB, which finds no more than a short one.
const MOST: u32 = 4 << 10;
/// Entries of a segment that are looked at: a page of a few bytes can be named as many times as it likes.
const ENTRIES: usize = 200;

/// A whole segment, with checksums mended so that damage reaches further: opened, read, checked, written to.
pub fn segment(data: &[u8]) {
    let mut bytes = data.to_vec();
    super::mend::checksums(&mut bytes);
    let storage: Arc<dyn Storage> = Arc::new(MemStorage::new(bytes));
    let _ = heal(Arc::clone(&storage), &|_, _, _| true);
    let decode = |_, _: &_, _| Ok(());
    let _ = check(Arc::clone(&storage), decode);
    let Ok(mut segment) = Segment::open(storage) else {
        return;
    };
    // What the cache of states may hold is a matter of its own.
    let library = Library::default().with_starts(StartCache::new(0));
    library.models().add_loaded(&small_model());
    for found in segment.entries().take(ENTRIES) {
        let Ok((block, entry)) = found else { continue };
        if entry.decoded_len <= MOST && key_bytes(&segment, entry.start) <= MOST {
            let _ = decode_entry(&segment, block, &entry, &library);
        }
    }
    let _ = (segment.next_data(0), segment.entry(u64::MAX));
    if segment.make_live().is_ok()
        && let Ok(entry) = segment.append(&codec::encode_fresh(b"written by the fuzzer"))
    {
        let _ = segment.set_entry(1, Some(entry));
        let _ = segment.set_logical_size(segment.logical_size() / 2);
        let _ = segment.commit();
    }
}

/// Bytes that a start state is made of.
fn key_bytes(segment: &Segment, mut state: u16) -> u32 {
    let mut sum = 0u32;
    while let Some(vortex_fs::segment::StartEntry::Block { parent, payload }) =
        segment.starts().get(state)
    {
        sum = sum.saturating_add(payload.decoded_len);
        state = *parent;
    }
    sum
}

/// A payload: the first byte chooses the codec and what it is decoded with, the next two are the decoded length.
pub fn payload(data: &[u8]) {
    let [how, low, high, payload @ ..] = data else {
        return;
    };
    let Some(codec) = CodecId::from_u8(how & 3) else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([*low, *high]) & (MOST as u16 - 1));
    let model = (how & 4 != 0).then(small_model);
    let start = match how >> 3 & 3 {
        0 => None,
        1 => Some(some_start()),
        _ => Some(some_wide_start()),
    };
    if let Ok(found) = codec::decode(codec, model.as_deref(), payload, len, start.as_deref()) {
        assert_eq!(found.len(), len);
    }
}

/// A model file: loaded and run for two bytes.
pub fn model(data: &[u8]) {
    let Ok(model) = Model::from_bytes(data) else {
        return;
    };
    if let Ok(mut state) = State::new(&model, 2) {
        let features = vec![7; 2 * model.config().model.features.len()];
        let mut weights = [[0; 256]; 2];
        for _ in 0..2 {
            state.step(&model, &features, 2, &mut weights);
        }
    }
}

/// A configuration in YAML.
pub fn settings(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Err(reason) = Settings::parse(text)
    {
        assert!(!reason.contains(char::is_control), "{reason:?}");
    }
}

/// A line of the control protocol, either way.
pub fn protocol(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let again = serde_json::to_vec(&request).expect("what was read can be written");
        assert_eq!(
            serde_json::from_slice::<Request>(&again).ok(),
            Some(request)
        );
    }
    let _ = serde_json::from_slice::<Event>(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let path = unescape(text);
        assert_eq!(unescape(&escape(&path)), path);
    }
}

/// The small files of `.vortex`: up to the first zero byte its `format`, then the index of its primers.
pub fn archive(data: &[u8]) {
    let (format, index) = match data.iter().position(|&b| b == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    Archive::init(dir.path()).expect("an archive");
    let private = dir.path().join(".vortex");
    std::fs::write(private.join("format"), format).expect("written");
    std::fs::write(private.join("primers/index"), index).expect("written");
    let _ = Archive::open(dir.path(), Access::Read);
    std::fs::write(private.join("copies/format"), format).expect("written");
    let _ = Archive::open(dir.path(), Access::Read);
    let primers = PrimerStore::new(Some(
        File::open(private.join("primers")).expect("open").into(),
    ));
    let kinds = primers
        .kinds()
        .expect("an index that says nothing is passed over");
    if let Some((id, _)) = kinds.first() {
        assert!(primers.load(*id).is_err());
    }
}

thread_local! {
    static MODEL: Arc<Model> = Arc::new(
        Model::from_bytes(include_bytes!("../../tests/golden/small.safetensors")).expect("a model"),
    );
    static START: Arc<Start> = Arc::new(Start::then(None, &b"2026-01-01,17.5,ok\n".repeat(40), None));
    /// The same and a line that was coded wide.
    static WIDE: Arc<Start> = {
        let line = b"2026-01-01,17.5,ok\n";
        let payload = codec::neural::code(line, None, Some(&some_start()), Effort::Dense);
        Arc::new(Start::then(Some(&some_start()), line, Some(&payload.into_payload())))
    };
}

fn small_model() -> Arc<Model> {
    MODEL.with(Arc::clone)
}

fn some_wide_start() -> Arc<Start> {
    WIDE.with(Arc::clone)
}

fn some_start() -> Arc<Start> {
    START.with(Arc::clone)
}
