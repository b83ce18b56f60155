//! Linear prediction: the next step of a number as a weighted sum of earlier steps, the weights fitted as they come.
//!
//! The weights solve the normal equations of the last two thousand or so samples by coordinate descent, a few coordinates with each
//! sample. All is integer arithmetic, and sums wrap, so every machine gets the same weights.

/// Terms of the sum.
pub(super) const TERMS: usize = 64;
/// Fraction bits of a prediction.
pub(super) const FRACTION: u32 = 8;
/// Largest magnitude of a term and of a target: a step from one end of 16 bits to the other.
#[cfg(test)]
const LARGEST: i64 = 65_535;
/// Fraction bits of a weight, and its largest magnitude.
const WEIGHT_BITS: u32 = 16;
const LARGEST_WEIGHT: i64 = 8 << WEIGHT_BITS;
/// How much of each sum one more sample pushes out, as a shift.
const WINDOW_BITS: u32 = 11;
/// Coordinates that are improved with each sample.
const SWEEP: usize = 3;

/// What the prediction is made from: steps within +-65535.
pub(super) type Terms = [i32; TERMS];

/// The prediction of one column.
#[derive(Clone)]
pub(super) struct Linear {
    /// Sums of the products of terms, and of terms with what came.
    products: Box<[[i64; TERMS]; TERMS]>,
    targets: [i64; TERMS],
    weights: Terms,
    /// The coordinate to improve next.
    turn: usize,
}

impl Linear {
    /// Predicts steps of 0.
    pub(super) fn new() -> Self {
        Linear {
            products: Box::new([[0; TERMS]; TERMS]),
            targets: [0; TERMS],
            weights: [0; TERMS],
            turn: 0,
        }
    }

    /// Bytes that one takes.
    pub(super) const MEMORY: usize = 8 * TERMS * (TERMS + 2);

    /// The step to expect, with [`FRACTION`] fraction bits.
    #[inline(always)]
    pub(super) fn predict(&self, terms: &Terms) -> i64 {
        let sum: i64 = (self.weights.iter().zip(terms))
            .map(|(&w, &x)| i64::from(w) * i64::from(x))
            .sum();
        sum >> (WEIGHT_BITS - FRACTION)
    }

    /// Learns that `target` came.
    #[inline(always)]
    pub(super) fn learn(&mut self, terms: &Terms, target: i32) {
        for i in 0..TERMS {
            add(&mut self.products[i], terms[i], terms);
        }
        add(&mut self.targets, target, terms);
        for _ in 0..SWEEP {
            self.improve(self.turn);
            self.turn = (self.turn + 1) % TERMS;
        }
    }

    /// Sets weight `i` to the best value with the other weights as they are.
    #[inline(always)]
    fn improve(&mut self, i: usize) {
        let row = &self.products[i];
        let explained = (row.iter().zip(&self.weights)).fold(0i64, |sum, (&p, &w)| {
            sum.wrapping_add(p.wrapping_mul(i64::from(w)))
        });
        let rest = (self.targets[i] << WEIGHT_BITS).wrapping_sub(explained);
        // More than nothing, so that terms that hardly move keep small weights.
        let own = row[i] + (row[i] >> 10) + 64;
        let best = i64::from(self.weights[i]) + rest / own;
        self.weights[i] = best.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT) as i32;
    }
}

/// Adds the products of `x` and each term to fading sums.
#[inline(always)]
fn add(sums: &mut [i64; TERMS], x: i32, terms: &Terms) {
    for j in 0..TERMS {
        sums[j] += i64::from(x) * i64::from(terms[j]) - (sums[j] >> WINDOW_BITS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a swinging mass with a little noise.
    fn swing(n: usize) -> Vec<i32> {
        let (mut steps, mut state) = (vec![900, 880], 1u32);
        while steps.len() < n {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (a, b) = (steps[steps.len() - 1], steps[steps.len() - 2]);
            steps.push((a * 15 - b * 8) / 8 + (state >> 28) as i32 - 8);
        }
        steps
    }

    fn terms(past: &[i32]) -> Terms {
        let mut out = [0; TERMS];
        for (o, &p) in out.iter_mut().zip(past.iter().rev()) {
            *o = p;
        }
        out
    }

    #[test]
    fn a_linear_recurrence_is_learnt() {
        let steps = swing(2000);
        let mut linear = Linear::new();
        let (mut error, mut plain) = (0, 0);
        for i in 1..steps.len() {
            let terms = terms(&steps[..i]);
            let off = i64::from(steps[i]) - (linear.predict(&terms) >> FRACTION);
            if i > 1000 {
                error += off.abs();
                plain += i64::from(steps[i] - steps[i - 1]).abs();
            }
            linear.learn(&terms, steps[i]);
        }
        // The noise itself is 4 on average.
        assert!(error < 1000 * 12, "{error}");
        assert!(error * 4 < plain, "{error} {plain}");
    }

    #[test]
    fn extreme_terms_do_not_overflow() {
        let mut linear = Linear::new();
        let largest = LARGEST as i32;
        for i in 0..5000 {
            let sign = |bits: usize| {
                if (i * 7 + bits).is_multiple_of(3) {
                    -largest
                } else {
                    largest
                }
            };
            let terms = std::array::from_fn(sign);
            linear.predict(&terms);
            linear.learn(&terms, sign(i));
        }
        assert!(
            linear.predict(&[largest; TERMS]).abs() <= 8 * TERMS as i64 * (LARGEST << FRACTION)
        );
    }
}
