//! The predictor: statistics, mixer and final correction of one block.
//!
//! Two lanes code the upper half of their bytes together, then the lower one. Each bit is predicted from everything coded before it and learnt at once.

use super::NeuralError;
use super::apm::{self, Apm};
use super::bank::Bank;
use super::coder::BitCoder;
use super::contexts::{CONTEXTS, are_settled, contexts, sizes};
use super::direct::{Direct, Number, WIDE};
use super::guess::{Guess, Guesses};
use super::initial::Initial;
use super::inputs;
use super::kernels::Kernel;
use super::lane::{Finder, Lane, NONE};
use super::mixer::{ALONE, FINALS, INPUTS, OF_TWO, SETS, final_sets};
use super::net::FirstWeights;
use super::plan::{Kind, Plan};
use super::samples::{self, Layout, Samples};
use super::tables::squash;
use super::wide::{self, Followers};
use super::work::{Expectations, Work};

/// Lanes whose bits are predicted together, before either learns its own.
pub(super) const PAIR: usize = 2;

/// A network that takes part: the first weights beside it, if it says.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a>(pub(super) Option<&'a FirstWeights>);

/// The adaptive state of one block.
pub(super) struct Predictor {
    plan: Plan,
    pub(super) lanes: Vec<Lane>,
    finder: Finder,
    guesses: Guesses,
    samples: Samples,
    direct: Direct,
    /// One, or two if the block is wide.
    banks: Vec<Bank>,
    followers: Followers,
    apms: [Apm; 2],
    /// What came where the match and the guess expected a byte.
    matched: Expectations,
    guessed: Expectations,
    work: Vec<Work>,
    /// Whether this block has a network.
    net: bool,
    initial: [Initial; 2],
    /// One row for every weight set: how first weights are learnt.
    pub(super) one_row: bool,
    rate: i32,
    step: i32,
}

impl Default for Predictor {
    fn default() -> Self {
        Self::new()
    }
}

impl Predictor {
    pub(super) fn new() -> Self {
        Predictor {
            plan: Plan {
                lanes: 1,
                kind: Kind::Binary,
                wide: false,
                stride: 0,
                phase: 0,
                layout: Layout::default(),
            },
            lanes: Vec::new(),
            finder: Finder::new(),
            guesses: Guesses::new(),
            samples: Samples::new(),
            direct: Direct::new(),
            banks: vec![Bank::new()],
            followers: Followers::new(),
            apms: [Apm::new(), Apm::new()],
            matched: Vec::new(),
            guessed: Vec::new(),
            net: false,
            work: vec![Work::new(); PAIR],
            initial: [Initial::learnt(Kind::Binary), Initial::learnt(Kind::Text)],
            #[cfg(test)]
            one_row: super::learn::ONE_ROW.get(),
            #[cfg(not(test))]
            one_row: false,
            rate: 0,
            step: 0,
        }
    }

    /// Forgets everything and prepares for a block of `len` bytes, in which a network takes part if the mixer begins `beside` one.
    pub(super) fn reset(&mut self, plan: Plan, len: usize, beside: Option<Beside<'_>>) {
        self.finder.reset();
        self.guesses.reset();
        self.samples.reset(&plan.layout, plan.stride);
        self.direct.reset(plan.stride);
        let kind = usize::from(plan.kind == Kind::Text);
        let initial = &self.initial[kind];
        let first = if plan.wide { OF_TWO[0] } else { ALONE };
        let banks = 1 + usize::from(plan.wide);
        self.banks.truncate(banks);
        self.banks[0].reset(&initial.banks[0], &sizes(plan.kind), len, (first, banks));
        self.apms[0].reset();
        self.apms[1].reset();
        self.matched.clone_from(&initial.matched);
        self.guessed.clone_from(&initial.guessed);
        self.step = 0;
        self.lanes.clear();
        if plan.wide {
            self.widen(plan.kind, len, OF_TWO[1]);
        }
        if let Some(Beside(Some(weights))) = beside {
            for (bank, (init, share)) in self
                .banks
                .iter_mut()
                .zip(weights[kind].iter().zip([first, OF_TWO[1]]))
            {
                bank.mixer.reset(init, share, banks);
            }
        }
        self.begin(plan, 0, len, beside.is_some());
    }

    /// Prepares the second bank, whose sums weigh `share` at first.
    fn widen(&mut self, kind: Kind, len: usize, share: i32) {
        if self.banks.len() < 2 {
            self.banks.push(Bank::new());
        }
        let initial = &self.initial[usize::from(kind == Kind::Text)];
        self.banks[1].reset(&initial.banks[1], &wide::SIZES, len, (share, 2));
        self.followers.reset();
    }

    /// Takes over what `other` learnt.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.finder.copy_from(&other.finder);
        self.guesses.copy_from(&other.guesses);
        self.samples.copy_from(&other.samples);
        self.direct.copy_from(&other.direct);
        self.banks.truncate(other.banks.len());
        self.banks.resize_with(other.banks.len(), Bank::new);
        for (bank, from) in self.banks.iter_mut().zip(&other.banks) {
            bank.copy_from(from);
        }
        self.followers.copy_from(&other.followers);
        self.apms[0].copy_from(&other.apms[0]);
        self.apms[1].copy_from(&other.apms[1]);
        self.matched.clone_from(&other.matched);
        self.guessed.clone_from(&other.guessed);
        self.step = other.step;
        self.lanes.clone_from(&other.lanes);
    }

    /// Prepares for a block of `len` bytes that follows `seen` ones.
    pub(super) fn begin(&mut self, plan: Plan, seen: usize, len: usize, net: bool) {
        self.plan = plan;
        self.net = net;
        if !plan.wide {
            self.banks.truncate(1);
            self.followers.clear();
        } else if self.banks.len() < 2 {
            // What was seen was not wide: the second bank begins with nothing, and nothing it says counts yet.
            self.banks[0].mixer.expand(ALONE, 2);
            self.widen(plan.kind, seen + len, 0);
        }
        let whole = len.div_ceil(plan.lanes).max(1);
        let last = self.lanes.drain(..).next_back();
        for l in 0..plan.lanes {
            let start = (l * whole).min(len);
            let mut lane = Lane::new(seen + start, whole.min(len - start));
            if let (0, Some(before)) = (l, &last) {
                lane = before.clone();
                lane.resume(seen, whole.min(len));
            }
            self.lanes.push(lane);
        }
        for w in &mut self.work {
            w.ready_at = usize::MAX;
        }
        self.finder.begin(seen, len, whole);
        self.samples.begin(plan.lanes);
    }

    /// Bytes of memory that the state takes.
    pub(super) fn memory(&self) -> usize {
        self.banks.iter().map(Bank::memory).sum::<usize>()
            + self.followers.memory()
            + self.finder.memory()
            + self.guesses.memory()
            + self.samples.memory()
            + self.direct.memory()
            + 2 * apm::MEMORY
            + (1 << 18)
    }

    /// What comes next in lane `l`. Where the byte is `open`, likely to be coded in full, its contexts are made ready, too: so the wait for
    /// their buckets is one with that for the guess's cells.
    #[inline(always)]
    pub(super) fn guess<K: Kernel>(&mut self, k: K, block: &[u8], l: usize, open: bool) -> Guess {
        let mut guess = self.guesses.make(&self.lanes[l], l, block, &self.plan);
        if open {
            self.guesses.prefetch(k, l);
            self.make_ready(k, block, l);
        }
        self.guesses.weigh(k, l, &mut guess);
        guess
    }

    /// Finds the contexts of lane `l`'s next byte and asks for their buckets.
    #[inline(always)]
    fn make_ready<K: Kernel>(&mut self, k: K, block: &[u8], l: usize) {
        let (lane, w) = (&self.lanes[l], &mut self.work[l]);
        let [looked, more] = &mut w.looked;
        w.near = contexts(lane, block, &self.finder, &self.plan, &mut looked.hashes);
        w.ready_at = if are_settled(lane, &self.finder, self.plan.kind) {
            lane.t
        } else {
            usize::MAX
        };
        self.banks[0].slots.prefetch(k, &looked.hashes);
        if let Some(bank) = self.banks.get(1) {
            let (finder, plan) = (&self.finder, &self.plan);
            w.selectors =
                wide::contexts(lane, block, finder, plan, &self.followers, &mut more.hashes);
            bank.slots.prefetch(k, &more.hashes);
        }
    }

    /// Codes lane `l`'s next byte, if that is to be done directly: whether it was.
    #[inline(always)]
    pub(super) fn direct<K: Kernel, C: BitCoder>(
        &mut self,
        k: K,
        block: &mut [u8],
        l: usize,
        coder: &mut C,
    ) -> Result<bool, NeuralError> {
        let lane = &self.lanes[l];
        let pos = lane.start + lane.t;
        let place = self.plan.place(pos);
        if self.plan.kind == Kind::Text || !self.direct.is_due(place) {
            return Ok(false);
        }
        if !self.samples.is_empty() {
            (self.samples).begin_byte(l, place, block, pos, lane.begin);
        }
        let Some(number) = self.number(l, place) else {
            return Ok(false);
        };
        let odds = |partial, b| self.samples.odds(l, partial, b);
        let byte = u32::from(block[pos]);
        block[pos] = self.direct.code(place, number, odds, byte, coder)?;
        self.end_byte(k, block, l, &Guess::default());
        Ok(true)
    }

    /// Lane `l`'s byte was coded in full: would it have been cheaper directly?
    #[inline(always)]
    pub(super) fn compare(&mut self, l: usize) {
        let (lane, w) = (&self.lanes[l], &self.work[l]);
        let place = self.plan.place(lane.start + lane.t);
        if self.plan.kind == Kind::Binary
            && let Some(number) = self.number(l, place)
        {
            let odds = |partial, b| self.samples.odds(l, partial, b);
            (self.direct).compare(place, number, odds, w.partial & 255, w.cost);
        }
    }

    /// The number that lane `l`'s byte at `place` is part of, if any; nothing if it is one that must not be coded directly.
    #[inline(always)]
    fn number(&self, l: usize, place: usize) -> Option<Option<Number>> {
        if !self.samples.has(place) {
            return Some(None);
        }
        let number = self.samples.number(l)?;
        (number.width >= WIDE).then_some(Some(number))
    }

    /// Prepares the lanes whose bit in `todo` is set for their next byte, about which they have guesses.
    #[inline(always)]
    pub(super) fn begin_byte<K: Kernel>(
        &mut self,
        k: K,
        block: &[u8],
        todo: u32,
        guesses: &[Guess; PAIR],
    ) {
        let step = self.step;
        self.rate = 600 + 600 * 64 / (64 + step);
        self.step += 1;
        for (l, guess) in guesses.iter().enumerate().take(self.lanes.len()) {
            if todo >> l & 1 == 0 {
                continue;
            }
            if self.work[l].ready_at != self.lanes[l].t {
                self.make_ready(k, block, l);
            }
            let lane = &self.lanes[l];
            if !self.samples.is_empty() {
                let pos = lane.start + lane.t;
                (self.samples).begin_byte(l, self.plan.place(pos), block, pos, lane.begin);
            }
            let matched = (lane.matched != NONE).then(|| block[lane.matched as usize]);
            let w = &mut self.work[l];
            w.ready_at = usize::MAX;
            w.begin_byte(lane, matched, guess);
        }
    }

    /// Takes the network's weights for lane `l`'s next byte.
    pub(super) fn expect(&mut self, l: usize, weights: &[u32; 256]) {
        self.work[l].tree.set(weights);
    }

    /// Starts a half byte of lane `l`.
    #[inline(always)]
    pub(super) fn begin_half<K: Kernel>(&mut self, k: K, l: usize) {
        for (bank, looked) in self.banks.iter_mut().zip(&mut self.work[l].looked) {
            (bank.slots).find_all(k, &looked.hashes, &mut looked.buckets);
        }
    }

    /// After lane `l`'s first four bits: the second half byte's contexts.
    #[inline(always)]
    pub(super) fn turn<K: Kernel>(&mut self, k: K, l: usize) {
        let w = &mut self.work[l];
        for (bank, looked) in self.banks.iter().zip(&mut w.looked) {
            looked.hashes = lower(&looked.hashes, w.partial);
            bank.slots.prefetch(k, &looked.hashes);
        }
    }

    /// Asks for what lane `l`'s second half byte, and the end of the byte, will look up, while the first half is coded: if the byte is `byte`, or
    /// the one that is expected.
    #[inline(always)]
    pub(super) fn look_ahead<K: Kernel>(&mut self, k: K, l: usize, byte: Option<u32>) {
        let w = &self.work[l];
        let byte = byte.unwrap_or(w.expected()) as u8;
        for (bank, looked) in self.banks.iter().zip(&w.looked) {
            let hashes = lower(&looked.hashes, 16 | u32::from(byte >> 4));
            bank.slots.prefetch(k, &hashes);
        }
        self.finder.prefetch(k, &self.lanes[l], byte);
    }

    /// Probabilities (16 bits) that the next bits of `N` lanes from `first` on are 1. `b` counts bits down from 7.
    ///
    /// Every stage is done for all of them before the next: their latencies overlap.
    #[inline(always)]
    pub(super) fn predict<K: Kernel, const N: usize>(
        &mut self,
        k: K,
        first: usize,
        b: u32,
    ) -> [i32; N] {
        let mut out = [0; N];
        let Some(work) = self.work.get_mut(first..first + N) else {
            return out;
        };
        let sets = final_sets(self.banks.len());
        for w in work.iter_mut() {
            let node = node(w.partial, b);
            for (bank, looked) in self.banks.iter().zip(&mut w.looked) {
                looked.inputs.slots = bank.slots.read(k, &looked.buckets, node);
            }
        }
        for w in work.iter_mut() {
            for (bank, looked) in self.banks.iter().zip(&mut w.looked) {
                inputs::look_up(k, &mut looked.inputs, &bank.histories);
            }
        }
        for (i, (w, lane)) in work.iter_mut().zip(&self.lanes[first..]).enumerate() {
            let sample = if self.samples.is_empty() {
                (0, [0; samples::INPUTS])
            } else {
                self.samples.inputs(first + i, w.partial, b)
            };
            w.fill(lane, [&self.matched, &self.guessed], sample, self.net, b);
            if self.banks.len() > 1 {
                w.fill_second(b);
            }
            if self.one_row {
                (w.looked.iter_mut()).for_each(|looked| looked.mix.choose([0; SETS]));
            }
        }
        for w in work.iter_mut() {
            w.sums = [0; FINALS];
            for (bank, looked) in self.banks.iter().zip(&mut w.looked) {
                let (mix, sums) = (&mut looked.mix, &mut w.sums);
                bank.mixer.predict(k, mix, &w.finals, sums, sets);
            }
        }
        for (out, w) in out.iter_mut().zip(work) {
            let odds = w.finals.mix(w.sums, self.banks.len());
            let p0 = squash(odds);
            let near = &w.near;
            let (p1, c1) = self.apms[0].refine(w.partial | u32::from(near.previous) << 8, odds);
            let (p2, c2) = self.apms[1].refine(w.partial | u32::from(near.above) << 8, odds);
            w.cells = [c1, c2];
            *out = ((2 * p0 + p1 + p2) >> 2).clamp(1, 65535);
            w.p = *out;
        }
        out
    }

    /// Learns the bits `y` of `N` lanes from `first` on, one lane after another.
    #[inline(always)]
    pub(super) fn update<K: Kernel, const N: usize>(
        &mut self,
        k: K,
        first: usize,
        b: u32,
        y: [u32; N],
    ) {
        let Some(work) = self.work.get_mut(first..first + N) else {
            return;
        };
        let sets = final_sets(self.banks.len());
        for (w, y) in work.iter_mut().zip(y) {
            let node = node(w.partial, b);
            for (bank, looked) in self.banks.iter_mut().zip(&mut w.looked) {
                let (mix, rates) = (&looked.mix, (self.rate, 400));
                bank.mixer.update(k, mix, &w.finals, y, rates, sets);
                inputs::learn(k, &mut looked.inputs, &mut bank.histories, y);
                (bank.slots).write(&looked.buckets, node, &looked.inputs.slots);
            }
            self.apms[0].update(w.cells[0], y, 4);
            self.apms[1].update(w.cells[1], y, 4);
            w.learn([&mut self.matched, &mut self.guessed], y);
            // The next bit needs these after a long chain of other work.
            self.apms[0].prefetch(k, w.partial | u32::from(w.near.previous) << 8);
            self.apms[1].prefetch(k, w.partial | u32::from(w.near.above) << 8);
        }
    }

    /// Lane `l` has its next byte, about which it had a guess.
    #[inline(always)]
    pub(super) fn end_byte<K: Kernel>(&mut self, k: K, block: &[u8], l: usize, guess: &Guess) {
        let lane = &mut self.lanes[l];
        let pos = lane.start + lane.t;
        let byte = block[pos];
        if !self.samples.is_empty() {
            (self.samples).end_byte(l, self.plan.place(pos), block, pos, lane.begin);
        }
        self.guesses
            .learn(k, (lane, l), guess, guess.byte as u8 == byte);
        if self.plan.wide {
            self.followers.learn(lane, block, &self.plan, byte);
        }
        self.finder.step(lane, l, block, &self.plan);
    }

    /// The kind of contexts in use.
    #[cfg(test)]
    pub(super) fn kind(&self) -> Kind {
        self.plan.kind
    }

    /// The first weight row of each bank.
    pub(super) fn first_rows(&self) -> impl Iterator<Item = &[i16; INPUTS]> {
        self.banks.iter().map(|bank| bank.mixer.first_row())
    }

    /// A bank's first weight row, and all its cells: of matches, guesses (with the first), histories.
    #[cfg(test)]
    pub(super) fn learnt(&self, bank: usize) -> (&[i16; INPUTS], Vec<u32>) {
        let of_bank = self.banks[bank].histories.cells();
        (
            self.banks[bank].mixer.first_row(),
            match bank {
                0 => [&self.matched[..], &self.guessed, of_bank].concat(),
                _ => of_bank.to_vec(),
            },
        )
    }

    /// The byte that lane `l` has just completed.
    pub(super) fn byte(&self, l: usize) -> u8 {
        self.work[l].partial as u8
    }
}

/// The hashes of contexts for a byte's lower half, `upper` being its upper one behind a leading 1.
#[inline(always)]
fn lower(hashes: &[u32; CONTEXTS], upper: u32) -> [u32; CONTEXTS] {
    let salt = upper.wrapping_mul(0x9e37_79b1);
    let mut out = *hashes;
    for h in &mut out {
        let x = h.wrapping_add(salt).wrapping_mul(0x85eb_ca6b);
        *h = x ^ x >> 15;
    }
    out
}

/// The node of the half byte's tree: 1..=15.
#[inline(always)]
fn node(partial: u32, b: u32) -> usize {
    if b >= 4 {
        partial as usize
    } else {
        let done = 3 - b;
        ((partial & ((1 << done) - 1)) | 1 << done) as usize
    }
}
