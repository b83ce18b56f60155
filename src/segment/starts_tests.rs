use super::*;
use crate::segment::MIN_BLOCK;
use proptest::prelude::*;

fn block(parent: u16, from_parent: bool, offset: u64) -> StartEntry {
    StartEntry::Block {
        parent,
        payload: BlockEntry {
            offset,
            len: 5,
            decoded_len: 9,
            visible_len: 9,
            codec: CodecId::Neural,
            model: None,
            start: if from_parent { parent } else { 0 },
            payload_crc: 1,
            decoded_crc: 2,
        },
    }
}

const MODELS: [ModelId; 2] = [ModelId([1; 16]), ModelId([2; 16])];

/// The same, needing a model.
fn taught(entry: StartEntry, model: ModelId) -> StartEntry {
    match entry {
        StartEntry::Block { parent, payload } => StartEntry::Block {
            parent,
            payload: BlockEntry {
                model: Some(model),
                ..payload
            },
        },
        StartEntry::Primer(_) => entry,
    }
}

fn encode(entries: Vec<StartEntry>) -> Vec<u8> {
    let mut raw = Vec::new();
    Starts::new(entries).encode(MIN_BLOCK, &MODELS, &mut raw);
    raw
}

fn decode(raw: &[u8]) -> Result<Starts, &'static str> {
    let mut at = Cursor::new(raw);
    let starts = Starts::decode(&mut at, MIN_BLOCK, &MODELS)?;
    if at.is_empty() {
        Ok(starts)
    } else {
        Err("bytes are left over")
    }
}

fn chain(len: u8) -> Vec<StartEntry> {
    (0..u16::from(len)).map(|n| block(n, n > 0, 40)).collect()
}

#[test]
fn tables_read_back_and_every_shortening_is_refused() {
    let entries = vec![
        StartEntry::Primer(PrimerId([7; 16])),
        block(0, false, 40),
        block(2, true, 1 << 40),
        block(3, false, 50),
        block(2, true, 60),
        taught(block(0, false, 70), MODELS[1]),
        block(6, true, 80),
    ];
    let raw = encode(entries.clone());
    assert_eq!(decode(&raw).unwrap().entries(), entries);
    let mut passed = Cursor::new(&raw);
    assert!(Starts::skip(&mut passed, MODELS.len()) && passed.is_empty());
    assert!(!Starts::skip(&mut Cursor::new(&raw), 1));
    let taught = encode(entries[5..6].to_vec());
    assert!(Starts::may_begin(&taught, 2) && !Starts::may_begin(&taught, 1));
    for len in 0..raw.len() {
        assert!(decode(&raw[..len]).is_err(), "cut to {len}");
    }
}

#[test]
fn hostile_tables_are_refused() {
    let bad: Vec<Vec<StartEntry>> = vec![
        vec![block(1, true, 40)],
        vec![block(0, false, 40), block(2, true, 60)],
        vec![block(0, false, 40), taught(block(1, true, 60), MODELS[0])],
        vec![block(0, false, 40), taught(block(1, false, 60), MODELS[0])],
        vec![block(0, false, 40), block(3, false, 60), block(2, true, 80)],
        chain(MAX_START_DEPTH + 1),
    ];
    for entries in bad {
        assert!(decode(&encode(entries.clone())).is_err(), "{entries:?}");
    }
    assert!(decode(&encode(chain(MAX_START_DEPTH))).is_ok());
    for (decoded_len, allowed) in [(1u32 << 19, 2), (1 << 20, 1)] {
        let long = |n: u16| {
            let mut entry = block(n, n > 0, 40);
            if let StartEntry::Block { payload, .. } = &mut entry {
                (payload.decoded_len, payload.visible_len) = (decoded_len, decoded_len);
            }
            entry
        };
        let mut table = Builder::default();
        let results: Vec<_> = (0..4).map(|n| table.push(long(n)).is_ok()).collect();
        assert_eq!(results, [true, allowed > 1, false, false]);
    }
    let mut after_primer = vec![StartEntry::Primer(PrimerId([7; 16]))];
    assert!(decode(&encode(after_primer.clone())).is_ok());
    after_primer.push(block(1, true, 40));
    assert!(decode(&encode(after_primer)).is_err());
    for raw in [
        &[0xff, 0xff, 0x04][..],
        &[1, 3],
        &[1, 0x42, 0, 80, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0x80, 0, 80, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0x22, 0, 0, 80, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[1, 0x22, 3, 0, 80, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert!(decode(raw).is_err(), "{raw:?}");
    }
    for (offset, len, decoded_len) in [
        (u64::MAX - 2, 5, 9),
        (1 << 63, 5, 9),
        (40, 1 << 20, 9),
        (40, 5, 0),
        (40, 5, MIN_BLOCK + 1),
    ] {
        let mut entry = block(0, false, offset);
        if let StartEntry::Block { payload, .. } = &mut entry {
            (payload.len, payload.decoded_len) = (len, decoded_len);
        }
        let mut raw = encode(vec![entry]);
        if decoded_len > MIN_BLOCK {
            // Saturates when it is written, so write it by hand.
            raw = vec![1, 2, 0, 80, 5];
            put_varint(&mut raw, u64::from(u32::MAX));
            raw.extend([0; 8]);
        }
        assert!(decode(&raw).is_err(), "{offset} {len} {decoded_len}");
    }
}

#[test]
fn a_block_leads_to_a_state_only_if_the_table_names_the_same_payload() {
    let table = Starts::new(vec![block(0, false, 40), block(1, true, 60)]);
    let entry = |at: usize| match &table.entries()[at] {
        StartEntry::Block { payload, .. } => *payload,
        StartEntry::Primer(_) => unreachable!(),
    };
    let cut = BlockEntry {
        visible_len: 1,
        ..entry(1)
    };
    assert_eq!(table.made_by(&entry(0)), Some(1));
    assert_eq!(table.made_by(&entry(1)), Some(2));
    assert_eq!(table.made_by(&cut), Some(2));
    let other = [
        BlockEntry {
            decoded_crc: 9,
            ..entry(1)
        },
        BlockEntry {
            codec: CodecId::Raw,
            start: 0,
            ..entry(0)
        },
        BlockEntry {
            start: 0,
            ..entry(1)
        },
        BlockEntry {
            offset: 41,
            ..entry(0)
        },
    ];
    for entry in other {
        assert_eq!(table.made_by(&entry), None, "{entry:?}");
    }
}

proptest! {
    #[test]
    fn whatever_decodes_is_sound(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(starts) = decode(&raw) {
            let mut again = Vec::new();
            starts.encode(MIN_BLOCK, &MODELS, &mut again);
            prop_assert_eq!(again, raw);
            for (at, entry) in starts.entries().iter().enumerate() {
                if let StartEntry::Block { parent, payload } = entry {
                    prop_assert!(usize::from(*parent) <= at && payload.fault(MIN_BLOCK).is_none());
                }
            }
        }
    }
}
