//! Damaged segments: what fails, what does not.

use std::os::unix::fs::FileExt;

use super::*;
use crate::segment::{BlockEntry, SealedWriter, Segment};

/// The entries of a committed segment.
fn entries(m: &Mounted, name: &str) -> Vec<BlockEntry> {
    let file = std::fs::File::open(m.backing(name)).unwrap();
    let segment = Segment::open(Arc::new(file)).unwrap();
    segment.entries().map(|e| e.unwrap().1).collect()
}

fn flip(m: &Mounted, name: &str, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(m.backing(name))
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn eio<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert_eq!(error.errno(), rustix::io::Errno::IO.raw_os_error());
}

/// What another process would read.
fn read_anew(m: &Mounted, path: &str) -> Result<Vec<u8>> {
    let archive = Archive::open(m.dir.path(), Access::Read).unwrap();
    let fs = Fs::new(archive, options()).unwrap();
    let fh = fs.open(fs.resolve(Path::new(path))?, RDONLY)?;
    fs.read(fh, 0, 1 << 20)
}

#[test]
fn damaged_block_fails_only_reads_that_touch_it() {
    let m = Mounted::new();
    let content = data(4 * BLOCK, 1);
    m.put("a", &content);
    let m = m.again(true);
    flip(&m, "a.vortex", entries(&m, "a.vortex")[1].offset + 9);
    let fh = m.open("a", RDWR);
    let block = BLOCK as u64;
    eio(m.fs.read(fh, block, 1));
    eio(m.fs.read(fh, 0, 4 * BLOCK));
    assert!(m.fs.read(fh, 0, BLOCK).unwrap() == content[..BLOCK]);
    assert!(m.fs.read(fh, 2 * block, 2 * BLOCK).unwrap() == content[2 * BLOCK..]);
    eio(m.fs.write(fh, block + 5, b"part of the damaged block"));
    m.fs.write(fh, block, &data(BLOCK, 9)).unwrap();
    assert!(
        m.fs.read(fh, block, BLOCK).unwrap() == data(BLOCK, 9),
        "overwritten as a whole it is well again"
    );
    m.fs.fsync(fh, false).unwrap();
}

#[test]
fn a_block_that_a_repair_marked_as_lost_fails_reads_until_it_is_overwritten() {
    let m = Mounted::new();
    let content = data(2 * BLOCK, 1);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(m.backing("a.vortex"))
        .unwrap();
    let mut writer = SealedWriter::new(Arc::new(file), BLOCK as u32).unwrap();
    writer
        .push(0, &crate::codec::encode_fresh(&content[..BLOCK]))
        .unwrap();
    writer.push_lost(1, BLOCK as u32).unwrap();
    writer.finish(2 * BLOCK as u64).unwrap();
    let block = BLOCK as u64;
    let fh = m.open("a", RDWR);
    eio(m.fs.read(fh, block, 1));
    eio(m.fs.write(fh, block + 5, b"part of the lost block"));
    assert!(m.fs.read(fh, 0, BLOCK).unwrap() == content[..BLOCK]);
    m.fs.write(fh, 0, b"other").unwrap();
    m.fs.fsync(fh, false).unwrap();
    eio(m.fs.read(fh, block, 1));
    m.fs.write(fh, block, &content[BLOCK..]).unwrap();
    m.fs.fsync(fh, false).unwrap();
    let again = read_anew(&m, "a").unwrap();
    assert!(again[..5] == *b"other" && again[5..] == content[5..]);
}

#[test]
fn damaged_header_is_listed_and_fails_to_open() {
    let m = Mounted::new();
    m.put("a", &data(BLOCK, 1));
    m.put("b", b"sound");
    let m = m.again(true);
    flip(&m, "a.vortex", 1);
    assert_eq!(m.names(""), ["a", "b"]);
    assert_eq!(m.attr("a").size, 0);
    eio(m.fs.open(m.node("a").unwrap(), RDONLY));
    eio(m.fs.open(m.node("a").unwrap(), RDWR));
    assert_eq!(m.get("b").unwrap(), b"sound");
    m.fs.unlink(NodeId::ROOT, os("a")).unwrap();
}

#[test]
fn a_packed_file_whose_beginning_became_zeros_is_no_empty_file() {
    let m = Mounted::new();
    m.put("a", &data(3 * BLOCK, 1));
    m.pack("a");
    let m = m.again(true);
    let mut how = std::fs::File::options();
    let file = how.write(true).open(m.backing("a.vortex")).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(m.names(""), ["a"]);
    eio(m.get("a"));
    eio(m.fs.open(m.node("a").unwrap(), RDWR));
}

#[test]
fn no_flipped_byte_gives_wrong_bytes() {
    let m = Mounted::new();
    let content = data(2 * BLOCK + 77, 1);
    m.put("a", &content);
    let m = m.again(true);
    let len = m.backing("a.vortex").metadata().unwrap().len();
    let step = usize::try_from(len / 200).unwrap().max(1);
    let (mut failed, mut same) = (0, 0);
    for at in (0..len).step_by(step) {
        flip(&m, "a.vortex", at);
        match read_anew(&m, "a") {
            Ok(read) => {
                assert!(read == content, "byte {at}");
                same += 1;
            }
            Err(error) => {
                assert_eq!(
                    error.errno(),
                    rustix::io::Errno::IO.raw_os_error(),
                    "byte {at}"
                );
                failed += 1;
            }
        }
        flip(&m, "a.vortex", at);
    }
    assert!(failed > same, "{failed} failed, {same} did not");
}

#[test]
fn not_a_segment_is_an_error_and_not_content() {
    let m = Mounted::new();
    std::fs::write(m.backing("a.vortex"), b"these bytes are no segment at all").unwrap();
    eio(m.get("a"));
    assert_eq!(m.names(""), ["a"]);
}
