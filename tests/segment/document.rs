//! The worked examples of docs/FORMAT.md are segments, and are what this program writes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use vortex_fs::segment::{Form, MemStorage, SealedWriter, Segment};

use crate::support::{BS, content, of, put, raw};

/// The bytes of the dump in the fenced block that begins with "```hexdump NAME".
fn from_document(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md");
    let text = fs::read_to_string(path).unwrap();
    let fence = format!("```hexdump {name}\n");
    let (_, rest) = text
        .split_once(&fence)
        .expect("the document has the example");
    let (block, _) = rest.split_once("```").expect("the example ends");
    let mut bytes = Vec::new();
    for line in block.lines().filter(|line| *line != "*") {
        let mut words = line.split('|').next().unwrap().split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        assert!(offset >= bytes.len(), "offsets ascend: {line}");
        bytes.resize(offset, 0);
        bytes.extend(words.map(|w| u8::from_str_radix(w, 16).unwrap()));
    }
    bytes
}

/// A dump as the document shows it; a star stands for lines of zeros.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut zeros = false;
    for (at, line) in (0..).step_by(16).zip(bytes.chunks(16)) {
        if at > 0 && line == [0; 16] {
            if !zeros {
                out.push_str("*\n");
            }
            zeros = true;
            continue;
        }
        zeros = false;
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let text: String = line
            .iter()
            .map(|&b| {
                if (33..127).contains(&b) && b != b'|' {
                    b as char
                } else {
                    '.'
                }
            })
            .collect();
        writeln!(out, "{at:08x}  {:<47}  |{text}|", hex.join(" ")).unwrap();
    }
    writeln!(out, "{:08x}", bytes.len()).unwrap();
    out
}

fn sealed() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    let mut writer = SealedWriter::new(storage.clone(), 1 << 16).unwrap();
    writer.push(0, &raw(b"hello, segment\n")).unwrap();
    writer.finish(15).unwrap();
    storage.to_vec()
}

fn live() -> Vec<u8> {
    let storage = Arc::new(MemStorage::default());
    let mut segment = Segment::create(storage.clone(), BS).unwrap();
    put(&mut segment, 0, b"hi\n").unwrap();
    segment.set_logical_size(3).unwrap();
    segment.commit().unwrap();
    storage.to_vec()
}

#[test]
fn the_worked_examples_of_the_format_document_decode() {
    for (name, form, text, written) in [
        ("sealed", Form::Sealed, &b"hello, segment\n"[..], sealed()),
        ("live", Form::Live, b"hi\n", live()),
    ] {
        let bytes = from_document(name);
        assert!(
            bytes == written,
            "the example must read\n{}",
            dump(&written)
        );
        let segment = Segment::open(Arc::new(MemStorage::new(bytes))).unwrap();
        assert_eq!(segment.form(), form);
        assert_eq!(content(&segment).unwrap(), of(text));
    }
}
