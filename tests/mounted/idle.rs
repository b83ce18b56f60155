//! The background packer: what it picks, when it works, and what it never does.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use vortex_fs::pack::client;
use vortex_fs::pack::status::{Idle, IdleState, Status};

use crate::support::*;

const IDLE: [&str; 4] = ["--pack", "idle", "--pack-after", "1"];

fn status(archive: &Archive) -> Status {
    client::status(&archive.backing()).expect("a daemon")
}

fn idle(archive: &Archive) -> Idle {
    status(archive).idle.expect("a background packer")
}

fn put(archive: &Archive, name: &str, content: &[u8]) {
    fs::write(archive.at(name), content).unwrap();
    File::open(archive.at(name)).unwrap().sync_all().unwrap();
}

/// Waits longer than for others: at the lowest priority, on a machine with much else to do, it takes its time.
#[track_caller]
fn until(what: &str, mut true_now: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !true_now() {
        assert!(
            begun.elapsed() < Duration::from_secs(300),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until it has looked through the tree so many times more, and is done with what it found.
#[track_caller]
fn looks(archive: &Archive, more: u64) {
    let last = idle(archive).looks + more;
    until("more looks at the tree", || {
        let now = idle(archive);
        now.looks >= last && now.state == IdleState::Waiting
    });
}

fn blocks(archive: &Archive, name: &str) -> u64 {
    fs::metadata(archive.at(name)).unwrap().blocks()
}

#[test]
fn files_that_are_open_for_writing_or_were_just_written_are_left_alone() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&IDLE);
    let content = telemetry(40_000, 1);
    // It stays open from the beginning.
    let mut writer = File::create(archive.at("written")).unwrap();
    writer.write_all(&content).unwrap();
    writer.sync_all().unwrap();
    put(&archive, "read", &content);
    let reader = File::open(archive.at("read")).unwrap();
    let fresh = blocks(&archive, "written");
    until("the file that is only read", || {
        blocks(&archive, "read") < fresh
    });
    looks(&archive, 3);
    assert_eq!(blocks(&archive, "written"), fresh);
    assert_eq!(status(&archive).packing.packed, 1);
    drop((writer, reader));
    until("the file that was closed", || {
        blocks(&archive, "written") < fresh
    });
    assert!(fs::read(archive.at("written")).unwrap() == content);
    archive.umount();

    archive.mount(&["--pack", "idle", "--pack-after", "3"]);
    let begun = Instant::now();
    put(&archive, "late", &telemetry(40_000, 2));
    until("the file that was left alone", || {
        status(&archive).packing.packed == 1
    });
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "whole seconds count"
    );
    archive.umount();
}

#[test]
fn nothing_is_encoded_twice_also_after_a_remount_until_it_changes() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&IDLE);
    put(&archive, "good", &telemetry(40_000, 1));
    put(&archive, "noise", &noise(40_000));
    fs::create_dir(archive.at("dir")).unwrap();
    put(&archive, "dir/plain noise", &noise(30_000));
    let done = |packed, left| {
        until("all to be dealt with", || {
            let now = status(&archive).packing;
            assert!(now.packed <= packed && now.left <= left, "{now:?}");
            now.packed == packed && now.left == left
        });
        looks(&archive, 3);
        let now = status(&archive).packing;
        assert_eq!((now.packed, now.left, now.failed), (packed, left, 0));
    };
    done(1, 2);
    assert_eq!(idle(&archive).settled, 3);
    archive.remount(&IDLE);
    looks(&archive, 3);
    done(0, 0);
    // Killed, it remembers as much.
    archive.crash();
    archive.mount(&IDLE);
    looks(&archive, 3);
    done(0, 0);
    put(&archive, "noise", &telemetry(50_000, 2));
    done(1, 0);
    fs::remove_file(archive.at("dir/plain noise")).unwrap();
    looks(&archive, 2);
    let list = archive.backing().join(".vortex/settled");
    assert_eq!(fs::read_to_string(&list).unwrap().lines().count(), 1);
    archive.umount();
    // A list that is none costs the work again, and nothing else.
    put_outside(&archive, &list);
    archive.mount(&IDLE);
    looks(&archive, 2);
    assert!(fs::read(archive.at("noise")).unwrap() == telemetry(50_000, 2));
    archive.umount();
}

fn put_outside(archive: &Archive, list: &std::path::Path) {
    assert!(list.starts_with(archive.backing()));
    fs::write(list, vec![0xff; 100_000]).unwrap();
}

#[test]
fn it_works_at_the_lowest_priority_of_processor_and_disk() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&IDLE);
    put(&archive, "f", &telemetry(1 << 20, 1));
    let tasks = format!("/proc/{}/task", archive.daemon());
    let mut seen = Vec::new();
    until("it to encode", || {
        for task in fs::read_dir(&tasks).unwrap().flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if !["idle-pack", "seal-0"].contains(&name.trim()) {
                continue;
            }
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let Some((_, fields)) = stat.rsplit_once(") ") else {
                continue;
            };
            let nice: i64 = fields.split(' ').nth(16).unwrap().parse().unwrap();
            seen.push((name.trim().to_string(), nice, task.file_name()));
        }
        seen.iter().any(|s| s.0 == "seal-0")
    });
    assert!(seen.iter().all(|s| s.1 == 19), "{seen:?}");
    if has("ionice") {
        let task = seen.iter().rfind(|s| s.0 == "idle-pack").unwrap();
        let said = Command::new("ionice")
            .arg("-p")
            .arg(&task.2)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        // What follows from the other priority is told as such by some kernels, and as none by others.
        let lowest = ["best-effort: prio 7", "idle", "none"];
        assert!(lowest.iter().any(|l| said.starts_with(l)), "{said}");
    }
    archive.umount();
}

#[test]
fn it_rests_after_each_block_while_the_mount_is_in_use() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    const BLOCK: u64 = 1 << 16;
    archive.mount(&IDLE);
    put(&archive, "f", &telemetry(1200 << 10, 1));
    until("it to encode", || idle(&archive).file_done > 0);
    let (before, begun) = (idle(&archive), Instant::now());
    let mut longest = Duration::ZERO;
    let mut n = 0;
    // On a slow machine one rest may be longer than this.
    let rests = || idle(&archive).rests > before.rests + 1;
    while begun.elapsed() < Duration::from_secs(5)
        || (!rests() && begun.elapsed() < Duration::from_secs(200))
    {
        // The kernel does not know this name yet.
        let asked = Instant::now();
        assert!(fs::metadata(archive.at(&format!("none{n}"))).is_err());
        longest = longest.max(asked.elapsed());
        n += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let after = idle(&archive);
    let blocks = (after.file_done - before.file_done).div_ceil(BLOCK);
    let seconds = begun.elapsed().as_secs() + 1;
    println!("{blocks} blocks beside {n} requests in {seconds} s, the longest took {longest:?}");
    assert!(
        blocks <= seconds + 1,
        "a block a second at most: {blocks} in {seconds}"
    );
    assert!(after.rests > before.rests && after.rested > before.rested);
    assert_eq!(after.file_bytes, 2400 << 10, "it was at it all the time");
    // Left alone it goes on.
    until("it to go on", || {
        std::thread::sleep(Duration::from_millis(500));
        idle(&archive).file_done > after.file_done + 2 * BLOCK
    });
    archive.umount();
}

#[test]
fn killed_at_any_moment_it_leaves_every_file_whole_and_goes_on() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let content = |n: u64| telemetry(30_000 + 9000 * n as usize, n);
    archive.mount(&IDLE);
    for n in 0..8 {
        put(&archive, &format!("f{n}"), &content(n));
    }
    std::thread::sleep(Duration::from_millis(1500));
    for round in 0..8u64 {
        std::thread::sleep(Duration::from_millis(300 + 170 * round));
        archive.crash();
        archive.mount(&IDLE);
        for n in 0..8 {
            assert!(
                fs::read(archive.at(&format!("f{n}"))).unwrap() == content(n),
                "round {round}"
            );
        }
    }
    // What it had not finished is gone, and it packs the rest.
    let plain: u64 = (0..8).map(|n| content(n).len() as u64).sum();
    until("all to be packed", || archive.stored() < plain / 2);
    ok(vortex().args(["verify"]).arg(archive.backing()));
    archive.umount();
}

/// The daemon works in another directory than who mounts.
#[test]
fn it_finds_a_profile_of_the_callers_directory_and_says_when_it_is_gone() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let outside = archive.outside();
    let profile = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/edge.safetensors");
    fs::copy(profile, outside.join("own.safetensors")).unwrap();
    let options = [
        "--profile",
        "own.safetensors",
        "--pack",
        "idle",
        "--pack-after",
        "1",
    ];
    ok(archive.mount_command(&options).current_dir(&outside));
    let line = |n: u32| format!("{n},{},on\n", n.wrapping_mul(2_654_435_761) >> 21);
    let lines: Vec<u8> = (0..20_000).flat_map(|n| line(n).into_bytes()).collect();
    put(&archive, "a.csv", &lines);
    until("the file is packed", || {
        status(&archive).packing.packed == 1
    });
    assert_eq!(fs::read(archive.at("a.csv")).unwrap(), lines);
    assert_eq!(idle(&archive).error, None);

    fs::remove_file(outside.join("own.safetensors")).unwrap();
    until("it says so", || idle(&archive).error.is_some());
    let error = idle(&archive).error.unwrap();
    assert!(error.contains("own.safetensors"), "{error}");
    let said = ok(vortex().arg("status").arg(archive.mnt()));
    assert!(said.contains("can not pack: "), "{said}");
    // Each look ends alike; the log has it once.
    looks(&archive, 3);
    let log = fs::read_to_string(archive.backing().join(".vortex/log")).unwrap();
    assert_eq!(log.matches("packing in the background").count(), 1, "{log}");
    fs::copy(profile, outside.join("own.safetensors")).unwrap();
    until("it goes on", || idle(&archive).error.is_none());
}
