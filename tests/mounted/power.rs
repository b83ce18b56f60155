//! The whole way through a mount, and the end of it: power loss, the daemon killed, packing killed. What an `fsync` answered for is
//! there afterwards, and everything can be used.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::support::{Archive, kill, ok, telemetry, vortex, wait_gone};
use super::workload::{Promises, work_until};

/// Packing small blocks ends soon enough to be there when something happens.
const OPTIONS: &[&str] = &["--block-size", "16K"];

fn pack(archive: &Archive) -> Command {
    let mut pack = vortex();
    // Primers would be chosen first, which takes longer than it is left alone.
    pack.args(["pack", "--key-blocks", "1"])
        .arg(archive.backing());
    pack.stdout(Stdio::null()).stderr(Stdio::null());
    pack
}

/// Packs the archive, for so long; then the command is killed, if it still runs.
fn pack_and_kill(archive: &Archive, after: Duration) {
    let mut pack = pack(archive).spawn().unwrap();
    let killed_at = Instant::now() + after;
    while Instant::now() < killed_at && pack.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    let _ = pack.kill();
    pack.wait().unwrap();
}

/// Has a mount packed again and again while something else happens, and kills each command after a while.
fn packing_during(archive: &Archive, during: impl FnOnce()) {
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for turn in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                pack_and_kill(archive, Duration::from_millis(100 + 600 * (turn % 5)));
            }
        });
        during();
        stop.store(true, Ordering::SeqCst);
    });
}

/// Mounts, works and lets `end` end it, again and again, with packing in every other round; each time all promises are
/// checked. Leaves it mounted.
fn rounds(archive: &Archive, count: u64, end: impl Fn(u32), after: impl Fn()) -> Promises {
    let promises = Promises::default();
    for round in 0..count {
        archive.mount(OPTIONS);
        promises.check(&archive.mnt());
        let before = promises.len();
        let work = || {
            work_until(&archive.mnt(), &promises, round, || {
                // Long enough for a pack to finish some files.
                sleep(Duration::from_millis(2200 + 173 * round));
                // A slow disk takes longer. Some of the last are withdrawn again before the end.
                let begun = Instant::now();
                while promises.len() <= before + 20 && begun.elapsed() < Duration::from_secs(60) {
                    sleep(Duration::from_millis(10));
                }
                end(archive.daemon());
            });
        };
        if round % 2 == 1 {
            packing_during(archive, work);
        } else {
            work();
        }
        let new = promises.len() - before;
        assert!(new > 10, "{new} promises in round {round}");
        archive.umount();
        after();
    }
    archive.mount(OPTIONS);
    promises.check(&archive.mnt());
    println!("{} promises", promises.len());
    promises
}

/// Requires that nothing is damaged and nothing left over.
fn settle(archive: &Archive) {
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
    let leftovers = fs::read_dir(archive.backing().join(".vortex/tmp")).unwrap();
    assert_eq!(leftovers.count(), 0);
}

fn neural_blocks(archive: &Archive) -> u64 {
    let said = ok(vortex().args(["stat", "--json"]).arg(archive.backing()));
    let stat: serde_json::Value = serde_json::from_str(&said).unwrap();
    stat[0]["blocks"]["neural"].as_u64().unwrap()
}

fn killed(daemon: u32) {
    kill(daemon, "-KILL");
    wait_gone(daemon);
}

#[test]
fn what_was_synced_through_a_mount_survives_power_loss() {
    let Some(disk) = Disk::new(512) else { return };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    let cut = |daemon| {
        disk.pull_the_plug();
        killed(daemon);
    };
    rounds(&archive, 6, cut, || disk.power_up());
    settle(&archive);
}

/// A directory that is a disk of its own, until it goes.
struct Bound(PathBuf);

impl Bound {
    fn to(disk: &Disk, at: PathBuf) -> Bound {
        ok(Command::new("mount")
            .arg("--bind")
            .args([&disk.path(), &at]));
        Bound(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// More files than a batch commits one by one, on each of two disks: those of each are as durable as on a single one.
#[test]
fn what_was_stored_on_two_disks_survives_power_loss_of_both() {
    const FILES: usize = 24;
    let Some((one, two)) = Disk::new(64).zip(Disk::new(64)) else {
        return;
    };
    let Some(archive) = Archive::on(&one) else {
        return;
    };
    let other = archive.backing().join("other");
    fs::create_dir(&other).unwrap();
    let content = |n: usize| telemetry(3000 + 500 * n, n as u64);
    let files = |name: &str| -> Vec<String> {
        let both = ["", "other/"].map(|disk| {
            // Half of them in directories of their own.
            (0..FILES).map(move |n| match n % 2 {
                0 => format!("{disk}{name}{n}"),
                _ => format!("{disk}{name}-dir{n}/file"),
            })
        });
        both.into_iter().flatten().collect()
    };
    let write = |name: &str| {
        let paths = files(name);
        for (n, path) in paths.iter().enumerate() {
            fs::create_dir_all(archive.at(path).parent().unwrap()).unwrap();
            fs::write(archive.at(path), content(n)).unwrap();
        }
        paths
    };
    let check = |paths: &[String]| {
        for (n, path) in paths.iter().enumerate() {
            let found = fs::read(archive.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(found == content(n), "{path}: {} bytes", found.len());
        }
    };
    let lose_power = |bound: Bound| {
        one.pull_the_plug();
        two.pull_the_plug();
        drop(bound);
        two.power_up();
        one.power_up();
        Bound::to(&two, other.clone())
    };
    let bound = Bound::to(&two, other.clone());
    archive.mount(OPTIONS);
    let unmounted = write("a");
    archive.umount();
    let bound = lose_power(bound);
    archive.mount(OPTIONS);
    check(&unmounted);

    // An fsync of each file covers its content, its name, and the names of the directories above.
    let synced = write("b");
    for path in &synced {
        fs::File::open(archive.at(path))
            .unwrap()
            .sync_all()
            .unwrap();
    }
    // These nobody synced: what is left of each is the whole or nothing.
    let lost = write("c");
    let daemon = archive.daemon();
    one.pull_the_plug();
    two.pull_the_plug();
    killed(daemon);
    archive.umount();
    let bound = lose_power(bound);
    archive.mount(OPTIONS);
    check(&unmounted);
    check(&synced);
    for (n, path) in lost.iter().enumerate() {
        let found = fs::read(archive.at(path)).unwrap_or_default();
        assert!(
            found.is_empty() || found == content(n),
            "{path}: {} bytes",
            found.len()
        );
    }

    // Commits in the background come about a second after the files were closed, and long before the system writes by itself.
    let rewritten = |n: usize| telemetry(3000 + 500 * n, 1000 + n as u64);
    for (n, path) in synced.iter().enumerate() {
        let file = fs::File::options().write(true).open(archive.at(path));
        file.unwrap().write_all_at(&rewritten(n), 0).unwrap();
    }
    sleep(Duration::from_secs(6));
    let daemon = archive.daemon();
    one.pull_the_plug();
    two.pull_the_plug();
    killed(daemon);
    archive.umount();
    let bound = lose_power(bound);
    archive.mount(OPTIONS);
    for (n, path) in synced.iter().enumerate() {
        let found = fs::read(archive.at(path)).unwrap();
        assert!(found == rewritten(n), "{path}: {} bytes", found.len());
    }
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
    drop(bound);
}

#[test]
fn what_was_synced_through_a_mount_survives_kills_of_the_daemon_and_of_pack() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let promises = rounds(&archive, 6, killed, || ());
    // Whatever the kills have left for packs to do, this one comes through, and then the daemon is killed.
    ok(vortex().arg("pack").arg(archive.mnt().join("a")));
    killed(archive.daemon());
    archive.umount();
    assert!(
        neural_blocks(&archive) > 0,
        "nothing was packed through the daemon"
    );
    archive.mount(OPTIONS);
    promises.check(&archive.mnt());
    archive.umount();
    for turn in 0..6 {
        pack_and_kill(&archive, Duration::from_millis(20 + 311 * turn));
        archive.mount(OPTIONS);
        promises.check(&archive.mnt());
        archive.umount();
    }
    archive.mount(OPTIONS);
    settle(&archive);
}
