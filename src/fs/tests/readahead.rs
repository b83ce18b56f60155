//! Read-ahead: who reads on finds the next blocks decoded, and the next files fetched; who jumps about does not make work.

use std::time::{Duration, Instant};

use super::*;

const BLOCKS: usize = 12;

/// A file whose blocks are neural, mounted again with nothing in the cache.
fn packed() -> (Mounted, Vec<u8>) {
    let m = Mounted::new();
    let content: Vec<u8> = (0..)
        .flat_map(|i: u32| format!("{i},{},{}\n", i * i % 977, i % 7).into_bytes())
        .take(BLOCKS * BLOCK)
        .collect();
    m.put("a", &content);
    starts::pack(&m, "a", 0);
    (m.again(true), content)
}

fn misses(m: &Mounted) -> u64 {
    m.fs.cache.stats().misses
}

/// Waits until `n` blocks were decoded.
fn wait_for(m: &Mounted, n: u64) {
    let begun = Instant::now();
    while misses(m) < n {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", misses(m));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_sequential_reader_finds_the_next_blocks_decoded() {
    let (m, content) = packed();
    let jobs = m.fs.options().jobs as u64;
    let fh = m.open("a", RDONLY);
    assert!(m.fs.read(fh, 0, 1000).unwrap() == content[..1000]);
    assert_eq!(misses(&m), 1, "one read says nothing about the next");
    assert!(m.fs.read(fh, 1000, 1000).unwrap() == content[1000..2000]);
    wait_for(&m, 1 + jobs.min(BLOCKS as u64 - 1));
    let mut all = Vec::new();
    while all.len() < content.len() {
        all.extend(m.fs.read(fh, all.len() as u64, 5000).unwrap());
    }
    assert!(all == content);
    wait_for(&m, BLOCKS as u64);
    assert_eq!(misses(&m), BLOCKS as u64, "every block is decoded once");
}

#[test]
fn the_blocks_of_one_long_read_are_decoded_by_several_threads_once_each() {
    let (m, content) = packed();
    let fh = m.open("a", RDONLY);
    assert!(m.fs.read(fh, 0, content.len()).unwrap() == content);
    assert_eq!(misses(&m), BLOCKS as u64);
}

#[test]
fn random_reads_decode_what_they_touch() {
    let (m, content) = packed();
    let fh = m.open("a", RDONLY);
    for block in [7, 2, 9, 4] {
        let at = block * BLOCK + 100;
        assert!(m.fs.read(fh, at as u64, 50).unwrap() == content[at..at + 50]);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(misses(&m), 4);
}

#[test]
fn blocks_that_are_damaged_fail_the_read_that_wants_them_and_no_other() {
    use std::os::unix::fs::FileExt;

    use crate::segment::Segment;
    let (m, content) = packed();
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(m.backing("a.vortex"))
        .unwrap();
    let at = Segment::open(Arc::new(file.try_clone().unwrap()))
        .unwrap()
        .entry(3)
        .unwrap()
        .unwrap()
        .offset;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + 9).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at + 9).unwrap();
    let fh = m.open("a", RDONLY);
    for block in 0..BLOCKS {
        let from = block * BLOCK;
        let read = m.fs.read(fh, from as u64, BLOCK);
        if block == 3 {
            assert!(read.unwrap_err().is_damage());
        } else {
            assert!(read.unwrap() == content[from..from + BLOCK], "{block}");
        }
    }
}

/// The first page of a file is in the page cache.
fn is_fetched(path: &Path) -> bool {
    pages_in_memory(path).first() == Some(&true)
}

/// The last page of a file is in the page cache.
fn is_fetched_whole(path: &Path) -> bool {
    pages_in_memory(path).last() == Some(&true)
}

fn pages_in_memory(path: &Path) -> Vec<bool> {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: nobody changes the file.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    // SAFETY: only a question.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let mut pages = vec![0u8; map.len().div_ceil(page)];
    // SAFETY: the map begins at a page, and there is a byte for each of its pages.
    let rc = unsafe {
        libc::mincore(
            map.as_ptr().cast_mut().cast(),
            map.len(),
            pages.as_mut_ptr(),
        )
    };
    assert_eq!(rc, 0);
    pages.iter().map(|page| page & 1 == 1).collect()
}

/// A hundred files, mounted again with nothing in any cache; none if the system does not let go of what it has.
fn many_files(access: Access) -> Option<Mounted> {
    let m = Mounted::new();
    for i in 0..100 {
        m.put(&format!("{i:02}"), &data(5000, i));
    }
    mounted_cold(m, access, ".vortex")
}

/// Mounts a hundred files again with nothing in any cache; none if the system does not let go of what it has.
fn mounted_cold(m: Mounted, access: Access, suffix: &str) -> Option<Mounted> {
    let m = m.again_as(true, access);
    for i in 0..100 {
        let path = m.backing(&format!("{i:02}{suffix}"));
        let file = std::fs::File::open(&path).unwrap();
        file.sync_all().unwrap();
        let begun = Instant::now();
        loop {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            // Pages that the system is busy with stay for the moment.
            if !pages_in_memory(&path).contains(&true) {
                break;
            }
            if begun.elapsed() > Duration::from_secs(5) {
                println!("skipped: {} stays in memory", path.display());
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    // Some file systems keep pages of their own, or fetch nothing unasked.
    let path = m.backing(&format!("99{suffix}"));
    let file = std::fs::File::open(&path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed).unwrap();
    let begun = Instant::now();
    while !is_fetched(&path) {
        if begun.elapsed() > Duration::from_secs(5) {
            println!("skipped: {} is not fetched", path.display());
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(m)
}

/// Opens a file, and waits until the step to it was taken: the next one would be left out meanwhile.
fn open_in_step(m: &Mounted, name: &str) -> Fh {
    let fh = m.open(name, RDONLY);
    wait_until(|| !m.fs.readahead.is_following());
    fh
}

#[test]
fn who_opens_one_file_after_another_finds_the_next_ones_fetched() {
    for access in [Access::Write, Access::Read] {
        let Some(m) = many_files(access) else { return };
        let fetched = |i: u32| is_fetched(&m.backing(&format!("{i:02}.vortex")));
        open_in_step(&m, "00");
        assert!(!fetched(2), "one file says nothing about the next");
        open_in_step(&m, "01");
        for i in 2..30 {
            wait_until(|| fetched(i));
            open_in_step(&m, &format!("{i:02}"));
        }
        wait_until(|| fetched(33));
        assert!(!fetched(70), "no further than a few");
    }
}

#[test]
fn who_opens_files_faster_than_they_are_fetched_finds_those_fetched_that_come_after() {
    let Some(m) = many_files(Access::Read) else {
        return;
    };
    // Most of these steps are left out. Whichever was taken, soon one of the next goes on from there.
    for i in 0..30 {
        m.open(&format!("{i:02}"), RDONLY);
    }
    let fetched = |i: u32| is_fetched(&m.backing(&format!("{i:02}.vortex")));
    let mut at = 29;
    while !fetched(at + 4) {
        at += 1;
        assert!(at < 50, "nothing was fetched");
        wait_until(|| !m.fs.readahead.is_following());
        m.open(&format!("{at:02}"), RDONLY);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!fetched(90), "no further than a few");
}

/// A hundred large files with the same content, mounted again with nothing in any cache; none if the system can not say what it
/// has there.
fn large_files(suffix: &str) -> Option<(Mounted, Vec<u8>)> {
    let (m, content) = (Mounted::new(), noise(400_000));
    for i in 0..100 {
        let name = format!("{i:02}");
        if suffix.is_empty() {
            std::fs::write(m.backing(&name), &content).unwrap();
        } else {
            m.put(&name, &content);
        }
    }
    let m = mounted_cold(m, Access::Read, suffix)?;
    // This one was fetched.
    let path = m.backing(&format!("99{suffix}"));
    let file = std::fs::File::open(&path).unwrap();
    assert!(file.metadata().unwrap().len() > 300_000, "it is large");
    let mut byte = [0];
    let into = &mut [std::io::IoSliceMut::new(&mut byte)];
    if rustix::io::preadv2(&file, into, 0, rustix::io::ReadWriteFlags::NOWAIT) != Ok(1) {
        println!("skipped: {} can not be asked", path.display());
        return None;
    }
    Some((m, content))
}

/// Goes through sixty files; how many of them were fetched before they were opened: their beginnings, and all of them.
fn go_through(m: &Mounted, suffix: &str, read: &[u8]) -> (u32, u32) {
    let (mut begun, mut whole) = (0, 0);
    for i in 0..60 {
        let name = format!("{i:02}");
        let path = m.backing(&format!("{name}{suffix}"));
        let since = Instant::now();
        while i > 1 && !is_fetched(&path) && since.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(2));
        }
        begun += u32::from(is_fetched(&path));
        whole += u32::from(is_fetched_whole(&path));
        let fh = open_in_step(m, &name);
        assert!(m.fs.read(fh, 0, read.len()).unwrap() == read);
        m.fs.release(fh).unwrap();
    }
    (begun, whole)
}

#[test]
fn who_reads_large_files_through_finds_the_next_ones_fetched_whole() {
    for suffix in ["", ".vortex"] {
        let Some((m, content)) = large_files(suffix) else {
            return;
        };
        let (begun, whole) = go_through(&m, suffix, &content);
        assert!(begun >= 40 && whole >= 25, "{begun} {whole} {suffix}");
    }
}

#[test]
fn who_reads_only_beginnings_has_no_more_fetched() {
    for suffix in ["", ".vortex"] {
        let Some((m, content)) = large_files(suffix) else {
            return;
        };
        let (begun, whole) = go_through(&m, suffix, &content[..1000]);
        assert!(begun >= 40 && whole == 0, "{begun} {whole} {suffix}");
    }
}

#[test]
fn a_file_that_was_packed_or_unpacked_meanwhile_is_fetched_all_the_same() {
    let Some(m) = many_files(Access::Read) else {
        return;
    };
    open_in_step(&m, "00");
    open_in_step(&m, "01");
    let fetched = |name: &str| is_fetched(&m.backing(name));
    wait_until(|| fetched("17.vortex"));
    // The listing is known by now, and says that it is a segment.
    std::fs::rename(m.backing("20.vortex"), m.backing("20")).unwrap();
    for i in 2..18 {
        open_in_step(&m, &format!("{i:02}"));
    }
    wait_until(|| fetched("19.vortex") && fetched("20"));
}

#[test]
fn who_packs_files_one_after_another_has_no_others_fetched() {
    let Some(m) = many_files(Access::Write) else {
        return;
    };
    for i in 0..3 {
        let snapshot = m.fs.snapshot(Path::new(&format!("{i:02}"))).unwrap();
        assert!(snapshot.is_segment());
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(200));
    for i in 3..99 {
        assert!(!is_fetched(&m.backing(&format!("{i:02}.vortex"))), "{i}");
    }
}

fn wait_until(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_goes_another_way_has_no_others_fetched() {
    let Some(m) = many_files(Access::Write) else {
        return;
    };
    let mut names: Vec<String> = std::fs::read_dir(m.dir.path())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    // Backwards by name and in the listing.
    let mut opened: Vec<String> = Vec::new();
    for name in names.iter().rev() {
        if opened.len() < 8 && opened.last().is_none_or(|last| name < last) {
            opened.push(name.clone());
            m.open(name.trim_end_matches(".vortex"), RDONLY);
        }
    }
    std::thread::sleep(Duration::from_millis(200));
    names.retain(|name| !opened.contains(name) && name != "99.vortex");
    assert!(names.len() > 50);
    for name in names {
        assert!(!is_fetched(&m.backing(&name)), "{name} after {opened:?}");
    }
}
