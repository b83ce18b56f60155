//! Writing a segment: which blocks are coded one after another, and which side by side.
//!
//! Key blocks come one by one. The blocks between them are taken some neighbours at a time: the first is encoded in every way, the
//! others as that one came out best. Where the state of the last key run has gone stale (another channel, another kind of
//! message), a new run begins. What comes out does not depend on the number of threads.

use std::sync::Arc;

use rayon::prelude::*;

use super::error::StoreError;
use super::key_run::{KeyRun, Starting};
use super::seal::{
    BlockSource, Encoding, SealOptions, SealReport, block_count, for_each_batch, note_progress,
    read_block,
};
use super::temp::TempFile;
use crate::codec::{self, Encoded, Start};
use crate::segment::{SealedWriter, Storage};

/// Blocks next to each other that are encoded in the same way.
const NEIGHBOURS: usize = 8;
/// Blocks of a key run that is tried in the place of a state, at most.
const TRIAL: usize = 4;
/// Blocks among which the model is tried once, as long as it does not pay.
const MODEL_TRIALS: u64 = 64;
/// Most neighbours between two attempts at a new key run.
const MOST_PATIENCE: u32 = 64;

/// Encodes the blocks of `source` into `temp`.
///
/// # Errors
/// `Cancelled`, errors of the source, I/O errors.
pub(super) fn write_segment(
    source: &dyn BlockSource,
    temp: &TempFile,
    options: &SealOptions<'_>,
) -> Result<SealReport, StoreError> {
    let storage: Arc<dyn Storage> = Arc::clone(temp.file()) as Arc<dyn Storage>;
    let writer = SealedWriter::new(Arc::clone(&storage), options.block_size)?;
    let (run, primer, made_with) = match &options.encoding {
        Encoding::Fresh => (KeyRun::NONE, None, 0),
        Encoding::Packed(packing) => (
            options.key_run,
            options.primer.as_ref(),
            packing.made_with(),
        ),
    };
    let mut writer = writer.with_profile(made_with);
    let count = block_count(source, options);
    let mut writing = Writing {
        source,
        options,
        starting: Starting::new(run, primer, count, &mut writer)?,
        writer,
        report: SealReport {
            logical: source.len(),
            ..SealReport::default()
        },
        patience: Patience::default(),
        model_from: 0,
        key: None,
    };
    for_each_batch(source, options, |batch| writing.batch(batch))?;
    let mut report = writing.report;
    report.holes = count - report.blocks.iter().sum::<u64>();
    writing.writer.finish(source.len())?;
    report.stored = storage.len().map_err(StoreError::io("temporary segment"))?;
    Ok(report)
}

struct Writing<'a> {
    source: &'a dyn BlockSource,
    options: &'a SealOptions<'a>,
    writer: SealedWriter,
    starting: Starting,
    report: SealReport,
    patience: Patience,
    /// Block from which on the model is tried again.
    model_from: u64,
    /// The key block that was coded last, if no other block came after it.
    key: Option<Encoded>,
}

impl Writing<'_> {
    fn batch(&mut self, batch: &[u64]) -> Result<(), StoreError> {
        let mut rest = batch;
        while let Some((&first, others)) = rest.split_first() {
            self.starting.enter(first);
            let here = rest.partition_point(|&b| self.starting.has(b));
            let (now, later) = rest.split_at(here.clamp(1, NEIGHBOURS));
            let key = self.starting.is_key(first);
            let may_be_stale = !key || self.starting.is_long_yet();
            if may_be_stale && self.is_stale(now)? {
                self.starting.renew();
            } else if key {
                self.key_block(first)?;
                rest = others;
            } else {
                self.neighbours(now)?;
                rest = later;
            }
        }
        Ok(())
    }

    fn key_block(&mut self, block: u64) -> Result<(), StoreError> {
        let data = read_block(self.source, self.options, block)?;
        if data.iter().any(|&b| b != 0) {
            let (number, state) = self.starting.now();
            let before = self.key.take();
            let encoding = &self.options.encoding;
            let encoded = match state {
                None => {
                    let behind = self.starting.left(block) - 1;
                    let (encoded, may_pay) = encoding.encode_first(&data, behind);
                    self.model_from = if may_pay { block } else { block + MODEL_TRIALS };
                    encoded
                }
                Some(_) => encoding.encode_key(&data, state, before.as_ref()),
            };
            let entry = self.writer.push_from(block, &encoded, number)?;
            self.report.count(&encoded);
            self.starting
                .add(&mut self.writer, &entry, &data, &encoded)?;
            self.key = Some(encoded);
        }
        note_progress(self.options, data.len());
        Ok(())
    }

    fn neighbours(&mut self, blocks: &[u64]) -> Result<(), StoreError> {
        let (number, state) = self.starting.now();
        let (source, options) = (self.source, self.options);
        let Some((&first, others)) = blocks.split_first() else {
            return Ok(());
        };
        let model = first >= self.model_from;
        let key = self.key.take();
        let encode = |block: u64, neighbour: Option<&Encoded>| {
            let data = read_block(source, options, block)?;
            let zero = data.iter().all(|&b| b == 0);
            let encoded = (!zero).then(|| {
                let encoding = &options.encoding;
                encoding.encode(&data, state, neighbour, key.as_ref(), model)
            });
            note_progress(options, data.len());
            Ok::<_, StoreError>(encoded)
        };
        let mut encoded = vec![encode(first, None)?];
        if model && encoded[0].as_ref().is_some_and(|e| e.model.is_none()) {
            self.model_from = first + MODEL_TRIALS;
        }
        let neighbour = encoded[0].clone();
        let others: Vec<_> = others
            .par_iter()
            .map(|&block| encode(block, neighbour.as_ref()))
            .collect::<Result<_, _>>()?;
        encoded.extend(others);
        for (&block, encoded) in blocks.iter().zip(&encoded) {
            if let Some(encoded) = encoded {
                self.writer.push_from(block, encoded, number)?;
                self.report.count(encoded);
            }
        }
        Ok(())
    }

    /// Whether the present state says so little about `blocks` that a new key run there makes them clearly smaller.
    fn is_stale(&mut self, blocks: &[u64]) -> Result<bool, StoreError> {
        let run = self.starting.run_length().min(TRIAL);
        let (_, Some(state)) = self.starting.now() else {
            return Ok(false);
        };
        // A run is worth its reads only if enough blocks follow it.
        let few = self.starting.left(blocks[0]) < 3 * run as u64;
        if few || blocks.len() < run || !self.starting.may_renew() || !self.patience.is_over() {
            return Ok(false);
        }
        let first = read_block(self.source, self.options, blocks[0])?;
        if codec::start_knows(state, &first) {
            return Ok(false);
        }
        let encoding = &self.options.encoding;
        let mut data = vec![first];
        for &block in &blocks[1..run] {
            data.push(read_block(self.source, self.options, block)?);
        }
        let chained = || {
            let mut before: Option<Start> = None;
            let mut size = 0;
            for data in &data {
                note_progress(self.options, 0);
                let encoded = encoding.encode_key(data, before.as_ref(), None);
                size += encoded.payload.len();
                let (codec, payload) = (encoded.codec, &encoded.payload);
                before = Some(codec::state_after(before.as_ref(), data, codec, payload));
            }
            size
        };
        let stale = || -> usize {
            let sizes = data.iter().map(|d| {
                note_progress(self.options, 0);
                encoding.encode_key(d, Some(state), None).payload.len()
            });
            sizes.sum()
        };
        let (chained, stale) = rayon::join(chained, stale);
        let pays = chained * 100 < stale * 97;
        self.patience.tried(pays);
        log::debug!(
            "block {}: {stale} bytes for {run} blocks from the old state, {chained} in a new run",
            blocks[0]
        );
        Ok(pays)
    }
}

/// Waits longer after every attempt that did not pay.
#[derive(Default)]
struct Patience {
    wait: u32,
    next: u32,
}

impl Patience {
    fn is_over(&mut self) -> bool {
        let over = self.wait == 0;
        self.wait = self.wait.saturating_sub(1);
        over
    }

    fn tried(&mut self, paid: bool) {
        self.next = if paid {
            0
        } else {
            (2 * self.next + 1).min(MOST_PATIENCE)
        };
        self.wait = self.next;
    }
}
