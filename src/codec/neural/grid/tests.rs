use proptest::prelude::*;

use super::super::tests::{hex, unhex};
use super::super::{Form, Plan, Start, decode, encode, header};
use super::*;
use crate::engine::Effort;

fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Records of a clock and channels that a converter measured, each scaled in its own way to single precision.
fn channels(records: usize, count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut levels = vec![0i64; count];
    let mut out = Vec::new();
    for i in 0..records as u32 {
        out.extend_from_slice(&(1_700_000_000 + i).to_le_bytes());
        for (c, level) in levels.iter_mut().enumerate() {
            *level += next(&mut state) as i64 % 9 - 4;
            let step = 200.0 / (13_000.0 + 17.0 * c as f64);
            let value = (*level + 300 * c as i64) as f64 * step - 31.25 - c as f64 / 7.0;
            out.extend_from_slice(&(value as f32).to_le_bytes());
        }
    }
    out
}

/// A converter's noise in double precision, rounded twice, after a header.
fn vibration(count: usize, seed: u64, big: bool) -> Vec<u8> {
    let mut state = seed;
    let mut out = b"header of thirty-nine bytes, odd ones.\n".to_vec();
    for _ in 0..count {
        let code = (0..12)
            .map(|_| next(&mut state) as i64 % 400 - 200)
            .sum::<i64>();
        let value = code as f64 * 1.13 / 5500.0;
        out.extend_from_slice(&if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        });
    }
    out
}

fn there_and_back(data: &[u8], start: Option<&Start>) -> Vec<u8> {
    let payload = encode(data, None, start);
    let got = decode(&payload, data.len(), None, start);
    assert!(got.as_deref() == Ok(data), "{:?}", got.map(|g| g.len()));
    payload
}

fn on_grid(payload: &[u8]) -> bool {
    payload[0] & 8 != 0
}

fn without(data: &[u8]) -> usize {
    let plain = Form { data, grid: None };
    let (plan, other) = Plan::candidates(data, false, Effort::Usual);
    let sizes = [Some(plan), other].into_iter().flatten();
    let sizes = sizes.map(|plan| plain.encode(&plan, None, None).size());
    sizes.min().unwrap()
}

#[test]
fn scaled_channels_are_coded_as_what_was_measured() {
    let data = channels(600, 20, 1);
    let payload = there_and_back(&data, None);
    assert!(on_grid(&payload));
    assert!(
        payload.len() * 3 < without(&data) * 2,
        "{} {}",
        payload.len(),
        without(&data)
    );
    let found = find(&data).unwrap();
    assert_eq!((found.grid.stride, found.grid.fields.len()), (84, 20));
    assert!(found.grid.fields.iter().all(|f| f.code == 2));
    assert_eq!(
        found.run,
        Run {
            skip: 0,
            count: 600
        }
    );
}

#[test]
fn doubles_that_were_rounded_twice_have_residuals() {
    for big in [false, true] {
        let data = vibration(8000, 2, big);
        let payload = there_and_back(&data, None);
        assert!(on_grid(&payload));
        let found = find(&data).unwrap();
        let [field] = found.grid.fields[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            (field.big, field.width, field.residual),
            (big, Width::Double, true)
        );
        assert_eq!((found.run.skip % 8, found.grid.stride), (7, 8));
        assert!(
            payload.len() * 5 < without(&data) * 4,
            "{} {}",
            payload.len(),
            without(&data)
        );
    }
}

#[test]
fn what_has_no_code_is_kept_in_full() {
    let mut data = channels(600, 3, 3);
    let odd = [
        f32::NAN,
        f32::NEG_INFINITY,
        -0.0,
        1e30,
        1e-40,
        4096.37,
        f32::MAX,
    ];
    for (i, v) in odd.iter().enumerate() {
        data[16 * (70 * i + 5) + 8..][..4].copy_from_slice(&v.to_le_bytes());
    }
    data.drain(..11);
    data.truncate(data.len() - 5);
    let payload = there_and_back(&data, None);
    assert!(on_grid(&payload));
    let found = find(&data).unwrap();
    let coded = found.forward(&data);
    let got = found.odd(data.len(), &coded);
    assert!(got >= 4 * odd.len(), "{got} {:?}", found.run);
    assert!(found.inverse(&coded, data.len()).as_deref() == Ok(&data[..]));
}

#[test]
fn wide_ranges_take_three_bytes() {
    let mut state = 4;
    let mut level = 0i64;
    let data: Vec<u8> = (0..4000)
        .flat_map(|_| {
            level += next(&mut state) as i64 % 20_001 - 10_000;
            (level as f64 / 1000.0).to_le_bytes()
        })
        .collect();
    let payload = there_and_back(&data, None);
    assert!(on_grid(&payload));
    assert_eq!(find(&data).unwrap().grid.fields[0].code, 3);
}

#[test]
fn other_data_have_no_grid() {
    let mut state = 5;
    let noise: Vec<u8> = (0..40_000).map(|_| next(&mut state) as u8).collect();
    let lines: Vec<u8> = (0..3000)
        .flat_map(|i| {
            format!("2026-01-01,{}.{:02},ok\n", next(&mut state) % 90, i % 100).into_bytes()
        })
        .collect();
    let samples: Vec<u8> = (0..20_000)
        .flat_map(|_| (next(&mut state) as i16 % 900 + next(&mut state) as i16 % 900).to_le_bytes())
        .collect();
    let counters: Vec<u8> = (0..9000u32)
        .flat_map(|i| (i * 300 + 1_600_000_000).to_le_bytes())
        .collect();
    let continuous: Vec<u8> = (0..5000)
        .flat_map(|i| (f64::from(i).sqrt() * 0.77 + (next(&mut state) as f64).ln()).to_le_bytes())
        .collect();
    for data in [
        &noise,
        &lines,
        &samples,
        &counters,
        &continuous,
        &vec![],
        &vec![0; 9000],
    ] {
        assert_eq!(find(data).map(|f| f.run.count), None);
        there_and_back(data, None);
    }
}

/// Key blocks one after another, the states made from payloads as a reader makes them; in the middle the scales change.
#[test]
fn blocks_after_a_state_are_on_its_grid_or_on_a_new_one() {
    let block = 84 * 390;
    let mut data = channels(4 * 390, 20, 6);
    let mut other = Vec::new();
    for record in channels(2 * 390, 20, 7).chunks_exact(84) {
        other.extend_from_slice(&record[..4]);
        for raw in record[4..].chunks_exact(4) {
            let value = f32::from_le_bytes(raw.try_into().unwrap());
            other.extend_from_slice(&(value * 16.5 + 2000.0).to_le_bytes());
        }
    }
    data.extend_from_slice(&other);
    let mut before: Option<Start> = None;
    for (i, part) in data.chunks(block - 40).enumerate() {
        let payload = there_and_back(part, before.as_ref());
        if i < 6 {
            assert!(on_grid(&payload), "block {i}");
        }
        let header = header::read(&payload, part.len()).unwrap().grid;
        // The fourth block has both scales.
        if (1..4).contains(&i) {
            assert!(header.unwrap().is_known(), "block {i}");
            assert!(
                payload.len() * 5 < without(part) * 3,
                "block {i} {}",
                payload.len()
            );
        }
        let made = Start::then(before.as_ref(), part, Some(&payload));
        // As a reader does, whose thread has coded something else meanwhile.
        there_and_back(b"something else", None);
        let read = Start::then(before.as_ref(), part, Some(&payload));
        assert_eq!(
            encode(part, None, Some(&made)),
            encode(part, None, Some(&read))
        );
        before = Some(read);
    }
}

#[test]
fn damaged_headers_and_bits_end_in_errors_or_other_bytes() {
    let data = channels(200, 3, 8);
    let payload = encode(&data, None, None);
    assert!(on_grid(&payload));
    let start = Start::then(None, &data, Some(&payload));
    let after = encode(&data, None, Some(&start));
    assert!(on_grid(&after));
    for (payload, start) in [(&payload, None), (&after, Some(&start))] {
        for end in 0..payload.len() {
            if let Ok(got) = decode(&payload[..end], data.len(), None, start) {
                assert_eq!(got.len(), data.len());
            }
        }
        for at in 0..payload.len().min(200) {
            for bit in 0..8 {
                let mut bad = payload.clone();
                bad[at] ^= 1 << bit;
                if let Ok(got) = decode(&bad, data.len(), None, start) {
                    assert_eq!(got.len(), data.len());
                }
            }
        }
        // Another length than the one that it was made for.
        for len in [0, 1, data.len() - 1, data.len() + 1] {
            if let Ok(got) = decode(payload, len, None, start) {
                assert_eq!(got.len(), len);
            }
        }
    }
    assert_eq!(
        decode(&after, data.len(), None, None),
        Err(NeuralError::Start)
    );
    let other = Start::then(None, &data, None);
    assert!(decode(&after, data.len(), None, Some(&other)).is_err());
}

#[test]
fn impossible_grids_are_refused() {
    let data = channels(600, 2, 9);
    let good = Header::of(&find(&data).unwrap(), 5000, None);
    let bytes = |change: &dyn Fn(&mut Grid)| {
        let mut header = good.clone();
        change(Arc::make_mut(header.grid.as_mut().unwrap()));
        let mut out = Vec::new();
        header.write(&mut out);
        out
    };
    let read = |bytes: &[u8]| Header::read(bytes, data.len()).map(|(h, rest)| (h, rest.len()));
    assert_eq!(read(&bytes(&|_| {})), Ok((good.clone(), 0)));
    for change in [
        &(|g: &mut Grid| g.fields[1].at = 6) as &dyn Fn(&mut Grid),
        &|g| g.fields[1].at = 9,
        &|g| g.fields.swap(0, 1),
        &|g| g.fields[0].scale.unit = 0,
        &|g| g.fields[0].scale.unit = -1,
        &|g| (g.fields[0].code, g.fields[0].residual) = (3, true),
        &|g| g.stride = 2048,
        &|g| g.stride = 0,
    ] {
        assert_eq!(read(&bytes(change)), Err(NeuralError::Plan));
    }
    let whole = bytes(&|_| {});
    for end in 0..whole.len() {
        assert_eq!(read(&whole[..end]), Err(NeuralError::Truncated));
    }
    let more = Header {
        coded: data.len() + 1,
        ..good.clone()
    };
    let mut out = Vec::new();
    more.write(&mut out);
    assert_eq!(read(&out), Err(NeuralError::Plan));
    let far = Header {
        run: Run {
            skip: 1,
            ..good.run
        },
        ..good
    };
    assert_eq!(far.resolve(data.len(), None), Err(NeuralError::Plan));
}

proptest! {
    #[test]
    fn whatever_bytes_come_they_come_back(
        base in any::<u64>(),
        records in 30usize..300,
        count in 1usize..6,
        spoilt in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..60),
        cut in 0usize..30,
    ) {
        let mut data = channels(records, count, base);
        for (at, byte) in spoilt {
            let at = at.index(data.len());
            data[at] = byte;
        }
        let data = &data[cut..];
        if let Some(block) = find(data) {
            let coded = block.forward(data);
            prop_assert_eq!(block.inverse(&coded, data.len()), Ok(data.to_vec()));
        }
        there_and_back(data, None);
    }

    #[test]
    fn any_grid_on_any_bytes_is_inverted(
        data in proptest::collection::vec(any::<u8>(), 24..400),
        unit in 1i64..,
        offset in any::<i64>(),
        exponent in any::<i16>(),
        origin in any::<i32>(),
        shape in 0u8..16,
        at in 0usize..8,
        skip in 0usize..8,
    ) {
        let width = if shape & 1 == 0 { Width::Single } else { Width::Double };
        let field = Field {
            at,
            width,
            big: shape & 2 != 0,
            code: 2,
            residual: shape & 4 != 0,
            scale: Scale { unit, offset, exponent, origin },
        };
        let grid = Arc::new(Grid { stride: 16, fields: vec![field] });
        let run = Run { skip, count: (data.len() - skip) / 16 };
        let block = Gridded { grid, run };
        let coded = block.forward(&data);
        prop_assert_eq!(block.inverse(&coded, data.len()), Ok(data));
    }
}

/// Bytes, and the payloads of their first and second half, which comes after the first.
fn golden() -> (Vec<u8>, [Vec<u8>; 2]) {
    let data = channels(700, 1, 11);
    let (first, second) = data.split_at(data.len() / 2);
    let cold = encode(first, None, None);
    let start = Start::then(None, first, Some(&cold));
    let after = encode(second, None, Some(&start));
    (data, [cold, after])
}

#[test]
fn golden_payloads_on_a_grid_decode() {
    let (data, _) = golden();
    let (first, second) = data.split_at(data.len() / 2);
    let [cold, after] = GOLDEN.map(unhex);
    assert!(on_grid(&cold) && on_grid(&after));
    assert_eq!(decode(&cold, first.len(), None, None).as_deref(), Ok(first));
    let start = Start::then(None, first, Some(&cold));
    assert_eq!(
        decode(&after, second.len(), None, Some(&start)).as_deref(),
        Ok(second)
    );
}

#[test]
#[ignore = "prints the golden payloads"]
fn print_golden_payloads_on_a_grid() {
    for payload in golden().1 {
        println!("{}", hex(&payload));
    }
}

const GOLDEN: [&str; 2] = [
    "180007019209000000005e01000800000400148c880000bcff00f0a52d28f0033f000050ad54523ef0ff061e676eaab88aa28a5160c5d09138980cdf8d9dbbefe35f99cec182afbcc1325164638ec9f75cd75898d48270259d0717ac11e300d42dca229897e94a30bbc5a542aafdc9e9356df5b17fdbb13781b3682af57491122bec77600449e7def1edf629a19533a95581117c753b80e2f6d9ff1935a554840547f46361397ce74ca242231f2c8aa62869d712a87b9cbd5a1dee9311ef74736e63f5c8fcef7b2ce60ae93a628f6746a1e5192a706e4748e09ae4e49a33501064a469dee4f2a2b7157a49eddb3ce0b7e63bcff058e8540e15cb16c067501019f5fdb46c34181dfb14d598ee874b6d5b37b350a91e929cef53508748000826f816370c23dc8a653dc5c161241ed04ade992c424e80cfad6670f9ca65c574ac9d0001cc53d8fde07c53e093d0de0c0cba2cf29ed83831ea3c7a665b2335b1c769b463418372",
    "1c00070000009209000000005e0100d06578ad2f410938ab6e6a7053d51f873978d87c55994af5bf4b0fc7b9df5d5d958ee82f536d8c9e4ac45cf0e74b62291e203e623c51a98fbe4893b3254534ccfe9b2ecd09a8f525646bed3569227ef0409b202e1811d1a49b4fe0f2adef2ba26563e4fba9d29b49adc8afd88738245a54586e13a110412169339a4a1a6255990fe99b5e13674fd449c37871739fd0d00004e73c871fce0ddde079388600ce68cdf5aa0bfa1cabb9903891545e28139ea061f8b3c2e1bf04fbd79c73",
];

/// How floats are put on a grid changes only with the payload's version: states of older key blocks hang on it.
#[test]
fn the_way_onto_a_grid_stays() {
    let mut state = 13;
    let mut data = Vec::new();
    let odd = [
        0.0,
        -0.0,
        f64::NAN,
        f64::INFINITY,
        1e-310,
        1e300,
        0.125,
        0.062_5,
        -0.187_5,
        1e-30,
    ];
    for i in 0..400 {
        let n = next(&mut state) as i64 % 3000 - 1500;
        let double = if i % 7 == 0 {
            odd[i / 7 % odd.len()]
        } else {
            n as f64 * 0.125 + (i % 5) as f64 * 1e-15
        };
        data.extend_from_slice(&double.to_le_bytes());
        data.extend_from_slice(&((double * 3.0) as f32).to_be_bytes());
        data.extend_from_slice(&(double as f32).to_le_bytes());
    }
    let field = |at, width, big, code, residual| Field {
        at,
        width,
        big,
        code,
        residual,
        scale: Scale {
            unit: 1 << 61,
            offset: if big { 1 << 58 } else { 0 },
            exponent: -64,
            origin: 0x8080,
        },
    };
    let fields = vec![
        field(0, Width::Double, false, 3, true),
        field(8, Width::Single, true, 2, true),
        field(12, Width::Single, false, 2, false),
    ];
    let grid = Arc::new(Grid { stride: 16, fields });
    let block = Gridded {
        grid,
        run: Run {
            skip: 32,
            count: 390,
        },
    };
    let coded = block.forward(&data);
    assert_eq!(block.inverse(&coded, data.len()).as_deref(), Ok(&data[..]));
    assert_eq!((coded.len(), crc32c::crc32c(&coded)), (5746, 904_222_937));
}

/// A payload that no encoder wrote, whose floats go back to other codes: the state takes the bytes as they are.
#[test]
fn a_state_has_no_more_bytes_than_its_block() {
    let scale = Scale {
        unit: 1,
        offset: 1 << 40,
        exponent: 0,
        origin: 0,
    };
    let field = Field {
        at: 0,
        width: Width::Single,
        big: false,
        code: 2,
        residual: true,
        scale,
    };
    let grid = Arc::new(Grid {
        stride: 4,
        fields: vec![field],
    });
    let block = Gridded {
        grid,
        run: Run {
            skip: 0,
            count: 1000,
        },
    };
    let codes: Vec<u8> = (0..1000u16)
        .flat_map(|i| [(i % 250 + 1) as u8, 1, 0])
        .collect();
    let data = block.inverse(&codes, 4000).unwrap();
    assert!(block.forward(&data).len() > data.len());
    let header = Header::of(&block, codes.len(), None);
    let form = Form {
        data: &codes,
        grid: Some(&header),
    };
    let payload = form
        .encode(&Plan::find(&codes, false), None, None)
        .into_payload();
    assert_eq!(decode(&payload, 4000, None, None).as_deref(), Ok(&data[..]));
    let state = Start::then(None, &data, Some(&payload));
    assert_eq!(state.seen(), data);
}
