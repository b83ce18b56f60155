//! First weights of the mixer beside a network: what it has learnt at the end of blocks of data that the network is for.
//!
//! Every row of weights begins with the same values, so a block is coded once more with a single row for every weight set, and what that
//! row holds at the end is averaged over blocks. Blocks are taken as they are: with their first plan, and not on a grid.

use super::coder::Replay;
use super::initial::Initial;
use super::mixer::INPUTS;
use super::net::{FirstWeights, Net};
use super::order;
use super::plan::{Kind, Plan};
use super::predictor::{Beside, Predictor};
use crate::engine::Effort;

/// What a block taught: its kind of contexts, and one row of weights for each bank.
pub struct Learnt {
    kind: usize,
    rows: Vec<[i16; INPUTS]>,
}

/// Learns a block beside a network, with as much effort as it will be coded with.
pub fn learn_from(data: &[u8], net: &mut dyn Net, effort: Effort) -> Learnt {
    let wide = effort == Effort::Dense;
    let plan = Plan::find(data, true).widened(wide);
    let mut p = Predictor::new();
    p.one_row = true;
    p.reset(plan, data.len(), Some(Beside(net.first_weights())));
    net.reset(plan.stride);
    // Nothing is coded, so nothing fails.
    let _ = order::run(&mut p, &mut data.to_vec(), &mut Replay, Some(net));
    Learnt {
        kind: usize::from(plan.kind == Kind::Text),
        rows: p.first_rows().copied().collect(),
    }
}

/// First weights from what blocks taught: their mean, in which those that every block begins with otherwise count as one more block.
pub fn first_weights(learnt: &[Learnt]) -> FirstWeights {
    [Kind::Binary, Kind::Text].map(|kind| {
        let initial = Initial::learnt(kind);
        let mut bank = 0..initial.banks.len();
        [(); 2].map(|()| {
            let bank = bank.next().unwrap_or_default();
            let rows = learnt
                .iter()
                .filter(|block| block.kind == usize::from(kind == Kind::Text))
                .filter_map(|block| block.rows.get(bank));
            let mut sums = initial.banks[bank].weights.map(i64::from);
            let mut n = 1;
            for row in rows {
                n += 1;
                sums.iter_mut()
                    .zip(row)
                    .for_each(|(s, &w)| *s += i64::from(w));
            }
            sums.map(|sum| (sum / n) as i16)
        })
    })
}
