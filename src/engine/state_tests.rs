//! The engine against the definition of the module's documentation, written down a second time: no rings, no
//! packing, no kernels, all of a lane's past kept.

use super::*;
use crate::engine::tables::{EXP_EIGHTHS, EXP_THIRTY_SECONDS};
use crate::engine::{Kernel, tensor_shapes};
use crate::engine::{random_file, small_config};
use safetensors::SafeTensors;
use std::collections::HashMap;

type Past = (Vec<Vec<i32>>, Vec<Vec<i32>>);

struct Reference {
    config: Config,
    tensors: HashMap<String, Vec<i32>>,
    /// Per layer: normed inputs and `[q, k, v]` of every position.
    past: Vec<Past>,
}

fn product(w: &[i32], x: &[i32]) -> Vec<i32> {
    w.chunks(x.len())
        .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
        .collect()
}

fn quantised(w: &[i32], x: &[i32]) -> Vec<i32> {
    product(w, x)
        .iter()
        .map(|&a| clamp8(rounding_shift(a, weight_exponent(x.len()))))
        .collect()
}

fn normed(x: &[i32]) -> Vec<i32> {
    let mut y = vec![0; x.len()];
    norm(x, &mut y, norm_shift(x.len()));
    y.iter().map(|&v| v.into()).collect()
}

impl Reference {
    fn new(file: &[u8], config: Config) -> Self {
        let st = SafeTensors::deserialize(file).unwrap();
        let values = |n: &str| {
            st.tensor(n)
                .unwrap()
                .data()
                .iter()
                .map(|&b| i32::from(b as i8))
                .collect()
        };
        let tensors = tensor_shapes(&config)
            .into_iter()
            .map(|(n, _)| (n.clone(), values(&n)))
            .collect();
        let past = vec![(vec![], vec![]); config.model.n_layers];
        Reference {
            config,
            tensors,
            past,
        }
    }

    fn step(&mut self, features: &[u8]) -> Vec<u32> {
        let (d, hd, kvw) = (
            self.config.d(),
            self.config.head_dim(),
            self.config.kv_width(),
        );
        let m = self.config.compressive_memory.clone();
        let mut x = vec![0; d];
        for (f, &b) in features.iter().enumerate() {
            let row = &self.tensors["embedding"][(f * 256 + usize::from(b)) * d..][..d];
            x.iter_mut().zip(row).for_each(|(x, w)| *x += w);
        }
        let add = |x: &mut Vec<i32>, w: &[i32], y: &[i32]| {
            let shift = weight_exponent(y.len()) - 1;
            for (x, a) in x.iter_mut().zip(product(w, y)) {
                *x = (*x + rounding_shift(a, shift)).clamp(-2047, 2047);
            }
        };
        for i in 0..self.past.len() {
            let w = |n: &str| &self.tensors[&format!("layers.{i}.{n}")];
            let y = normed(&x);
            let (ys, qkvs) = &mut self.past[i];
            qkvs.push(quantised(w("qkv"), &y));
            ys.push(y);
            let t = ys.len() - 1;
            let exist = (t + 1).saturating_sub(m.window_size) / m.compression_rate;
            let mut slots: Vec<(Vec<i32>, usize, &str, usize)> = Vec::new();
            for (j, qkv) in qkvs.iter().enumerate().skip(m.compression_rate * exist) {
                slots.push((
                    qkv[d..].to_vec(),
                    t - j,
                    "bias_recent",
                    m.window_size + m.compression_rate - 1,
                ));
            }
            for slot in exist.saturating_sub(m.max_compressed_len)..exist {
                // The convolution's inputs in the file's order: channel by channel, position by position.
                let group = &ys[slot * m.compression_rate..][..m.compression_rate];
                let inputs: Vec<i32> = (0..d)
                    .flat_map(|c| group.iter().map(move |y| y[c]))
                    .collect();
                let z = quantised(w("compress"), &inputs);
                let kv = quantised(&w("qkv")[d * d..], &z);
                slots.push((kv, exist - 1 - slot, "bias_memory", m.max_compressed_len));
            }
            let mut out = Vec::new();
            for h in 0..self.config.model.n_heads {
                let g = h * self.config.kv_heads() / self.config.model.n_heads;
                let q = &qkvs[t][h * hd..(h + 1) * hd];
                let scores: Vec<i32> = slots
                    .iter()
                    .map(|(kv, distance, table, width)| {
                        let dot = product(&kv[g * hd..(g + 1) * hd], q)[0];
                        rounding_shift(dot, score_shift(hd)) + w(table)[h * width + distance]
                    })
                    .collect();
                let best = *scores.iter().max().unwrap();
                let e: Vec<i32> = scores
                    .iter()
                    .map(|s| {
                        EXP_EIGHTHS
                            .get((best - s) as usize)
                            .map_or(0, |&e| e.into())
                    })
                    .collect();
                let den: i32 = e.iter().sum();
                for c in 0..hd {
                    let num: i32 = slots
                        .iter()
                        .zip(&e)
                        .map(|((kv, ..), e)| e * kv[kvw + g * hd + c])
                        .sum();
                    out.push((num + den / 2).div_euclid(den));
                }
            }
            add(&mut x, w("o"), &out);
            let h: Vec<i32> = product(w("up"), &normed(&x))
                .iter()
                .map(|&a| rounding_shift(a, weight_exponent(d)).clamp(0, 127))
                .collect();
            add(&mut x, w("down"), &h);
        }
        let logits: Vec<i32> = product(&self.tensors["head"], &normed(&x))
            .iter()
            .map(|&a| rounding_shift(a, weight_exponent(d) - 1))
            .collect();
        let best = *logits.iter().max().unwrap();
        logits
            .iter()
            .map(|l| {
                EXP_THIRTY_SECONDS
                    .get((best - l) as usize)
                    .map_or(1, |&f| f.max(1))
            })
            .collect()
    }
}

fn bytes(n: usize, seed: u64) -> Vec<u8> {
    (0..n as u64)
        .map(|i| ((i + seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (50 + i % 7)) as u8)
        .collect()
}

fn configs() -> Vec<Config> {
    let mut wide = small_config();
    wide.model.n_heads = 2;
    wide.model.d_model = 64;
    wide.model.n_kv_heads = None;
    wide.model.ffn = None;
    wide.compressive_memory.window_size = 1;
    wide.compressive_memory.compression_rate = 3;
    wide.compressive_memory.max_compressed_len = 17;
    vec![small_config(), wide]
}

/// Steps far beyond the window and the compressed memory, several lanes with different bytes, every kernel.
#[test]
fn every_kernel_and_lane_count_equals_the_definition() {
    for (i, config) in configs().into_iter().enumerate() {
        let file = random_file(&config, 5 + i as u64);
        let (count, steps) = (config.model.features.len(), 120);
        let input: Vec<Vec<u8>> = (0..3).map(|l| bytes(count * steps, 1000 * l)).collect();
        let want: Vec<Vec<Vec<u32>>> = input
            .iter()
            .map(|b| {
                let mut r = Reference::new(&file, config.clone());
                b.chunks(count).map(|f| r.step(f)).collect()
            })
            .collect();
        assert!(
            want[0][60..]
                .iter()
                .any(|w| w.iter().any(|&f| f > 1 && f < 65536)),
            "weights say something"
        );
        for kernel in Kernel::ALL.into_iter().filter(|k| k.is_supported()) {
            let model = Model::with_kernel(&file, kernel).unwrap();
            for lanes in [1, 2, 3, 11, 16] {
                let mut state = State::new(&model, lanes).unwrap();
                let mut weights = vec![[0; 256]; lanes];
                for round in 0..2 {
                    state.reset();
                    for t in 0..steps {
                        // The last lanes end early.
                        let active = if t > 100 { lanes.div_ceil(2) } else { lanes };
                        let features: Vec<u8> = (0..lanes)
                            .flat_map(|l| &input[(l + round) % 3][t * count..(t + 1) * count])
                            .copied()
                            .collect();
                        state.step(&model, &features, active, &mut weights);
                        for l in 0..active {
                            assert!(
                                weights[l][..] == want[(l + round) % 3][t],
                                "{kernel:?} lane {l}/{lanes} step {t}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_past_beyond_the_window_is_remembered() {
    let config = small_config();
    let model = Model::from_bytes(&random_file(&config, 9)).unwrap();
    let count = config.model.features.len();
    let run = |first: u8| {
        let mut state = State::new(&model, 1).unwrap();
        let mut weights = vec![[0; 256]; 1];
        for t in 0..24u8 {
            let byte = if t < 4 { first } else { t };
            state.step(&model, &vec![byte; count], 1, &mut weights);
        }
        weights
    };
    assert!(
        run(1) != run(200),
        "positions 0..4 reach step 23 only through compressed memory"
    );
}

#[test]
fn states_hold_one_to_sixteen_lanes() {
    let model = Model::from_bytes(&random_file(&small_config(), 1)).unwrap();
    assert!(State::new(&model, 0).is_err());
    assert!(State::new(&model, 17).is_err());
}

/// `cargo test --release --lib engine_speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn engine_speed() {
    use rustix::time::{ClockId, clock_gettime};
    // The thread's own time: a busy machine does not make the model look slow.
    let now = || {
        let t = clock_gettime(ClockId::ThreadCPUTime);
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    };
    let file = include_bytes!("../../profiles/fast.safetensors");
    for kernel in Kernel::ALL.into_iter().filter(|k| k.is_supported()) {
        let model = Model::with_kernel(file, kernel).unwrap();
        let count = model.config().model.features.len();
        let mut state = State::new(&model, MAX_LANES).unwrap();
        let mut weights = vec![[0; 256]; MAX_LANES];
        let input = bytes(MAX_LANES * count * 97, 3);
        let mut best = 0f64;
        for _ in 0..8 {
            let start = now();
            for t in 0..1024 {
                let at = t % 97 * MAX_LANES * count;
                state.step(
                    &model,
                    &input[at..at + MAX_LANES * count],
                    MAX_LANES,
                    &mut weights,
                );
            }
            best = best.max(1024.0 * MAX_LANES as f64 / (now() - start));
        }
        println!(
            "{:8} {:7.1} KB/s, {} MAC/byte",
            kernel.name(),
            best / 1e3,
            model.config().macs_per_byte()
        );
    }
}
