//! AdamW (Loshchilov and Hutter 2019) over the float masters, with a clipped gradient norm.

use crate::engine::Config;
use crate::model::{Params, exponent};
use candle_core::{Result, Tensor};

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.99;
const EPSILON: f32 = 1e-9;

struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
    /// Largest master that still is a weight of its own.
    limit: f32,
}

/// Moments of every master, in the order of their names.
pub(super) struct AdamW {
    moments: Vec<Moments>,
    step: i32,
    decay: f32,
    clip: f32,
}

impl AdamW {
    pub(super) fn new(config: &Config, params: &Params, decay: f64, clip: f64) -> Self {
        let moments = params.iter().map(|(name, var)| Moments {
            first: vec![0.0; var.elem_count()],
            second: vec![0.0; var.elem_count()],
            limit: 127.0 / (1u32 << exponent(config, name)) as f32,
        });
        AdamW {
            moments: moments.collect(),
            step: 0,
            decay: decay as f32,
            clip: clip as f32,
        }
    }

    /// First and second moments of every master.
    pub(super) fn moments(&self) -> impl Iterator<Item = (&Vec<f32>, &Vec<f32>)> {
        self.moments.iter().map(|m| (&m.first, &m.second))
    }

    /// Goes on from moments, in the order and of the sizes of [`AdamW::moments`], after `step` steps.
    pub(super) fn restore(&mut self, moments: Vec<(Vec<f32>, Vec<f32>)>, step: u64) {
        for (m, (first, second)) in self.moments.iter_mut().zip(moments) {
            (m.first, m.second) = (first, second);
        }
        self.step = i32::try_from(step).unwrap_or(i32::MAX);
    }

    /// One step along `grads`, which are in the order of `params`; returns the norm of the gradient before clipping.
    pub(super) fn step(&mut self, params: &Params, grads: Vec<Vec<f32>>, rate: f64) -> Result<f32> {
        let norm = grads
            .iter()
            .flatten()
            .map(|&g| f64::from(g) * f64::from(g))
            .sum::<f64>()
            .sqrt() as f32;
        // A gradient that is no number teaches nothing.
        let scale = if norm.is_finite() {
            (self.clip / norm.max(1e-12)).min(1.0)
        } else {
            0.0
        };
        self.step = self.step.saturating_add(1);
        let (c1, c2) = (1.0 - BETA1.powi(self.step), 1.0 - BETA2.powi(self.step));
        let rate = rate as f32;
        for ((var, grad), m) in params.values().zip(grads).zip(&mut self.moments) {
            let mut values = var.flatten_all()?.to_vec1::<f32>()?;
            let moments = m.first.iter_mut().zip(&mut m.second);
            for ((w, g), (first, second)) in values.iter_mut().zip(grad).zip(moments) {
                let g = if scale > 0.0 { g * scale } else { 0.0 };
                *first = BETA1 * *first + (1.0 - BETA1) * g;
                *second = BETA2 * *second + (1.0 - BETA2) * g * g;
                let step = (*first / c1) / ((*second / c2).sqrt() + EPSILON) + self.decay * *w;
                *w = (*w - rate * step).clamp(-m.limit, m.limit);
            }
            var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
        }
        Ok(norm)
    }
}
