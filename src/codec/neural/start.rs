//! Start states: what a block is coded from instead of nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::coder::Replay;
use super::grid::{self, Grid, Gridded};
use super::header;
use super::order;
use super::plan::Plan;
use super::predictor::Predictor;
use super::samples::Layout;
use super::scratch::{self, Last};

/// The codec's state after some bytes. It never changes and is shared between threads.
pub struct Start {
    /// Tells states of this process apart.
    id: u64,
    predictor: Predictor,
    plan: Plan,
    /// The grid of the last block that had one.
    grid: Option<Arc<Grid>>,
    seen: Vec<u8>,
}

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("seen", &self.seen.len())
            .finish_non_exhaustive()
    }
}

impl Start {
    /// The state after `before`, if any, and then `data`, whose neural payload is `payload` if it has one. Free of work if this thread
    /// has just coded it from `before` without a network.
    ///
    /// Plan, grid and lanes are what the payload says; of a plan from a state that is only where its
    /// records begin. Without a payload the plan is found in the bytes, which is part of the format then: another way of finding it makes
    /// payloads from such states undecodable; golden payloads watch over that. So is how a block is put on its grid.
    #[must_use]
    pub fn then(before: Option<&Start>, data: &[u8], payload: Option<&[u8]>) -> Self {
        let header = payload.and_then(|p| header::read(p, data.len()).ok());
        let Some(header) = header else {
            return Start::after(before, data, None, None, None);
        };
        let on_grid = header.grid.as_ref().and_then(|grid| {
            let block = grid
                .resolve(data.len(), before.and_then(Start::grid))
                .ok()?;
            let coded = block.forward(data);
            // What no encoder wrote must not make a state of more bytes than it may.
            (coded.len() == grid.coded).then_some((block, coded))
        });
        let lanes = Some(header.plan.lanes);
        let plan = match before {
            // The rest of the plan is the state's.
            Some(before) if header.started && before.leads_to(&header.plan) => Some(Plan {
                phase: header.plan.phase,
                wide: header.plan.wide,
                ..before.plan
            }),
            Some(_) => None,
            None => (!header.started).then_some(header.plan),
        };
        match on_grid {
            Some((block, coded)) => Start::after(before, &coded, plan, lanes, Some(block)),
            None => Start::after(before, data, plan, lanes, None),
        }
    }

    /// About the state after `before` and then `data` if it were coded, which it is not: records go on where those of `before` ended.
    #[must_use]
    pub fn would(before: Option<&Start>, data: &[u8]) -> Self {
        match super::on_grid(data, before) {
            Some((block, coded)) => Start::after(before, &coded, None, None, Some(block)),
            None => Start::after(before, data, None, None, None),
        }
    }

    /// The state after `before` and then a block, `coded` with `plan` if that is known, else with the plan of `before`, in so many `lanes` if
    /// it was coded.
    fn after(
        before: Option<&Start>,
        coded: &[u8],
        plan: Option<Plan>,
        lanes: Option<usize>,
        block: Option<Gridded>,
    ) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let plan = plan
            .or(before.map(|before| before.plan))
            .map_or_else(|| Plan::find(coded, false), |plan| plan.go_on(coded, lanes));
        let mut seen = Vec::with_capacity(before.map_or(0, |b| b.seen.len()) + coded.len());
        seen.extend_from_slice(before.map_or(&[], |b| &b.seen));
        seen.extend_from_slice(coded);
        let predictor = just_coded(before, plan, coded).unwrap_or_else(|| {
            let mut p = Predictor::new();
            match before {
                None => p.reset(plan, coded.len(), None),
                Some(before) => before.resume(&mut p, plan, coded.len(), false),
            }
            // Nothing is coded, so nothing fails.
            let _ = order::run(&mut p, &mut seen, &mut Replay, None);
            p
        });
        let grid = block.map(|b| b.grid);
        Start {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            predictor,
            plan,
            grid: grid.or_else(|| before?.grid.clone()),
            seen,
        }
    }

    /// Whether `data` has floats on a grid and the blocks after it have none.
    #[must_use]
    pub fn lacks_grid(&self, data: &[u8]) -> bool {
        self.grid.is_none() && grid::find(data).is_some()
    }

    /// Whether `bytes` of a block are too few to see that they are on its grid.
    #[must_use]
    pub fn needs_more_than(&self, bytes: usize) -> bool {
        self.grid.as_ref().is_some_and(|grid| grid.least() > bytes)
    }

    /// The grid that blocks after it are on, if they are on one.
    pub(super) fn grid(&self) -> Option<&Arc<Grid>> {
        self.grid.as_ref()
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.predictor.memory() + self.seen.capacity()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The bytes that it has seen.
    pub(super) fn seen(&self) -> &[u8] {
        &self.seen
    }

    /// Whether what comes after it is wide.
    pub(super) fn is_wide(&self) -> bool {
        self.plan.wide
    }

    /// The columns of its records.
    pub(super) fn layout(&self) -> Layout {
        self.plan.layout
    }

    /// The plan of `data` after it.
    pub(super) fn follow(&self, data: &[u8], net: bool) -> Plan {
        self.plan.follow(&self.seen, data, net)
    }

    /// Whether a block with this plan can come after it. What comes after a wide block is wide.
    pub(super) fn leads_to(&self, plan: &Plan) -> bool {
        (self.plan.kind, self.plan.stride) == (plan.kind, plan.stride)
            && (plan.wide || !self.plan.wide)
    }

    /// Makes `p` ready for a block of `len` bytes after it.
    pub(super) fn resume(&self, p: &mut Predictor, plan: Plan, len: usize, net: bool) {
        p.copy_from(&self.predictor);
        p.begin(plan, self.seen.len(), len, net);
    }
}

/// A predictor of this thread that has just coded `data` from `before`, if there is one.
fn just_coded(before: Option<&Start>, plan: Plan, data: &[u8]) -> Option<Predictor> {
    let start = before.map(Start::id);
    scratch::take_after(|last: &Last| last.start == start && last.plan == plan && last.data == data)
}
