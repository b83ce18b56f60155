//! The background scrub: finds damage, says so once, and goes on where it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use vortex_fs::pack::client;
use vortex_fs::pack::status::ScrubStatus;
use vortex_fs::segment::Segment;

use crate::support::*;

const BLOCK: usize = 1 << 16;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn status(archive: &Archive) -> ScrubStatus {
    let status = client::status(&archive.backing()).expect("a daemon");
    status.scrub.expect("a scrub")
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Damages a byte of a block's payload.
fn spoil(archive: &Archive, name: &str, block: u64) {
    let path = archive.backing().join(name);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let segment = Segment::open(std::sync::Arc::new(file.try_clone().unwrap())).unwrap();
    let at = segment.entry(block).unwrap().unwrap().offset + 7;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// Lines of the daemon's log that the scrub wrote about a file.
fn said(archive: &Archive, name: &str) -> Vec<String> {
    let log = fs::read_to_string(archive.backing().join(".vortex/log")).unwrap_or_default();
    let about = format!("scrub: {name}");
    log.lines()
        .filter(|line| line.contains(&about))
        .map(str::to_owned)
        .collect()
}

/// Waits for a pass that began after this call.
fn pass(archive: &Archive) {
    let ends = || {
        let log = fs::read_to_string(archive.backing().join(".vortex/log")).unwrap();
        log.matches(" segments, ").count()
    };
    let before = ends();
    until("two passes end", || ends() >= before + 2);
}

#[test]
fn damage_is_logged_once_and_shown_until_it_is_gone() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let content = noise(3 * BLOCK, 1);
    fs::write(archive.at("a"), &content).unwrap();
    fs::write(archive.at("b"), &content).unwrap();
    archive.umount();
    spoil(&archive, "a.vortex", 1);
    let model = format!(".vortex/models/{}.safetensors", "5".repeat(32));
    fs::write(archive.backing().join(&model), "no model").unwrap();
    let often = ["--scrub", "0.000001"];
    archive.mount(&often);
    pass(&archive);
    let lines = said(&archive, "a.vortex");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("bytes 65536 to 131071"), "{lines:?}");
    assert!(said(&archive, "b.vortex").is_empty());
    let now = status(&archive);
    // The model's second copy is missing, too.
    assert_eq!((now.files, now.damaged), (2, 3), "{now:?}");
    assert_eq!(said(&archive, &model).len(), 1);
    fs::remove_file(archive.backing().join(&model)).unwrap();
    assert!(now.finished.is_some());
    // Only reads of that block fail.
    let file = fs::File::open(archive.at("a")).unwrap();
    let mut block = vec![0; BLOCK];
    file.read_exact_at(&mut block, 0).unwrap();
    assert!(block == content[..BLOCK]);
    for _ in 0..2 {
        let error = file.read_at(&mut block, BLOCK as u64).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::IO.raw_os_error())
        );
    }
    drop(file);
    // Whoever reads it first has the log name it.
    let log = fs::read_to_string(archive.backing().join(".vortex/log")).unwrap();
    let named = log.lines().filter(|line| line.contains("), block 1: "));
    assert_eq!(named.count(), 1, "{log}");

    // What the daemon has is repaired by nobody else, nor is what it shows.
    let line = fails(vortex().arg("repair").arg(archive.backing()), 1);
    assert!(line.contains("in use"), "{line}");
    let line = fails(vortex().arg("repair").arg(archive.at("a")), 1);
    assert!(line.contains("in a mount"), "{line}");

    // A new daemon knows it.
    archive.umount();
    archive.mount(&often);
    pass(&archive);
    assert_eq!(said(&archive, "a.vortex").len(), 1);
    assert_eq!(status(&archive).damaged, 1);
    fs::write(archive.at("a"), &content).unwrap();
    until("the damage is gone", || status(&archive).damaged == 0);
    assert_eq!(said(&archive, "a.vortex").len(), 1);
    archive.umount();
}

#[test]
fn it_goes_on_where_it_was_and_rests_until_it_is_due() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for name in ["a", "b", "dir/c"] {
        fs::create_dir_all(archive.at("dir")).unwrap();
        fs::write(archive.at(name), noise(1000, 2)).unwrap();
    }
    archive.umount();
    for name in ["a.vortex", "b.vortex", "dir/c.vortex"] {
        spoil(&archive, name, 0);
    }
    let state = archive.backing().join(".vortex/scrub");
    fs::write(
        &state,
        r#"{"after":"a.vortex","files":1,"bytes":10,"finished":5}"#,
    )
    .unwrap();
    // What an earlier pass checked before it went on to the files is checked again by the next one only.
    archive.mount(&["--scrub", "1000"]);
    until("the pass ends", || {
        let now = status(&archive);
        now.finished.is_some_and(|at| at > 5) && !now.running
    });
    assert_eq!(status(&archive).files, 3);
    assert!(
        said(&archive, "a.vortex").is_empty(),
        "it was checked before"
    );
    assert_eq!(said(&archive, "b.vortex").len(), 1);
    assert_eq!(said(&archive, "dir/c.vortex").len(), 1);
    let finished = status(&archive).finished;
    archive.umount();
    archive.mount(&["--scrub", "1000"]);
    until("it knows of the last pass", || {
        status(&archive).finished.is_some()
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        status(&archive).finished,
        finished,
        "it is not due for years"
    );
    archive.umount();
    // The clock was once set far ahead.
    fs::write(&state, r#"{"finished":90000000000}"#).unwrap();
    archive.mount(&["--scrub", "1000"]);
    until("it does not wait for that time", || {
        status(&archive)
            .finished
            .is_some_and(|at| at < 80_000_000_000)
    });
    archive.umount();
    archive.mount(&[]);
    assert!(client::status(&archive.backing()).unwrap().scrub.is_none());
    archive.umount();
}
