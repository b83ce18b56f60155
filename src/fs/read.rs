//! Reading: which blocks a range touches, and their bytes from memory, the cache or the segment.
//!
//! Blocks are decoded without the file's lock. If a commit gives the payload back meanwhile, because the block was
//! overwritten, the read is planned anew. A damaged block fails only reads that touch it.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use super::cache::{Block, Key, next_instance};
use super::content::{Content, Piece};
use super::disk_cache::name_of;
use super::errno::{FsError, Result};
use super::handles::Fh;
use super::node::Node;
use super::permits::Permits;
use super::second_look::Looks;
use super::sync::{read, write};
use super::{Fs, content};
use crate::codec::CodecId;
use crate::codec::neural::forget_thread_memory;
use crate::segment::{BlockEntry, Starts, Storage, read_payload};
use crate::store::{StoreError, decode_payload};
use crate::sync::atomic::Ordering;

/// Reads that are planned anew before the file is held still.
const RETRIES: u32 = 4;

/// The longest single read.
const MAX_READ: usize = 16 << 20;

/// A stored block that could not be read.
pub(super) struct Unreadable {
    block: u64,
    entry: BlockEntry,
    error: FsError,
}

/// Whether decoded blocks are kept for other readers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caching {
    Keep,
    /// For those who read everything once.
    Bypass,
}

/// Where the stored blocks of a plan come from.
pub(super) struct Source {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) starts: Arc<Starts>,
    pub(super) instance: u64,
}

impl Fs {
    /// Up to `len` bytes from `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// As [`Fs::read_into`].
    pub fn read(&self, fh: Fh, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; len.min(MAX_READ)];
        let n = self.read_into(fh, offset, &mut out)?;
        out.truncate(n);
        Ok(out)
    }

    /// Fills `out` with what lies at `offset`; answers how many bytes that are, fewer than fit only at the end of the file.
    ///
    /// # Errors
    /// `EIO` if a block of the range is damaged; `EBADF` if the file is not open for reading.
    pub fn read_into(&self, fh: Fh, offset: u64, out: &mut [u8]) -> Result<usize> {
        let file = self.handles.readable(fh)?;
        if matches!(*read(&file.node.content), Content::Closed) {
            // What was opened again was in the kernel's cache, and is no more.
            self.load(&file.node, false)?;
            self.expect_neighbours(&file.node);
        }
        let ahead = file.is_sequential(offset, out.len());
        self.read_pieces(&file.node, offset, out, Caching::Keep, ahead)
    }

    pub(super) fn read_node(
        &self,
        node: &Arc<Node>,
        offset: u64,
        len: usize,
        caching: Caching,
    ) -> Result<Vec<u8>> {
        let mut out = vec![0; len];
        let n = self.read_pieces(node, offset, &mut out, caching, false)?;
        out.truncate(n);
        Ok(out)
    }

    /// Reads; what follows is decoded `ahead` if the reader is expected to go on.
    fn read_pieces(
        &self,
        node: &Arc<Node>,
        offset: u64,
        out: &mut [u8],
        caching: Caching,
        ahead: bool,
    ) -> Result<usize> {
        let len = out.len();
        let mut looks = Looks::default();
        for attempt in 0.. {
            self.load(node, false)?;
            let content = read(&node.content);
            let (pieces, next, source) = match &*content {
                Content::Closed => continue,
                Content::Plain(plain) => return read_plain(&plain.file, offset, out),
                Content::Segment(open) => match open.plan(offset, len) {
                    Ok(pieces) => {
                        let next = if ahead {
                            let window = 2 * self.options.jobs as u64 * open.block_size();
                            let end = offset.saturating_add(len as u64);
                            // A block that cannot be planned fails the read that wants it.
                            open.plan(end, window as usize).unwrap_or_default()
                        } else {
                            Vec::new()
                        };
                        (pieces, next, Arc::new(source(node, open)))
                    }
                    Err(error) => {
                        drop(content);
                        if self.reload_if_shared(node, &error, &mut looks)? {
                            continue;
                        }
                        node.log_damage(None, &error);
                        return Err(error);
                    }
                },
            };
            // What does not stay in the cache until it is read would be decoded twice.
            let planned = content::stored_bytes(&pieces) + content::stored_bytes(&next);
            if caching == Caching::Keep && planned / 3 * 4 <= self.cache.limit() {
                self.read_ahead(&source, &pieces, &next);
                self.decode_unclaimed(&source, &pieces, &next);
            }
            let held = (attempt >= RETRIES).then_some(content);
            let failed = match self.assemble(&pieces, &source, out, caching) {
                Ok(n) => return Ok(n),
                Err(failed) => failed,
            };
            if held.is_none() && self.changed_since(node, &failed) {
                continue;
            }
            drop(held);
            if self.reload_if_shared(node, &failed.error, &mut looks)? {
                continue;
            }
            node.log_damage(Some(failed.block), &failed.error);
            return Err(failed.error);
        }
        Err(FsError::Internal)
    }

    /// Puts the pieces into `out`, one after the other; answers their length.
    fn assemble(
        &self,
        pieces: &[Piece],
        source: &Source,
        out: &mut [u8],
        caching: Caching,
    ) -> std::result::Result<usize, Unreadable> {
        let mut at = 0;
        for piece in pieces {
            // A plan is never longer than what is read.
            let rest = out.get_mut(at..).unwrap_or_default();
            at += match piece {
                Piece::Zeros(len) => put(rest, &[], 0, *len),
                Piece::Memory { data, start, len } => put(rest, data, *start, *len),
                Piece::Stored {
                    block,
                    entry,
                    start,
                    len,
                } => {
                    let decoded =
                        self.decoded(source, *block, entry, caching)
                            .map_err(|error| Unreadable {
                                block: *block,
                                entry: *entry,
                                error,
                            })?;
                    put(rest, content::visible(entry, &decoded), *start, *len)
                }
            };
        }
        Ok(at)
    }

    /// The decoded bytes of a stored block, from the cache if it has them.
    pub(super) fn decoded(
        &self,
        source: &Source,
        block: u64,
        entry: &BlockEntry,
        caching: Caching,
    ) -> Result<Block> {
        let key = Key {
            instance: source.instance,
            offset: entry.offset,
        };
        let decode = || {
            let begun = Instant::now();
            let payload = read_payload(&*source.storage, entry).map_err(StoreError::from)?;
            let disk_cache = (self.disk_cache.as_ref())
                .filter(|_| caching == Caching::Keep && entry.codec == CodecId::Neural)
                .map(|cache| (cache, name_of(&payload, entry, &source.starts)));
            if let Some(data) = disk_cache.and_then(|(cache, name)| cache.get(&name, entry)) {
                return Ok(data);
            }
            let data = self.decode(source, block, entry, &payload)?;
            if let Some((cache, name)) = disk_cache {
                cache.put(name, &data);
            }
            if let Some(histogram) = self.decoding.get(entry.codec as usize) {
                histogram.add(begun.elapsed());
            }
            Ok(data)
        };
        match caching {
            Caching::Keep => self.cache.get_or_decode(key, decode),
            Caching::Bypass => self
                .cache
                .get(key)
                .map_or_else(|| decode().map(Arc::new), Ok),
        }
    }

    /// Decodes, where memory is short with few others at a time.
    fn decode(
        &self,
        source: &Source,
        block: u64,
        entry: &BlockEntry,
        payload: &[u8],
    ) -> Result<Vec<u8>> {
        let few = (self.decoders.as_ref()).filter(|_| entry.codec == CodecId::Neural);
        let permit = few.map(Permits::take);
        let (storage, starts) = (&*source.storage, &*source.starts);
        let library = self.archive.library();
        let decoded = decode_payload(storage, starts, block, entry, payload, library);
        if permit.is_some() {
            forget_thread_memory();
        }
        Ok(decoded?)
    }

    /// Whether the cache has the block, or somebody is decoding it for that.
    pub(super) fn has_or_decodes(&self, source: &Source, entry: &BlockEntry) -> bool {
        let (instance, offset) = (source.instance, entry.offset);
        self.cache.has_or_decodes(Key { instance, offset })
    }

    fn changed_since(&self, node: &Node, failed: &Unreadable) -> bool {
        match &*read(&node.content) {
            Content::Segment(open) => open.current_entry(failed.block) != Some(failed.entry),
            _ => true,
        }
    }

    /// Opens the segment anew if another process may have changed it and that may explain the error.
    fn reload_if_shared(
        &self,
        node: &Arc<Node>,
        error: &FsError,
        looks: &mut Looks,
    ) -> Result<bool> {
        if !self.look_again(node, error, looks)? {
            return Ok(false);
        }
        *write(&node.content) = Content::Closed;
        node.instance.store(next_instance(), Ordering::SeqCst);
        self.load(node, false)?;
        Ok(true)
    }
}

/// Where the stored blocks of an open segment come from.
pub(super) fn source(node: &Node, open: &content::Segmented) -> Source {
    Source {
        storage: Arc::clone(open.segment.storage()),
        starts: Arc::clone(open.segment.starts()),
        instance: node.instance.load(Ordering::SeqCst),
    }
}

/// Puts `len` bytes of `data` from `start` on, and zeros where it has none, at the beginning of `out`; answers how many fit.
fn put(out: &mut [u8], data: &[u8], start: usize, len: usize) -> usize {
    let len = len.min(out.len());
    let (out, _) = out.split_at_mut(len);
    let from = data.get(start..).unwrap_or_default();
    let (filled, zeros) = out.split_at_mut(from.len().min(len));
    filled.copy_from_slice(from.get(..filled.len()).unwrap_or_default());
    zeros.fill(0);
    len
}

fn read_plain(file: &std::fs::File, offset: u64, out: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match FileExt::read_at(file, rest, offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}
