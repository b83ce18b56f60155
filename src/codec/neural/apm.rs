//! Adaptive probability maps: a learned correction of the final probability, per small context.

use super::tables::{LIMIT, squash};

const BINS: usize = 33;
const WIDTH: i32 = 192;

/// One map: per context 33 probabilities over the log odds, interpolated.
pub(super) struct Apm {
    bins: Vec<[u16; BINS]>,
}

/// Where a lookup fell.
#[derive(Clone, Copy, Default)]
pub(super) struct Cell {
    context: u32,
    low: u32,
    fraction: i32,
}

impl Apm {
    pub(super) fn new() -> Self {
        Apm { bins: Vec::new() }
    }

    pub(super) fn reset(&mut self, contexts: usize) {
        let mut row = [0; BINS];
        for (i, bin) in row.iter_mut().enumerate() {
            *bin = squash((i as i32 - 16) * WIDTH) as u16;
        }
        self.bins.clear();
        self.bins.resize(contexts, row);
    }

    /// The corrected probability of log odds `x` in `context`, and the cell for [`Apm::update`].
    #[inline(always)]
    pub(super) fn refine(&self, context: usize, x: i32) -> (i32, Cell) {
        let at = (x.clamp(-LIMIT, LIMIT) + 16 * WIDTH) as u32;
        let low = at / WIDTH as u32;
        let fraction = (at % WIDTH as u32) as i32;
        let row = &self.bins[context];
        let (a, b) = (
            i32::from(row[low as usize]),
            i32::from(row[low as usize + 1]),
        );
        let p = (a * (WIDTH - fraction) + b * fraction) / WIDTH;
        (
            p,
            Cell {
                context: context as u32,
                low,
                fraction,
            },
        )
    }

    /// Moves both ends of the cell towards bit `y`.
    #[inline(always)]
    pub(super) fn update(&mut self, cell: Cell, y: u32, shift: u32) {
        let target = if y != 0 { 65535 } else { 0 };
        let row = &mut self.bins[cell.context as usize];
        let near = cell.low as usize + usize::from(cell.fraction * 2 > WIDTH);
        for i in [cell.low as usize, cell.low as usize + 1] {
            let shift = if i == near { shift } else { shift + 1 };
            let p = i32::from(row[i]);
            row[i] = (p + ((target - p) >> shift)) as u16;
        }
    }
}
