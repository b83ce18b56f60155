//! The training forward pass against the engine, its gradients against compositions of elementary operations.

use super::attention::Attention;
use super::ops::{Norm, Requantise, Residual};
use super::*;
use crate::engine::tables::byte_weight;
use crate::engine::{Config, Kernel, Model, State};
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::sync::Arc;

fn config(json: &str) -> Config {
    let c: Config = serde_json::from_str(json).unwrap();
    c.validate().unwrap();
    c
}

fn small() -> Config {
    config(
        r#"{"model":{"d_model":32,"n_layers":2,"n_heads":2,"n_kv_heads":1,"ffn":64},
            "compressive_memory":{"window_size":9,"compression_rate":4,"max_compressed_len":5}}"#,
    )
}

fn wide() -> Config {
    config(
        r#"{"model":{"d_model":256,"n_layers":1,"n_heads":8,"n_kv_heads":2},
            "compressive_memory":{"window_size":16,"compression_rate":4,"max_compressed_len":8}}"#,
    )
}

fn integers(n: usize, seed: u64, width: i64) -> Vec<f32> {
    let mut s = seed | 1;
    let mut draw = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 33) as i64
    };
    (0..n)
        .map(|_| (draw() % (2 * width + 1) - width) as f32)
        .collect()
}

fn var(values: Vec<f32>, shape: &[usize]) -> Var {
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn feature_bytes(n: usize, seed: u64) -> Vec<u8> {
    integers(n, seed, 1 << 20)
        .iter()
        .map(|&v| (v as i32 >> 3) as u8)
        .collect()
}

/// Masters spread wide, so that clamps and far table entries are reached.
fn strong(config: &Config, seed: u64) -> Params {
    let params = initial(config, seed).unwrap();
    for (i, (name, var)) in params.iter().enumerate() {
        let noise = integers(var.elem_count(), seed + 77 * i as u64, 100);
        let unit = if name.contains("bias") { 0.03 } else { 0.002 };
        let noise = Tensor::from_vec(noise, var.shape(), &Device::Cpu).unwrap();
        var.set(
            &(var.as_tensor() * 1.7)
                .unwrap()
                .add(&(noise * unit).unwrap())
                .unwrap(),
        )
        .unwrap();
    }
    params
}

fn model(config: &Config, params: &Params) -> CompressiveTransformer {
    let tensors: HashMap<String, Tensor> = params
        .iter()
        .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
        .collect();
    let vb = VarBuilder::from_tensors(tensors, candle_core::DType::F32, &Device::Cpu);
    CompressiveTransformer::new(config, vb).unwrap()
}

/// The whole promise: trained as it is run. 150 steps are far beyond window + rate * compressed slots.
#[test]
fn training_forward_and_engine_agree_bit_for_bit() {
    for (config, steps) in [(small(), 150), (wide(), 70)] {
        let params = strong(&config, 3);
        let (count, batch) = (config.model.features.len(), 2);
        let bytes = Arc::new(feature_bytes(batch * steps * count, 11));
        let logits = model(&config, &params).forward(&bytes, batch).unwrap();
        let logits = logits
            .reshape((batch, steps, 256))
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        let file = export(&config, &params, None).unwrap();
        for kernel in Kernel::ALL.into_iter().filter(|k| k.is_supported()) {
            let engine = Model::with_kernel(&file, kernel).unwrap();
            let mut state = State::new(&engine, batch).unwrap();
            let mut weights = vec![[0; 256]; batch];
            for t in 0..steps {
                let features: Vec<u8> = (0..batch)
                    .flat_map(|b| &bytes[(b * steps + t) * count..][..count])
                    .copied()
                    .collect();
                state.step(&engine, &features, batch, &mut weights);
                for b in 0..batch {
                    let row = &logits[b][t];
                    assert!(row.iter().all(|l| l.fract() == 0.0));
                    let best = row.iter().copied().fold(f32::MIN, f32::max);
                    for (l, &w) in row.iter().zip(&weights[b]) {
                        assert_eq!(
                            byte_weight((best - l) as u32),
                            w,
                            "{kernel:?} segment {b} step {t}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_variable_receives_a_gradient() {
    let config = small();
    let params = initial(&config, 1).unwrap();
    let count = config.model.features.len();
    let bytes = Arc::new(feature_bytes(2 * 64 * count, 5));
    let targets = Arc::new(feature_bytes(2 * 64, 6));
    let logits = model(&config, &params).forward(&bytes, 2).unwrap();
    let grads = bits_per_byte(&logits, &targets)
        .unwrap()
        .backward()
        .unwrap();
    for (name, var) in &params {
        let g = grads
            .get(var)
            .unwrap_or_else(|| panic!("{name} has no gradient"));
        let sum = g
            .abs()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(sum.is_finite() && sum > 0.0, "{name}: {sum}");
        // Every single parameter, where all are used: of the embedding only those of bytes that came are.
        let all = g.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let moved = all.iter().filter(|&&g| g != 0.0).count();
        if name != "embedding" {
            assert_eq!(moved, all.len(), "{name}");
        }
    }
}

/// Values equal, gradients equal up to `tolerance` of the largest.
fn same(fused: &Tensor, composed: &Tensor, inputs: &[&Var], tolerance: f32) -> Result<()> {
    let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    assert_eq!(flat(fused)?, flat(composed)?);
    // A loss that treats all elements differently.
    let w = Tensor::from_vec(
        integers(fused.elem_count(), 99, 50),
        fused.shape(),
        &Device::Cpu,
    )?;
    let g1 = (fused * &w)?.sum_all()?.backward()?;
    let g2 = (composed * &w)?.sum_all()?.backward()?;
    for (i, v) in inputs.iter().enumerate() {
        let (a, b) = (flat(g1.get(v).unwrap())?, flat(g2.get(v).unwrap())?);
        let scale = b.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(scale > 0.0);
        for (a, b) in a.iter().zip(&b) {
            assert!(
                (a - b).abs() <= tolerance * scale,
                "input {i}: {a} and {b}, largest {scale}"
            );
        }
    }
    Ok(())
}

#[test]
fn fused_elementwise_operations_equal_composed_ones() -> Result<()> {
    let x = var(integers(40 * 64, 1, 900), &[40, 64]);
    let mut a = integers(40 * 64, 2, 90_000);
    // What rounds to a limit of the clamp may count as inside or as outside.
    a.iter_mut()
        .filter(|a| (a.abs() / 512.0 - 127.0).abs() < 1.0)
        .for_each(|a| *a = 0.0);
    let a = var(a, &[40, 64]);
    same(&x.apply_op1(Norm)?, &composed::norm(&x)?, &[&x], 5e-3)?;
    let fused = a.apply_op1(Requantise {
        shift: 9,
        low: -127.0,
        high: 127.0,
    })?;
    same(
        &fused,
        &composed::requantise(&a, 9, -127.0, 127.0)?,
        &[&a],
        1e-5,
    )?;
    let fused = a.apply_op1(Requantise {
        shift: 8,
        low: 0.0,
        high: 127.0,
    })?;
    let relu = composed::requantise(&a, 8, 0.0, 127.0)?;
    assert_eq!(fused.to_vec2::<f32>()?, relu.to_vec2::<f32>()?);
    let fused = x.apply_op2(&a, Residual { shift: 6 })?;
    let sum = (x.as_tensor() + composed::requantise(&a, 6, -1e7, 1e7)?)?.clamp(-2047.0, 2047.0)?;
    same(&fused, &sum, &[&x, &a], 1e-5)
}

#[test]
fn fused_attention_equals_masked_attention() -> Result<()> {
    for (c, positions) in [(small(), 64), (wide(), 48)] {
        let (d, kv) = (c.d(), 2 * c.kv_width());
        let slots = positions / c.compressive_memory.compression_rate;
        let biases = c.recent_slots() + c.compressive_memory.max_compressed_len;
        let heads = c.model.n_heads;
        let qkv = var(integers(positions * (d + kv), 1, 40), &[positions, d + kv]);
        let ckv = var(integers(slots * kv, 2, 40), &[slots, kv]);
        let bias = var(integers(heads * biases, 3, 20), &[heads, biases]);
        let q3 = qkv.reshape((1, positions, d + kv))?;
        let c3 = ckv.reshape((1, slots, kv))?;
        let fused = q3.apply_op3(&c3, &bias, Attention { config: c.clone() })?;
        let fused = fused.reshape((positions, d))?;
        let masked = composed::attention(&c, &qkv, &ckv, &bias)?;
        // The composed form differentiates the smooth exponential, the fused one the rounded weights.
        same(&fused, &masked, &[&qkv, &ckv, &bias], 0.03)?;
    }
    Ok(())
}

#[test]
fn the_compression_is_a_conv1d_with_stride_equal_to_kernel() -> Result<()> {
    let (d, rate, slots) = (32, 4, 7);
    let w = Tensor::from_vec(integers(d * d * rate, 4, 100), (d, d, rate), &Device::Cpu)?;
    let y = Tensor::from_vec(
        integers(slots * rate * d, 5, 100),
        (slots * rate, d),
        &Device::Cpu,
    )?;
    let conv = y
        .t()?
        .contiguous()?
        .unsqueeze(0)?
        .conv1d(&w, 0, rate, 1, 1)?
        .squeeze(0)?
        .t()?;
    let kernel = w.transpose(1, 2)?.contiguous()?.reshape((d, rate * d))?;
    let product = y.reshape((slots, rate * d))?.matmul(&kernel.t()?)?;
    assert_eq!(conv.to_vec2::<f32>()?, product.to_vec2::<f32>()?);
    Ok(())
}

#[test]
fn loss_is_the_cost_of_the_bytes_and_its_gradient_points_downhill() -> Result<()> {
    let logits = var(integers(20 * 256, 8, 300), &[20, 256]);
    let targets = Arc::new(feature_bytes(20, 9));
    let loss = bits_per_byte(&logits, &targets)?;
    let nats = (logits.as_tensor() * (std::f64::consts::LN_2 / 32.0))?;
    let ids = Tensor::from_vec(
        targets.iter().map(|&t| u32::from(t)).collect::<Vec<_>>(),
        20,
        &Device::Cpu,
    )?;
    let reference = (candle_nn::loss::cross_entropy(&nats, &ids)? / std::f64::consts::LN_2)?;
    let (a, b) = (loss.to_scalar::<f32>()?, reference.to_scalar::<f32>()?);
    assert!((a - b).abs() < 1e-4 * b, "{a} {b}");
    let (g, h) = (loss.backward()?, reference.backward()?);
    let flat = |t: Option<&Tensor>| t.unwrap().flatten_all()?.to_vec1::<f32>();
    for (a, b) in flat(g.get(&logits))?.iter().zip(flat(h.get(&logits))?) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    Ok(())
}

#[test]
fn exported_files_import_to_the_same_file() {
    let config = small();
    let file = export(&config, &strong(&config, 4), None).unwrap();
    assert_eq!(export(&config, &strong(&config, 4), None).unwrap(), file);
    assert_eq!(
        export(&config, &import(&config, &file).unwrap(), None).unwrap(),
        file
    );
    let other = import(&wide(), &file).err().map(|e| e.to_string());
    let other = other.unwrap_or_default();
    assert!(
        other.starts_with("it has another architecture: its ") && other.len() < 100,
        "{other}"
    );
}
