//! Blocks with a network, and blocks that may take their time.

use super::tests::records;
use super::*;

#[test]
fn lines_of_equal_width_are_records_where_time_does_not_matter() {
    let mut x = 1u32;
    let mut digit = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) % 10
    };
    let mut level = [5000; 6];
    let lines = (0..700).map(|_| {
        let fields = level.each_mut().map(|level| {
            *level = *level + digit() - 4;
            format!("{level:9}")
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
fn dense_blocks_have_one_lane_and_are_smaller() {
    let data = records(6000);
    let payload = |effort| code(&data, None, None, effort).into_payload();
    let (usual, dense) = (payload(Effort::Usual), payload(Effort::Dense));
    let lanes = |payload: &[u8]| header::read(payload, data.len()).unwrap().plan.lanes;
    assert_eq!((lanes(&usual), lanes(&dense)), (2, 1));
    assert!(dense.len() < usual.len(), "{} {}", dense.len(), usual.len());
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
