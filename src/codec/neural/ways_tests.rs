//! Blocks with a network, and blocks that may take their time.

use super::tests::{records, text};
use super::*;

#[test]
fn lines_of_equal_width_are_records_where_time_does_not_matter() {
    let mut x = 1u32;
    let mut digit = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) % 10
    };
    let mut level = [5000; 6];
    let lines = (0..900).map(|_| {
        let fields = level.each_mut().map(|level| {
            *level = *level + digit() - 4;
            format!("{level:06x}")
        });
        fields.concat() + "\n"
    });
    let data = lines.collect::<String>().into_bytes();
    let kind = |effort| {
        let payload = code(&data, None, None, effort).into_payload();
        assert_eq!(
            decode(&payload, data.len(), None, None).as_deref(),
            Ok(&data[..])
        );
        header::read(&payload, data.len()).unwrap().plan.kind
    };
    assert_eq!(kind(Effort::Usual), plan::Kind::Text);
    assert_eq!(kind(Effort::Dense), plan::Kind::Binary);
}

#[test]
fn dense_blocks_are_wide_have_one_lane_and_are_smaller() {
    let data = records(6000);
    let payload = |effort| code(&data, None, None, effort).into_payload();
    let (usual, dense) = (payload(Effort::Usual), payload(Effort::Dense));
    let shape = |payload: &[u8]| {
        let plan = header::read(payload, data.len()).unwrap().plan;
        (plan.lanes, plan.wide)
    };
    assert_eq!((shape(&usual), shape(&dense)), ((2, false), (1, true)));
    assert!(dense.len() < usual.len(), "{} {}", dense.len(), usual.len());
    let narrow = one_lane_len(&data, None);
    assert!(dense.len() < narrow, "{} {narrow}", dense.len());
    assert_eq!(
        decode(&dense, data.len(), None, None).as_deref(),
        Ok(&data[..])
    );
}

/// Knows the answer with probability 1/2 where the byte before says so, and counts its calls.
#[derive(Default)]
struct Fake {
    next: usize,
    calls: usize,
}

impl Net for Fake {
    fn reset(&mut self, _stride: usize) {
        *self = Fake::default();
    }

    fn predict(&mut self, block: &[u8], start: usize, t: usize, weights: &mut [u32; 256]) {
        assert!(t >= self.next);
        (self.next, self.calls) = (t + 1, self.calls + 1);
        weights.fill(1);
        let before = if t > 0 { block[start + t - 1] } else { 0 };
        weights[usize::from(before.wrapping_mul(5).wrapping_add(1))] = 60_000;
    }
}

/// Expects of every block what looks like noise to statistics, and says what the mixer begins with.
#[derive(Default)]
struct Oracle(Option<FirstWeights>);

impl Oracle {
    /// What it expects, and is right about but for one byte in 16.
    fn block(n: usize) -> Vec<u8> {
        (0..n)
            .map(|t| Oracle::expects(t) ^ u8::from(t % 16 == 7))
            .collect()
    }

    fn expects(t: usize) -> u8 {
        ((t as u32).wrapping_mul(2_654_435_761) >> 13) as u8
    }
}

impl Net for Oracle {
    fn first_weights(&self) -> Option<&FirstWeights> {
        self.0.as_ref()
    }

    fn reset(&mut self, _stride: usize) {}

    fn predict(&mut self, _block: &[u8], _start: usize, t: usize, weights: &mut [u32; 256]) {
        weights.fill(1);
        weights[usize::from(Oracle::expects(t))] = 600;
    }
}

#[test]
fn first_weights_learnt_beside_a_network_make_its_blocks_smaller() {
    let data = Oracle::block(20_000);
    for effort in [Effort::Usual, Effort::Dense] {
        let learnt = learn_from(&data, &mut Oracle::default(), effort);
        let weights = first_weights(&[learnt]);
        let built_in = first_weights(&[]);
        assert_eq!(built_in[0].map(|bank| bank[work::NET]), [5000; 2]);
        assert_ne!(weights[0][0], built_in[0][0]);
        assert_eq!(weights[1], built_in[1], "no text was seen");
        // A second bank is learnt where there is one.
        assert_eq!(weights[0][1] == built_in[0][1], effort == Effort::Usual);
        let mut net = Oracle(Some(weights));
        let short = |net: &mut Oracle| code(&data[..700], Some(net), None, effort).into_payload();
        let (with, without) = (short(&mut net), short(&mut Oracle::default()));
        assert!(
            with.len() < without.len(),
            "{} {}",
            with.len(),
            without.len()
        );
        let back = |net: &mut Oracle| decode(&with, 700, Some(net), None);
        assert_eq!(back(&mut net).as_deref(), Ok(&data[..700]));
        assert_ne!(back(&mut Oracle::default()).as_deref(), Ok(&data[..700]));
        // What every block begins with is no other for having been said.
        let said = short(&mut Oracle(Some(built_in)));
        assert_eq!(said, without);
    }
}

#[test]
fn golden_payloads_beside_first_weights_stay() {
    let mut w = 0i16;
    let weights = [(); 2].map(|()| {
        [(); 2].map(|()| {
            [(); mixer::INPUTS].map(|()| {
                w = (w + 3001) % 16001;
                w - 4000
            })
        })
    });
    let mut sums = Vec::new();
    for data in [records(800), text(150)] {
        for effort in [Effort::Usual, Effort::Dense] {
            let mut net = Oracle(Some(weights));
            let payload = code(&data, Some(&mut net), None, effort).into_payload();
            let back = decode(&payload, data.len(), Some(&mut net), None);
            assert_eq!(back.as_deref(), Ok(&data[..]));
            sums.push(crc32c::crc32c(&payload));
        }
    }
    assert_eq!(
        sums,
        [23_335_978, 3_445_338_635, 1_847_125_845, 3_297_281_298]
    );
}

#[test]
fn a_network_that_knows_makes_blocks_small() {
    let mut x = 0u8;
    let mut data: Vec<u8> = Vec::new();
    for i in 0..20_001u32 {
        x = if i % 97 == 0 {
            (i / 97 * 31) as u8
        } else {
            x.wrapping_mul(5).wrapping_add(1)
        };
        data.push(x);
    }
    let mut net = Fake::default();
    let payload = encode(&data, Some(&mut net), None);
    assert!(net.calls > 1000);
    assert!(payload.len() * 12 < data.len(), "{}", payload.len());
    assert_eq!(needs_net(&payload, data.len()), Ok(true));
    assert_eq!(
        decode(&payload, data.len(), Some(&mut net), None).as_deref(),
        Ok(&data[..])
    );
    assert_eq!(
        decode(&payload, data.len(), None, None),
        Err(NeuralError::Net)
    );
    for n in [0, 1, 2, 17, 2047, 2048, 5000] {
        let payload = encode(&data[..n], Some(&mut net), None);
        assert_eq!(
            decode(&payload, n, Some(&mut net), None).as_deref(),
            Ok(&data[..n])
        );
    }
}

#[test]
fn what_comes_after_a_wide_block_is_wide() {
    for all in [records(9000), text(1200)] {
        let pieces: Vec<&[u8]> = all.chunks(all.len() / 6).collect();
        let is_wide = |payload: &[u8], data: &[u8]| {
            let plan = header::read(payload, data.len()).unwrap().plan;
            assert!(plan.lanes == 1 || !plan.wide);
            plan.wide
        };
        // Made of bytes alone, of a wide block after those, of one coded in haste after that, and of bytes again.
        let primer = Start::then(None, pieces[0], None);
        let mut states = vec![primer];
        for (n, wide) in [
            (1, Effort::Dense),
            (2, Effort::Usual),
            (3, Effort::Dense),
            (4, Effort::Usual),
        ] {
            let before = &states[n - 1];
            let payload = code(pieces[n], None, Some(before), wide).into_payload();
            assert!(is_wide(&payload, pieces[n]), "{n}");
            let back = decode(&payload, pieces[n].len(), None, Some(before));
            assert_eq!(back.as_deref(), Ok(pieces[n]));
            // Whoever makes it, with this thread's predictor or with none, it is the same state.
            let again = std::thread::scope(|s| {
                let made = s.spawn(|| Start::then(Some(before), pieces[n], Some(&payload)));
                made.join().unwrap()
            });
            let state = Start::then(Some(before), pieces[n], Some(&payload));
            let next = encode(pieces[5], None, Some(&state));
            assert!(next == encode(pieces[5], None, Some(&again)), "{n}");
            states.push(state);
        }
        let bytes = Start::then(states.last(), pieces[1], None);
        let payload = encode(pieces[5], None, Some(&bytes));
        assert!(is_wide(&payload, pieces[5]));
        let back = decode(&payload, pieces[5].len(), None, Some(&bytes));
        assert_eq!(back.as_deref(), Ok(pieces[5]));

        // A payload that is not wide does not go on from one that is.
        let usual = encode(pieces[1], None, Some(&states[0]));
        assert!(!is_wide(&usual, pieces[1]));
        assert_eq!(
            decode(&usual, pieces[1].len(), None, Some(&states[1])),
            Err(NeuralError::Start)
        );
    }
}

#[test]
fn a_wide_block_gives_back_what_the_next_one_does_not_need() {
    let data = records(3000);
    scratch::forget_thread_memory();
    let usual = encode(&data, None, None);
    let dense = code(&data, None, None, Effort::Dense).into_payload();
    scratch::forget_thread_memory();
    let memory = |payload: &[u8]| {
        decode(payload, data.len(), None, None).unwrap();
        thread_memory()
    };
    let [narrow, wide, again] = [&usual, &dense, &usual].map(|payload| memory(payload));
    assert!(wide > narrow + (4 << 20) && wide < 31 << 20, "{wide}");
    assert!(again <= narrow, "{again} {narrow}");
}

/// Wide payloads: cold, after bytes, and after a wide block.
fn golden_wide(all: &[u8]) -> [Vec<u8>; 3] {
    let pieces: Vec<&[u8]> = all.chunks(all.len() / 3).collect();
    let cold = code(pieces[0], None, None, Effort::Dense).into_payload();
    let bytes = Start::then(None, pieces[0], None);
    let after = code(pieces[1], None, Some(&bytes), Effort::Dense).into_payload();
    let wide = Start::then(None, pieces[0], Some(&cold));
    let twice = Start::then(Some(&wide), pieces[1], None);
    let last = code(pieces[2], None, Some(&twice), Effort::Dense).into_payload();
    for (payload, data, start) in [
        (&cold, pieces[0], None),
        (&after, pieces[1], Some(&bytes)),
        (&last, pieces[2], Some(&twice)),
    ] {
        let back = decode(payload, data.len(), None, start);
        assert_eq!(back.as_deref(), Ok(data));
    }
    [cold, after, last]
}

#[test]
fn golden_wide_payloads_stay() {
    for (data, golden) in [
        (records(3000), [3_743_197_356, 3_332_798_475, 4_147_418_843]),
        (text(600), [270_686_803, 3_404_175_869, 3_051_668_877]),
    ] {
        let sums = golden_wide(&data).map(|payload| crc32c::crc32c(&payload));
        assert_eq!(sums, golden);
    }
}
