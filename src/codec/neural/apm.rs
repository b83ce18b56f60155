//! Adaptive probability maps: a learned correction of the final probability, per small context.

use super::kernels::Kernel;
use super::tables::{LIMIT, squash};

const BINS: usize = 25;
const SHIFT: u32 = 8;
const WIDTH: i32 = 1 << SHIFT;
/// Rows of a map; contexts are hashed to them.
const ROWS_LOG2: u32 = 13;

/// Bytes of a map.
pub(super) const MEMORY: usize = 64 << ROWS_LOG2;

/// One context's probabilities over the log odds, in one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Curve([u16; 32]);

/// One map: per context 33 probabilities over the log odds, interpolated.
pub(super) struct Apm {
    curves: Vec<Curve>,
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
        Apm { curves: Vec::new() }
    }

    pub(super) fn reset(&mut self) {
        let mut row = [0; 32];
        for (i, bin) in row.iter_mut().enumerate().take(BINS) {
            *bin = squash((i as i32 - 12) * WIDTH) as u16;
        }
        self.curves.clear();
        self.curves.resize(1 << ROWS_LOG2, Curve(row));
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.curves.clone_from(&other.curves);
    }

    /// The corrected probability of log odds `x` in `context`, and the cell for [`Apm::update`].
    #[inline(always)]
    pub(super) fn refine(&self, context: u32, x: i32) -> (i32, Cell) {
        let at = (x.clamp(-LIMIT, LIMIT) + 12 * WIDTH) as u32;
        let low = (at >> SHIFT) & 31;
        let fraction = (at & (WIDTH as u32 - 1)) as i32;
        let context = row(context) as u32;
        let row = &self.curves[context as usize].0;
        let (a, b) = (
            i32::from(row[low as usize]),
            i32::from(row[low as usize + 1]),
        );
        let p = (a * (WIDTH - fraction) + b * fraction) >> SHIFT;
        (
            p,
            Cell {
                context,
                low,
                fraction,
            },
        )
    }

    /// Asks for the probabilities of `context` ahead of [`Apm::refine`].
    #[inline(always)]
    pub(super) fn prefetch<K: Kernel>(&self, k: K, context: u32) {
        if let Some(curve) = self.curves.get(row(context)) {
            k.prefetch(curve);
        }
    }

    /// Moves both ends of the cell towards bit `y`.
    #[inline(always)]
    pub(super) fn update(&mut self, cell: Cell, y: u32, shift: u32) {
        let target = if y != 0 { 65535 } else { 0 };
        let row = &mut self.curves[cell.context as usize].0;
        let near = cell.low as usize + usize::from(cell.fraction * 2 > WIDTH);
        for i in [cell.low as usize, cell.low as usize + 1] {
            let shift = if i == near { shift } else { shift + 1 };
            let p = i32::from(row[i]);
            row[i] = (p + ((target - p) >> shift)) as u16;
        }
    }
}

/// The row of `context`.
#[inline(always)]
fn row(context: u32) -> usize {
    (context.wrapping_mul(0x9e37_79b1) >> (32 - ROWS_LOG2)) as usize
}
