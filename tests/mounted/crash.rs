//! The daemon is killed in the middle of work: what was synced is there, nothing is damaged.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use vortex_fs::pack::client;

use super::support::{Archive, kill, ok, sh, telemetry, vortex, wait_gone, wait_until};

fn verified(archive: &Archive) {
    ok(vortex().arg("verify").arg(archive.backing()));
}

#[test]
fn synced_data_survive_a_kill_in_the_middle_of_writing() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for round in 0..4u64 {
        let data = telemetry(4_000_000, round);
        let name = format!("f{round}");
        let mut file = File::create(archive.at(&name)).unwrap();
        file.write_all(&data[..2_500_000]).unwrap();
        file.sync_all().unwrap();
        let pid = archive.daemon();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let _ = file.write_all(&data[2_500_000..]);
                let mut at = 0;
                while !stop.load(Ordering::Relaxed)
                    && file.write_all_at(&data[at..at + 1000], at as u64).is_ok()
                {
                    at = (at + 50_021) % 3_000_000;
                }
            });
            sleep(Duration::from_millis(20 + 150 * round));
            kill(pid, "-KILL");
            wait_gone(pid);
            stop.store(true, Ordering::Relaxed);
        });
        drop(file);
        archive.umount();
        archive.mount(&[]);
        for earlier in 0..=round {
            let back = fs::read(archive.at(&format!("f{earlier}"))).unwrap();
            let expected = telemetry(4_000_000, earlier);
            assert!(
                back.len() >= 2_500_000 && back[..2_500_000] == expected[..2_500_000],
                "f{earlier}, round {round}"
            );
            // Later writes may be there or not; what is there is what was written.
            assert!(
                back[2_500_000..]
                    .iter()
                    .zip(&expected[2_500_000..])
                    .all(|(b, e)| b == e || *b == 0)
            );
        }
    }
    archive.umount();
    verified(&archive);
}

#[test]
fn kill_in_the_middle_of_packing_loses_nothing() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for i in 0..12u64 {
        fs::write(archive.at(&format!("f{i}")), telemetry(30_000, i)).unwrap();
    }
    // So that there is something left to do after the longest delay.
    let large = telemetry(3_000_000, 99);
    fs::write(archive.at("large"), &large).unwrap();
    archive.remount(&[]);
    // At last without waiting for the daemon to hear of it.
    for (heard, delay) in [(true, 5), (true, 60), (true, 250), (true, 700), (false, 5)] {
        let mut pack = Command::new(env!("CARGO_BIN_EXE_vortex-fs"));
        let mut pack = pack
            .arg("pack")
            .arg(archive.backing())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if heard {
            wait_until("the daemon to pack", || {
                let now = client::status(&archive.backing()).expect("a daemon");
                now.packing.jobs == 1
            });
        }
        sleep(Duration::from_millis(delay));
        archive.crash();
        assert!(
            !pack.wait().unwrap().success() || delay > 60 || !heard,
            "the client hears of it"
        );
        archive.mount(&[]);
        assert!(fs::read(archive.at("large")).unwrap() == large);
        for i in 0..12u64 {
            assert!(
                fs::read(archive.at(&format!("f{i}"))).unwrap() == telemetry(30_000, i),
                "f{i} after {delay} ms"
            );
        }
        assert_eq!(
            fs::read_dir(archive.backing().join(".vortex/tmp"))
                .unwrap()
                .count(),
            0,
            "no leftovers"
        );
        let names = sh(
            &archive.backing(),
            "ls | sed 's/[.]vortex$//' | sort | uniq -d",
        );
        assert_eq!(names, "", "no file is there twice");
    }
    archive.umount();
    verified(&archive);
}

#[test]
fn kill_of_a_pack_without_a_mount_loses_nothing() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    for i in 0..8u64 {
        fs::write(
            archive.backing().join(format!("f{i}")),
            telemetry(30_000, i),
        )
        .unwrap();
    }
    for delay in [10, 100, 400] {
        let mut pack = vortex()
            .arg("pack")
            .arg(archive.backing())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(delay));
        let _ = pack.kill();
        let _ = pack.wait();
        archive.mount(&[]);
        for i in 0..8u64 {
            assert!(
                fs::read(archive.at(&format!("f{i}"))).unwrap() == telemetry(30_000, i),
                "f{i} after {delay} ms"
            );
        }
        archive.umount();
    }
    verified(&archive);
}
