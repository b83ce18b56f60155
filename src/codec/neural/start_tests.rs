//! Tests of what a start state is made of, and that its making is free of work where this thread has just coded its last block.

use super::scratch;
use super::tests::{noise, records, senders, text};
use super::*;

#[test]
fn start_states_follow_each_other_however_they_are_made() {
    let all = [records(5000), text(300), noise(5000, 8)].concat();
    for sizes in [[9000, 10_000, 4096], [1, 4095, 17_000], [0, 9000, 1]] {
        let mut rest = &all[..];
        let (mut made, mut replayed): (Option<Start>, Option<Start>) = (None, None);
        for n in sizes {
            let (data, after) = rest.split_at(n);
            // Taken from the coder that has just run, and learnt again.
            let payload = encode(data, None, made.as_ref());
            let next = Start::then(made.as_ref(), data, None);
            let other = std::thread::scope(|s| {
                let then = s.spawn(|| Start::then(replayed.as_ref(), data, None));
                then.join().expect("no panic")
            });
            assert_eq!(
                encode(after, None, Some(&next)),
                encode(after, None, Some(&other))
            );
            assert_eq!(
                decode(&payload, n, None, made.as_ref()).as_deref(),
                Ok(data)
            );
            (made, replayed, rest) = (Some(next), Some(other), after);
        }
    }
}

#[test]
fn records_are_found_again_wherever_a_block_begins() {
    let all = records(12_000);
    let start = Start::then(None, &all[..24_000], None);
    let sizes: Vec<usize> = (0..6)
        .map(|shift| encode(&all[30_000 + shift..40_000 + shift], None, Some(&start)).len())
        .collect();
    let (least, most) = (sizes.iter().min(), sizes.iter().max());
    assert!(most.copied() < least.map(|n| n + n / 8 + 16), "{sizes:?}");
}

#[test]
fn a_state_goes_on_with_the_records_where_its_last_block_found_them() {
    let all = records(20_000);
    let first = Start::then(None, &all[..24_000], None);
    // Four bytes are missing: the next block's records begin elsewhere, and so do those after it.
    let (data, after) = all[24_004..].split_at(30_000);
    let payload = encode(data, None, Some(&first));
    let at_hand = Start::then(Some(&first), data, Some(&payload));
    scratch::forget_thread_memory();
    let again = Start::then(Some(&first), data, Some(&payload));
    let coded = encode(after, None, Some(&at_hand));
    assert_eq!(coded, encode(after, None, Some(&again)));
    encode(data, None, Some(&first));
    assert!(
        takes_over(Some(&first), data, &payload),
        "not learnt anew elsewhere"
    );
}

/// A state of a block whose records begin elsewhere than those before it, and what comes next; such states must never change, see
/// [`Start::then`].
fn golden_shifted() -> ([Start; 2], Vec<u8>) {
    let all = records(2000);
    let first = Start::then(None, &all[..5400], None);
    let data = &all[5404..9700];
    let payload = encode(data, None, Some(&first));
    scratch::forget_thread_memory();
    // The second one goes on with the records of the first.
    let states = [Some(&payload[..]), None].map(|p| Start::then(Some(&first), data, p));
    (states, all[9700..10_100].to_vec())
}

#[test]
fn a_golden_payload_from_a_state_with_shifted_records_decodes() {
    let ([start, unshifted], data) = golden_shifted();
    let payload = encode(&data, None, Some(&start));
    assert_ne!(encode(&data, None, Some(&unshifted)), payload);
    let hex: String = payload.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN_SHIFTED);
    let back = decode(&payload, data.len(), None, Some(&start));
    assert_eq!(back.as_deref(), Ok(&data[..]));
}

const GOLDEN_SHIFTED: &str =
    "1400060400857be57c9a0f9170ee00853d9df85ef27f3fa6582e1ea0b8d6cfebbb43675b8b";

#[test]
fn what_a_state_needs_is_at_hand_whatever_else_was_tried() {
    let others = [noise(6000, 3), records(2000), text(100)];
    for data in [senders(4000), records(3000), text(300)] {
        let payload = code(&data, None, None, Effort::Usual).into_payload();
        assert!(takes_over(None, &data, &payload), "of two plans either");
        let start = Start::then(None, &data, None);
        let kept = code(&others[1], None, Some(&start), Effort::Usual);
        for other in &others {
            encode(other, None, None);
            sample_lens(other, &start);
        }
        let payload = kept.into_payload();
        assert!(takes_over(Some(&start), &others[1], &payload));
    }
    scratch::forget_thread_memory();
    assert_eq!(scratch::thread_memory(), 0);
}

/// Whether the state after `data` takes over a predictor of this thread.
fn takes_over(before: Option<&Start>, data: &[u8], payload: &[u8]) -> bool {
    let memory = scratch::thread_memory();
    let start = Start::then(before, data, Some(payload));
    scratch::thread_memory() + start.memory() / 2 < memory
}
