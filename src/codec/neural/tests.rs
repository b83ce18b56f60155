use super::*;

/// Deterministic noise.
fn noise(n: usize, seed: u64) -> Vec<u8> {
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

fn records(n: usize) -> Vec<u8> {
    (0..n as u32)
        .flat_map(|i| {
            [
                i as u8,
                (i >> 8) as u8,
                17,
                (i * i >> 9) as u8,
                (i / 7) as u8,
                0,
            ]
        })
        .collect()
}

fn text(n: usize) -> Vec<u8> {
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

fn round_trip(data: &[u8]) -> usize {
    let payload = encode(data, None);
    assert_eq!(decode(&payload, data.len(), None).as_deref(), Ok(data));
    payload.len()
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

#[test]
fn noise_costs_next_to_nothing_more() {
    let data = noise(65536, 3);
    assert!(round_trip(&data) < data.len() + data.len() / 50);
}

#[test]
fn damage_never_panics() {
    let data = records(50);
    let payload = encode(&data, None);
    for i in 0..payload.len() {
        let _ = decode(&payload[..i], data.len(), None);
        for flip in [1u8, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut bad = payload.clone();
            bad[i] ^= flip;
            if let Ok(out) = decode(&bad, data.len(), None) {
                assert_eq!(out.len(), data.len());
            }
        }
    }
    let mut long = payload.clone();
    long.extend_from_slice(&[1; 16]);
    assert_eq!(decode(&long, data.len(), None), Err(NeuralError::Trailing));
}

#[test]
fn threads_agree() {
    let data = records(3000);
    let expected = encode(&data, None);
    let all: Vec<_> = (0..4)
        .map(|i| {
            let data = data.clone();
            std::thread::spawn(move || {
                let _ = encode(&noise(1000 * i, 9), None);
                encode(&data, None)
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
    round_trip(&records(170_000)[..1 << 20]);
}
