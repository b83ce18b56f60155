//! The whole way through a mount, and the end of it: power loss, the daemon killed, packing killed. What an `fsync` answered for is
//! there afterwards, and everything can be used.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::support::{Archive, kill, ok, vortex, wait_gone};
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
