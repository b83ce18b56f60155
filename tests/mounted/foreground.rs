//! Requests of users beside the background packer: none waits longer than a block takes to be coded.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use vortex_fs::pack::client;
use vortex_fs::pack::status::{IdleState, Status};

use crate::disk::Disk;
use crate::support::*;

/// Bytes of a block, of which one takes longer than requests do.
const BLOCK: usize = 1 << 18;

/// Blocks of the file that is packed.
const BLOCKS: usize = 3;

/// Rests between requests, so long that the packer finds the mount unused and goes on.
const REST: Duration = Duration::from_millis(130);

fn status(archive: &Archive) -> Status {
    client::status(&archive.backing()).expect("a daemon")
}

/// How long the coding of one block takes: half of encoding it and decoding it again.
fn time_of_a_block(content: &[u8]) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("one"), &content[..BLOCK]).unwrap();
    let begun = Instant::now();
    ok(vortex()
        .args(["pack", "--block-size", "256K"])
        .arg(dir.path()));
    begun.elapsed() / 2
}

/// What users ask for, each of which the kernel passes on to the daemon.
fn ask(mnt: &Path, file: &File, content: &[u8], n: usize) -> (&'static str, Duration) {
    let name = |what: &str, n: usize| mnt.join(format!("{what}{n}"));
    let new = |what| name(what, n);
    fadvise(file, 0, None, Advice::DontNeed).unwrap();
    let begun = Instant::now();
    let what = match n % 5 {
        0 => {
            let (mut read, at) = ([0; 4096], n * 77_777 % (content.len() - 4096));
            file.read_exact_at(&mut read, at as u64).unwrap();
            assert!(read == content[at..at + 4096]);
            "a read of the file that is packed"
        }
        1 => {
            assert!(fs::metadata(new("none")).is_err());
            "a look at a name"
        }
        2 => {
            fs::write(new("small"), b"reading\n").unwrap();
            "a small file"
        }
        3 => {
            fs::rename(name("small", n - 1), new("moved")).unwrap();
            "a rename"
        }
        _ => {
            fs::remove_file(name("moved", n - 1)).unwrap();
            "a removal"
        }
    };
    (what, begun.elapsed())
}

#[test]
fn no_request_waits_for_the_background_packer_longer_than_a_block_takes() {
    // In memory where that is possible, so that nobody waits for what others write to the disk.
    let disk = Disk::new(64);
    let Some(archive) = disk.as_ref().map_or_else(Archive::unmounted, Archive::on) else {
        return;
    };
    let content = telemetry(BLOCKS * BLOCK, 5);
    let block = time_of_a_block(&content);
    archive.mount(&[
        "--pack",
        "idle",
        "--pack-after",
        "1",
        "--block-size",
        "256K",
    ]);
    fs::write(archive.at("f"), &content).unwrap();
    let file = File::open(archive.at("f")).unwrap();
    file.sync_all().unwrap();
    // By a thread of its own, which a request that hangs does not let go.
    let (answer, answers) = mpsc::sync_channel(0);
    let mnt = archive.mnt();
    let user = std::thread::spawn(move || {
        for n in 0.. {
            if answer.send(ask(&mnt, &file, &content, n)).is_err() {
                return;
            }
            std::thread::sleep(REST);
        }
    });
    let begun = Instant::now();
    let (mut n, mut beside, mut longest) = (0, 0, ("nothing", Duration::ZERO));
    loop {
        let asked = answers.recv_timeout(block + REST);
        let now = status(&archive);
        if now.packing.packed > 0 {
            // A read of what is packed by now takes the time of decoding it, which is not the packer's.
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(400), "{now:?}");
        let asked = asked.expect("an answer within the time of a block");
        beside += u64::from(
            now.idle
                .is_some_and(|idle| idle.state == IdleState::Packing),
        );
        longest = if asked.1 > longest.1 { asked } else { longest };
        n += 1;
    }
    println!(
        "{n} requests, {beside} of them beside the packer; {} took {:?}, a block {block:?}",
        longest.0, longest.1
    );
    assert!(beside >= 10, "{beside} requests beside the packer");
    assert!(
        longest.1 < block,
        "{longest:?}, and a block takes {block:?}"
    );
    drop(answers);
    user.join().unwrap();
    archive.umount();
}
