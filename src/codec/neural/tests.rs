use super::predictor::Predictor;
use super::*;
use crate::engine::Kernel;

/// Deterministic noise.
pub(super) fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        })
        .collect()
}

pub(super) fn records(n: usize) -> Vec<u8> {
    (0..n as u32)
        .flat_map(|i| {
            [
                i as u8,
                (i >> 8) as u8,
                17,
                (i.wrapping_mul(i) >> 9) as u8,
                (i / 7) as u8,
                0,
            ]
        })
        .collect()
}

pub(super) fn text(n: usize) -> Vec<u8> {
    (0..n)
        .flat_map(|i| {
            format!(
                "2026-11-22 10:{:02}:{:02},sensor-{},{}.{}\n",
                i / 60 % 60,
                i % 60,
                i % 5,
                20 + i % 3,
                i * 7 % 10
            )
            .into_bytes()
        })
        .collect()
}

/// The size of the payload, which decodes, as does one in as many lanes as there may be.
fn round_trip(data: &[u8]) -> usize {
    let payload = encode(data, None, None);
    let form = Form { data, grid: None };
    let wide = form
        .encode(&Plan::find(data, false), None, None)
        .into_payload();
    for payload in [&payload, &wide] {
        assert_eq!(decode(payload, data.len(), None, None).as_deref(), Ok(data));
    }
    payload.len()
}

#[test]
fn what_becomes_few_bytes_has_one_lane_and_is_smaller_for_it() {
    for data in [text(1500), wide_records(42)] {
        let plan = Plan::find(&data, false);
        let form = Form {
            data: &data,
            grid: None,
        };
        let paired = form.encode(&plan, None, None).into_payload();
        assert_eq!((plan.lanes, Plan::find(&data, true).lanes), (2, 1));
        let payload = encode(&data, None, None);
        assert_eq!(header::read(&payload, data.len()).unwrap().plan.lanes, 1);
        assert_eq!(one_lane_len(&data, None), payload.len());
        assert!(
            payload.len() < paired.len(),
            "{} {}",
            payload.len(),
            paired.len()
        );
        // A state after it is the same, whoever makes it, and leads to the next block.
        let next = &data[..20_000];
        let states = [
            Start::then(None, &data, Some(&payload)),
            std::thread::scope(|s| {
                s.spawn(|| Start::then(None, &data, Some(&payload)))
                    .join()
                    .unwrap()
            }),
        ];
        let coded = encode(next, None, Some(&states[0]));
        let back = decode(&coded, next.len(), None, Some(&states[1]));
        assert_eq!(back.as_deref(), Ok(next));
    }
    let noise = noise(9000, 4);
    let payload = encode(&noise, None, None);
    assert_eq!(header::read(&payload, noise.len()).unwrap().plan.lanes, 2);
}

#[test]
fn short_blocks_round_trip() {
    let (a, b) = (text(20), noise(300, 5));
    for n in 0..=300 {
        round_trip(&a[..n]);
        round_trip(&b[..n]);
    }
}

#[test]
fn structure_is_found() {
    let data = records(8000);
    assert!(round_trip(&data) * 12 < data.len());
    let data = text(1500);
    assert!(round_trip(&data) * 20 < data.len());
}

/// Counters of 64 bits, most of which stand still, one record after another.
fn wide_records(n: usize) -> Vec<u8> {
    let counter = |i: usize, k: usize| (1_000_003 * k + i * (k % 5 / 4) * (1 + k % 13)) as u64;
    (0..n)
        .flat_map(|i| (0..193).flat_map(move |k| counter(i, k).to_le_bytes()))
        .collect()
}

#[test]
fn wide_records_are_found() {
    let data = wide_records(42);
    let plan = Plan::find(&data, false);
    assert_eq!(plan.stride, 193 * 8);
    assert!(round_trip(&data) * 20 < data.len());
    let form = Form {
        data: &data,
        grid: None,
    };
    let payload = form.encode(&plan, None, None).into_payload();
    let read = header::read(&payload, data.len()).unwrap().plan;
    assert_eq!((read.stride, read.lanes), (plan.stride, plan.lanes));
    let start = Start::then(None, &data[..40_000], None);
    let more = &data[40_001..];
    let payload = encode(more, None, Some(&start));
    assert_eq!(
        decode(&payload, more.len(), None, Some(&start)).as_deref(),
        Ok(more)
    );
}

#[test]
fn noise_costs_next_to_nothing_more() {
    let data = noise(65536, 3);
    assert!(round_trip(&data) < data.len() + data.len() / 50);
}

/// The lanes of these blocks advance at very different speeds, and pointers of one run into what the other does not know yet.
#[test]
fn lanes_that_wait_for_each_other_round_trip() {
    let (n, r) = (noise(9000, 6), records(1500));
    for (a, b) in [(&n, &r), (&r, &n), (&n, &n), (&r, &r)] {
        for shift in [0, 1, 3, 700] {
            round_trip(&[&a[shift..], &b[..b.len() - shift]].concat());
            round_trip(&[&a[..a.len() - shift], &b[shift..]].concat());
        }
    }
}

#[test]
fn damage_never_panics() {
    let data = records(50);
    let payload = encode(&data, None, None);
    for i in 0..payload.len() {
        let _ = decode(&payload[..i], data.len(), None, None);
        for flip in [1u8, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut bad = payload.clone();
            bad[i] ^= flip;
            if let Ok(out) = decode(&bad, data.len(), None, None) {
                assert_eq!(out.len(), data.len());
            }
        }
    }
    let mut long = payload.clone();
    long.extend_from_slice(&[1; 16]);
    assert_eq!(
        decode(&long, data.len(), None, None),
        Err(NeuralError::Trailing)
    );
}

#[test]
fn threads_agree() {
    let data = records(3000);
    let expected = encode(&data, None, None);
    let all: Vec<_> = (0..4)
        .map(|i| {
            let data = data.clone();
            std::thread::spawn(move || {
                let _ = encode(&noise(1000 * i, 9), None, None);
                encode(&data, None, None)
            })
        })
        .collect();
    for t in all {
        assert_eq!(t.join().expect("no panic"), expected);
    }
}

#[test]
#[ignore = "minutes without optimisation"]
fn large_blocks_round_trip() {
    assert!(round_trip(&vec![0; 1 << 20]) < 300);
    round_trip(&noise((1 << 20) - 1, 1));
    let t = text(40_000);
    round_trip(&t[..1_000_003]);
    round_trip(&records(175_000)[..1 << 20]);
}

/// How a plan that was found is changed.
type Change = fn(Plan, &[u8]) -> Plan;
/// Not at all; as [`encode`] does; as [`code`] does for dense blocks.
const AS_FOUND: Change = |plan, _| plan;
const AS_USUAL: Change = |plan, data| plan.narrowed(data, Effort::Usual);
const WIDE: Change = |plan, _| plan.widened(true);

/// The payload of `data` after `before`, made with these instructions.
fn encode_with(kernel: Kernel, data: &[u8], before: Option<&[u8]>, change: Change) -> Vec<u8> {
    let lanes = |plan: Plan| change(plan, data);
    let mut p = Predictor::new();
    let mut block = Vec::new();
    let plan = match before {
        None => {
            let plan = lanes(Plan::find(data, false));
            p.reset(plan, data.len(), None);
            plan
        }
        Some(before) => {
            let first = Plan::find(before, false);
            p.reset(first, before.len(), None);
            block.extend_from_slice(before);
            let learnt = order::run_with(kernel, &mut p, &mut block, &mut coder::Replay, None);
            learnt.expect("nothing is coded");
            let plan = lanes(first.follow(before, data, false));
            p.begin(plan, before.len(), data.len(), false);
            plan
        }
    };
    let mut out = Vec::new();
    header::write(&plan, false, before.is_some(), None, &mut out);
    block.extend_from_slice(data);
    let mut coder = BitEncoder::new();
    order::run_with(kernel, &mut p, &mut block, &mut coder, None).expect("encoding cannot fail");
    coder.finish(&mut out);
    out
}

#[test]
fn every_kernel_gives_the_same_payload() {
    for data in [
        records(2500),
        text(400),
        noise(9000, 4),
        numbers(3000, i16::to_le_bytes),
        numbers(3000, i16::to_be_bytes),
    ] {
        let (before, rest) = data.split_at(data.len() / 2);
        let start = Start::then(None, before, None);
        for kernel in Kernel::ALL.into_iter().filter(|k| k.is_supported()) {
            assert!(encode_with(kernel, &data, None, AS_USUAL) == encode(&data, None, None));
            let started = encode_with(kernel, rest, Some(before), AS_USUAL);
            assert!(started == encode(rest, None, Some(&start)));
            for (before, change) in [
                (None, AS_FOUND),
                (Some(before), AS_FOUND),
                (None, WIDE),
                (Some(before), WIDE),
            ] {
                let scalar = encode_with(Kernel::Scalar, rest, before, change);
                assert!(encode_with(kernel, rest, before, change) == scalar);
            }
            let dense = encode_with(kernel, rest, Some(before), WIDE);
            let coded = code(rest, None, Some(&start), Effort::Dense).into_payload();
            assert!(dense == coded);
        }
    }
}

#[test]
fn a_start_state_helps_and_must_be_the_same() {
    let all = records(9000);
    let (before, data) = all.split_at(24_001);
    let start = Start::then(None, before, None);
    let payload = encode(data, None, Some(&start));
    assert!(payload.len() * 10 < encode(data, None, None).len() * 9);
    assert_eq!(
        decode(&payload, data.len(), None, Some(&start)).as_deref(),
        Ok(data)
    );
    assert_eq!(
        decode(&payload, data.len(), None, None),
        Err(NeuralError::Start)
    );
    let cold = encode(data, None, None);
    assert_eq!(
        decode(&cold, data.len(), None, Some(&start)).as_deref(),
        Ok(data)
    );
    let other = Start::then(None, &text(300), None);
    assert_eq!(
        decode(&payload, data.len(), None, Some(&other)),
        Err(NeuralError::Start)
    );
}

/// Ten thousand blocks of every kind, cold and from a state; damage is an error or wrong bytes, never more.
#[test]
fn ten_thousand_random_and_mutated_blocks_round_trip() {
    let (r, t) = (records(4000), text(600));
    let starts = [
        Start::then(None, &r[..8000], None),
        Start::then(None, &t[..8000], None),
    ];
    let mut random = noise(400_000, 77).into_iter().cycle();
    let mut number = |below: usize| {
        let n = [0; 4].map(|_| random.next().unwrap_or(0));
        u32::from_le_bytes(n) as usize % below
    };
    for i in 0..10_000 {
        let source = [&r[..], &t[..]][i % 2];
        let len = number(if i % 50 == 0 { 6000 } else { 400 });
        let at = number(source.len() - len);
        let mut data = source[at..at + len].to_vec();
        for _ in 0..number(20) {
            match (number(3), data.is_empty()) {
                (_, true) => {}
                (0, _) => {
                    let at = number(data.len());
                    data[at] = number(256) as u8;
                }
                (1, _) => {
                    let at = number(data.len());
                    data.insert(at, number(256) as u8);
                }
                _ => {
                    let at = number(data.len());
                    data.remove(at);
                }
            }
        }
        let start = (i % 3 != 0).then(|| &starts[i / 2 % 2]);
        let mut payload = encode(&data, None, start);
        assert_eq!(
            decode(&payload, data.len(), None, start).as_deref(),
            Ok(&data[..])
        );
        let at = number(payload.len());
        payload[at] ^= 1 << number(8);
        if let Ok(out) = decode(&payload, data.len(), None, start) {
            assert_eq!(out.len(), data.len());
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Changes only with the payload's version.
#[test]
fn golden_payloads_decode() {
    for (hex, data) in [
        (GOLDEN_TEXT, text(8)),
        (GOLDEN_RECORDS, records(60)),
        (GOLDEN_NUMBERS, numbers(24, i16::to_be_bytes)),
    ] {
        assert_eq!(
            decode(&unhex(hex), data.len(), None, None).as_deref(),
            Ok(&data[..])
        );
        assert_eq!(encode(&data, None, None), unhex(hex));
    }
}

/// Two channels of noise that swings.
fn numbers(n: usize, order: fn(i16) -> [u8; 2]) -> Vec<u8> {
    let (mut state, mut past, mut out) = (1u32, [[0i32; 2]; 2], Vec::new());
    for i in 0..2 * n {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 22) as i32 - 512;
        let k = i % 2;
        let [before, last] = past[k];
        let next = (last * (20 + 6 * k as i32) - before * 14).div_euclid(16) + noise;
        past[k] = [last, next];
        out.extend(order(next as i16));
    }
    out
}

#[test]
fn numbers_are_predicted_from_their_past() {
    for order in [i16::to_le_bytes, i16::to_be_bytes] {
        let data = numbers(8000, order);
        let payload = encode(&data, None, None);
        assert!(
            !header::read(&payload, data.len())
                .unwrap()
                .plan
                .layout
                .is_empty()
        );
        // The noise alone has ten of the sixteen bits.
        let part = payload.len() * 1000 / data.len();
        assert!((625..690).contains(&part), "{part}");
        assert_eq!(
            decode(&payload, data.len(), None, None).as_deref(),
            Ok(&data[..])
        );
        // What was learnt goes on, wherever the next block begins.
        let start = Start::then(None, &data[..16_001], None);
        let more = &data[16_001..24_000];
        let payload = encode(more, None, Some(&start));
        assert!(payload.len() * 1000 / more.len() < 660);
        assert_eq!(
            decode(&payload, more.len(), None, Some(&start)).as_deref(),
            Ok(more)
        );
    }
}

/// Records of 12 bytes of five senders in turn, each with values of its own that hardly differ from the others'.
pub(super) fn senders(n: usize) -> Vec<u8> {
    let mut noise = noise(20 * n, 3).into_iter();
    let mut next = || noise.next().unwrap_or_default();
    let mut values = [[0u8; 4]; 5];
    values
        .iter_mut()
        .flatten()
        .for_each(|v| *v = 128 + next() % 3);
    let mut record = |i: usize| {
        let sender = &mut values[i % 5];
        if next() < 64 {
            let v = &mut sender[usize::from(next() % 4)];
            *v = 128 + next() % 3;
        }
        let (n, [a, b, c, d]) = (i as u32, *sender);
        [0x40, n as u8, a, 0, b, 3, c, 7, d, (n / 5) as u8, 0, 0]
    };
    (0..n).flat_map(&mut record).collect()
}

#[test]
fn the_other_record_length_is_taken_where_it_pays() {
    let data = senders(4000);
    let (likelier, other) = Plan::candidates(&data, false, Effort::Usual);
    let other = other.expect("another one");
    assert_eq!(likelier, Plan::find(&data, false));
    let form = Form {
        data: &data,
        grid: None,
    };
    let sizes = [likelier, other].map(|plan| {
        form.encode(&plan.narrowed(&data, Effort::Usual), None, None)
            .size()
    });
    assert!(sizes[1] < sizes[0], "{likelier:?} {other:?} {sizes:?}");
    let payload = encode(&data, None, None);
    assert_eq!(payload.len(), sizes[1]);
    assert_eq!(
        header::read(&payload, data.len()).unwrap().plan.stride,
        other.stride
    );
    // The state goes on with the records of the payload, also where nothing is at hand.
    let more = &senders(5000)[data.len()..];
    let writer = Start::then(None, &data, Some(&payload));
    let coded = encode(more, None, Some(&writer));
    let reader = std::thread::scope(|s| {
        s.spawn(|| Start::then(None, &data, Some(&payload)))
            .join()
            .unwrap()
    });
    assert_eq!(
        decode(&coded, more.len(), None, Some(&reader)).as_deref(),
        Ok(more)
    );
    let found = Start::then(None, &data, None);
    assert_eq!(
        decode(&coded, more.len(), None, Some(&found)),
        Err(NeuralError::Start)
    );
}

/// A block from a state of two steps; the states themselves must never change, see [`Start::then`].
fn golden_started() -> (Start, Vec<u8>) {
    let all = records(1700);
    let first = Start::then(None, &all[..5400], None);
    (
        Start::then(Some(&first), &all[5400..9700], None),
        all[9700..10_100].to_vec(),
    )
}

#[test]
fn golden_payloads_from_a_start_state_decode() {
    let (start, data) = golden_started();
    let payload = unhex(GOLDEN_STARTED);
    let back = decode(&payload, data.len(), None, Some(&start));
    assert_eq!(back.as_deref(), Ok(&data[..]));
    assert_eq!(encode(&data, None, Some(&start)), payload);
}

const GOLDEN_STARTED: &str =
    "140006000071ed65065a583bcd812086ebfb4fe52b6bac8f18cc743f63119d79ff9d44";
const GOLDEN_TEXT: &str =
    "120022cd827ebee114c094a134d912b8735deea02630d7ecf85ba69793be88903b3a3e2564cae4619414150220";
const GOLDEN_NUMBERS: &str = "10080403000200020188f2538fb00f3b0d16893e5ca4778f973a55de7717e53821beeba72a04e7a4cab9ee9c714a8c3a5b48dc86db8f480747460db81dc31fadb8f9ae86ee8246493cf36ecf4df2ee63";
const GOLDEN_RECORDS: &str = "100006ff9eb7a71fee08d7a244095d57b7cc515a1daae0aa18e540f80093111110c3bece38077565221e0d57ce99ff5c820e29e69a6ab5e653";

/// Blocks most of which is coded directly, cold and after a state.
fn golden_noise() -> [Vec<u8>; 3] {
    let numbers = numbers(4000, i16::to_le_bytes);
    let start = Start::then(None, &numbers[..10_000], None);
    [
        encode(&noise(8000, 8), None, None),
        encode(&numbers, None, None),
        encode(&numbers[10_000..], None, Some(&start)),
    ]
}

#[test]
fn golden_payloads_of_noise_stay() {
    let sums = golden_noise().map(|payload| crc32c::crc32c(&payload));
    assert_eq!(sums, GOLDEN_NOISE);
}

const GOLDEN_NOISE: [u32; 3] = [3_304_228_107, 4_168_419_274, 2_478_014_515];

/// Long runs of one byte, in which guesses end up changing nothing, and what breaks them: cold in one lane and in two, and from a state.
fn golden_runs(byte: u8) -> [Vec<u8>; 3] {
    let noise = |len, bits| -> Vec<u8> {
        let mut x = 1u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> (32 - bits)) as u8
        };
        (0..len).map(|_| next()).collect()
    };
    let mut data = Vec::new();
    for n in 0..9 {
        let odd = |i| n % 3 == 2 && i % 5000 == 4999;
        data.extend((0..4000 + 900 * n).map(|i| byte ^ u8::from(odd(i))));
        data.extend(noise(40 * n, 4));
    }
    let two_lanes = [&data[..], &noise(60_000, 8), &data].concat();
    let start = Start::then(None, &data[..20_000], None);
    [
        (&data[..], None),
        (&two_lanes, None),
        (&data[20_000..], Some(&start)),
    ]
    .map(|(data, start)| {
        let payload = encode(data, None, start);
        assert!(decode(&payload, data.len(), None, start).unwrap() == data);
        payload
    })
}

#[test]
fn golden_payloads_of_runs_stay() {
    for (byte, lanes, golden) in [
        (0, [1, 2, 1], [223_536_932, 1_509_881_097, 2_276_807_364]),
        (b'x', [1, 2, 1], [685_747_201, 3_078_504_182, 4_183_767_164]),
    ] {
        let payloads = golden_runs(byte);
        assert_eq!(payloads.each_ref().map(|p| 1 + (p[1] >> 4)), lanes);
        assert_eq!(payloads.map(|p| crc32c::crc32c(&p)), golden);
    }
}

#[test]
#[ignore = "prints the golden payloads"]
fn print_golden_payloads() {
    let (start, data) = golden_started();
    let started = encode(&data, None, Some(&start));
    let cold = [text(8), records(60), numbers(24, i16::to_be_bytes)];
    let cold = cold.map(|data| encode(&data, None, None));
    for payload in [&cold[0], &cold[1], &cold[2], &started] {
        println!("{}", hex(payload));
    }
    println!("{:?}", golden_noise().map(|p| crc32c::crc32c(&p)));
}
