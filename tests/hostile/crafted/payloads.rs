//! Payloads: lanes, strides, flags, lengths, and frames that are larger than they say.

use vortex_fs::codec::{CodecId, Effort, Means, Start, decode, encode_after};

use super::refused;

const MIB: usize = 1 << 20;

fn noise(len: usize) -> Vec<u8> {
    let mut x = 88_172_645_463_325_252_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn neural(header: &[u8], bits: &[u8]) -> Vec<u8> {
    [header, bits].concat()
}

#[test]
fn impossible_plans_are_refused() {
    for (what, header) in [
        ("unknown version", &[0x20, 0, 0][..]),
        ("unknown flag", &[0x18, 0, 0]),
        ("sixteen lanes", &[0x10, 0xf0, 0]),
        ("three lanes without a model", &[0x10, 0x20, 0]),
        ("five lanes with a model", &[0x11, 0x40, 0]),
        ("a model that is not given", &[0x11, 0, 0]),
        ("a start state that is not given", &[0x14, 0, 0]),
        ("a phase beyond the stride", &[0x14, 0, 4, 4, 0]),
        ("a phase cut short", &[0x14, 0, 4, 1]),
        ("a header cut short", &[0x10, 0]),
        ("nothing", &[]),
    ] {
        for len in [1, 65_536, MIB] {
            let payload = neural(header, &noise(64));
            let payload = if header.len() < 3 { header } else { &payload };
            refused(what, || decode(CodecId::Neural, None, payload, len, None));
        }
    }
    let other = Start::then(None, &b"0123456789abcdef".repeat(64), None);
    let lines = (0..400u32).map(|n| format!("{n},{}\n", n * n % 977));
    let data = lines.collect::<String>().into_bytes();
    let means = Means {
        effort: Effort::Dense,
        ..Means::default()
    };
    let dense = encode_after(None, &data, means, None);
    let wide = Start::then(None, &data, Some(&dense.payload));
    assert_eq!((dense.codec, dense.payload[1] >> 7), (CodecId::Neural, 1));
    let [flags, shape, low, ..] = dense.payload[..] else {
        panic!("it has a header");
    };
    for (shape, other) in [(shape, false), (shape & 7, true)] {
        let error = refused("a wide start state of a block that is, or is not", || {
            let payload = neural(&[flags | 4, shape, low, 0, 0], &noise(64));
            decode(CodecId::Neural, None, &payload, MIB, Some(&wide))
        });
        assert_eq!(error.contains("another start state"), other, "{error}");
    }
    let error = refused("two lanes of a wide block", || {
        let payload = neural(&[0x10, 0x90, 0], &noise(64));
        decode(CodecId::Neural, None, &payload, MIB, None)
    });
    assert!(error.contains("impossible plan"), "{error}");
    refused("a start state with another stride", || {
        decode(
            CodecId::Neural,
            None,
            &neural(&[0x14, 3, 0xff, 1, 0], &noise(64)),
            MIB,
            Some(&other),
        )
    });
}

#[test]
fn a_payload_that_is_cut_short_costs_no_more_than_its_own_length() {
    for stride in [0u16, 1, 2, 255, 1023, 2047] {
        for (flags, shape) in [(0x10, 0x10), (0x12, 0x10), (0x10, 0x80), (0x12, 0x80)] {
            for bits in [0, 1, 7, 64, 500] {
                let header = [flags, shape | (stride >> 8) as u8, stride as u8];
                let payload = neural(&header, &noise(bits));
                refused(&format!("{bits} bytes for 1 MiB, stride {stride}"), || {
                    decode(CodecId::Neural, None, &payload, MIB, None)
                });
            }
        }
    }
}

#[test]
fn bytes_left_over_are_refused() {
    let long = neural(&[0x10, 0, 0], &noise(5000));
    refused("5000 bytes for one", || {
        decode(CodecId::Neural, None, &long, 1, None)
    });
    refused("5000 bytes for none", || {
        decode(CodecId::Neural, None, &long, 0, None)
    });
    refused("raw of another length", || {
        decode(CodecId::Raw, None, &long, MIB, None)
    });
}

#[test]
fn frames_larger_than_they_say_are_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 * MIB], 19).expect("compressed");
    refused("64 MiB of zeros", || {
        decode(CodecId::Zstd, None, &bomb, MIB, None)
    });
    refused("64 MiB of zeros for a byte", || {
        decode(CodecId::Zstd, None, &bomb, 1, None)
    });
    // Magic, no content size, window of 2^31 bytes and more, then a block of one repeated byte.
    for window in [0x50, 0xa8, 0xff] {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, window, 0xfb, 0xff, 0x0f, 0x41];
        refused("a huge window", || {
            decode(CodecId::Zstd, None, &frame, MIB, None)
        });
    }
    // A content size of 2^64 - 1.
    let frame = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0][..], &[0xff; 8], &[1, 0, 0]].concat();
    refused("a huge content size", || {
        decode(CodecId::Zstd, None, &frame, MIB, None)
    });
    refused("no frame", || {
        decode(CodecId::Zstd, None, &noise(500), MIB, None)
    });
}
