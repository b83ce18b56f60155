//! A disk that fails: the daemon's system calls answer `EIO` for a while, as strace has them do. Programs hear of it, nothing that
//! was stored is lost, and when the disk is well again everything goes on without a remount.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vortex_fs::pack::client;

use super::disk::Disk;
use super::support::{Archive, fails, has, kill, noise, ok, telemetry, vortex, wait_until};

/// What is not there for a while.
struct Faults(Child);

impl Faults {
    /// These calls fail in a process from now on, with EIO, until this is dropped. With a path, those on it alone.
    fn of(process: u32, calls: &str, path: Option<&Path>) -> Faults {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-q", "-o", "/dev/null", "-p", &process.to_string()]);
        strace.args(["-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error=EIO")]);
        if let Some(path) = path {
            strace.arg("-P").arg(path);
        }
        let strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let faults = Faults(strace.unwrap());
        wait_until("strace to take hold", || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
            threads.flatten().all(|thread| {
                fs::read_to_string(thread.path().join("status"))
                    .is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
            })
        });
        faults
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // It lets go of the process when it is told to end.
        kill(self.0.id(), "-INT");
        let _ = self.0.wait();
    }
}

fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// A mounted archive with two files that were committed before, if there is strace.
fn archive() -> Option<(Archive, Vec<u8>)> {
    if !has("strace") {
        return None;
    }
    let archive = Archive::mounted()?;
    let old = telemetry(200_000, 1);
    for name in ["old", "other"] {
        fs::write(archive.at(name), &old).unwrap();
    }
    archive.remount(&[]);
    Some((archive, old))
}

#[test]
fn failed_writes_and_syncs_are_told_and_made_up_for() {
    let Some((archive, old)) = archive() else {
        return;
    };
    for (turn, calls) in [
        "pwrite64",
        "fdatasync,fsync,syncfs",
        "ftruncate,pwrite64,fallocate,fdatasync",
    ]
    .iter()
    .enumerate()
    {
        let (name, data) = (format!("new{turn}"), noise(300_000));
        let mut file = File::create(archive.at(&name)).unwrap();
        file.write_all(&data).unwrap();
        let changed = File::options().write(true).open(archive.at("old")).unwrap();
        let faults = Faults::of(archive.daemon(), calls, None);
        let error = file.sync_all().unwrap_err();
        assert!(is_fault(&error), "{calls}: {error}");
        assert!(fs::read(archive.at(&name)).unwrap() == data, "{calls}");
        assert!(fs::read(archive.at("old")).unwrap() == old, "{calls}");
        let second = changed
            .set_len(old.len() as u64)
            .and_then(|()| changed.sync_all());
        if let Err(error) = second {
            assert!(is_fault(&error), "{calls}: {error}");
        }
        drop(faults);
        file.sync_all().unwrap();
        drop((file, changed));
        // It was made durable, without a remount.
        archive.crash();
        archive.mount(&[]);
        assert!(
            fs::read(archive.at(&name)).unwrap() == data,
            "{calls}, after a kill"
        );
        assert!(
            fs::read(archive.at("old")).unwrap() == old,
            "{calls}, after a kill"
        );
    }
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
}

#[test]
fn bytes_that_a_failed_sync_lost_are_written_again() {
    let Some(disk) = Disk::without_journal(7) else {
        return;
    };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    archive.mount(&[]);
    let (data, old) = (noise(600_000), noise(100_000));
    fs::write(archive.at("old"), &old).unwrap();
    let mut file = File::create(archive.at("new")).unwrap();
    file.write_all(&data[..1000]).unwrap();
    file.sync_all().unwrap();
    File::open(archive.at("old")).unwrap().sync_all().unwrap();
    file.write_all(&data[1000..]).unwrap();
    let mut never_synced = File::create_new(archive.at("never synced")).unwrap();
    never_synced.write_all(&data).unwrap();
    disk.fail_writes();
    for attempt in 0..3 {
        // The system says so once; the daemon has to remember.
        assert!(file.sync_all().is_err(), "attempt {attempt}");
        assert!(never_synced.sync_all().is_err(), "attempt {attempt}");
        assert!(fs::read(archive.at("new")).unwrap() == data);
    }
    disk.heal();
    // What failed in the background meanwhile is told first.
    for file in [&file, &never_synced] {
        let _ = file.sync_all();
        file.sync_all().unwrap();
    }
    drop((file, never_synced));
    // Only what is on the device counts.
    archive.crash();
    disk.power_up();
    archive.mount(&[]);
    for name in ["new", "never synced"] {
        assert!(fs::read(archive.at(name)).unwrap() == data, "{name}");
    }
    assert!(fs::read(archive.at("old")).unwrap() == old);
    archive.umount();
    ok(vortex().arg("verify").arg(archive.backing()));
}

#[test]
fn failed_reads_are_told_and_concern_no_other_file_and_no_later_read() {
    let Some((archive, old)) = archive() else {
        return;
    };
    let segment = archive.backing().join("old.vortex");
    let faults = Faults::of(archive.daemon(), "pread64", Some(&segment));
    let error = fs::read(archive.at("old")).unwrap_err();
    assert!(is_fault(&error), "{error}");
    assert!(fs::read(archive.at("other")).unwrap() == old);
    drop(faults);
    assert!(fs::read(archive.at("old")).unwrap() == old);
}

#[test]
fn failed_changes_of_names_change_nothing() {
    let Some((archive, old)) = archive() else {
        return;
    };
    let calls = "mkdirat,mknodat,linkat,symlinkat,renameat,renameat2,unlinkat,fsync";
    let faults = Faults::of(archive.daemon(), calls, None);
    let [o, n] = ["old", "name"].map(|name| archive.at(name));
    let done = [
        fs::create_dir(&n),
        fs::hard_link(&o, &n),
        std::os::unix::fs::symlink(&o, &n),
        fs::rename(&o, &n),
        fs::rename(&o, archive.at("other")),
        fs::remove_file(&o),
    ];
    drop(faults);
    for (at, outcome) in done.into_iter().enumerate() {
        assert!(outcome.as_ref().is_err_and(is_fault), "{at}: {outcome:?}");
    }
    for round in ["at once", "after a remount"] {
        let mut names: Vec<_> = fs::read_dir(archive.mnt())
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["old", "other"], "{round}");
        assert!(fs::read(&o).unwrap() == old && fs::read(archive.at("other")).unwrap() == old);
        archive.remount(&[]);
    }
    fs::rename(&o, &n).unwrap();
    assert!(fs::read(&n).unwrap() == old);
}

/// The new file has the name, but the old one, of the other form, could not be removed: the kernel must not go on with that.
#[test]
fn a_rename_that_fails_when_it_is_done_shows_what_a_remount_would() {
    let Some((archive, content)) = archive() else {
        return;
    };
    archive.umount();
    fs::write(archive.backing().join("plain"), b"replaced").unwrap();
    archive.mount(&[]);
    let [from, to] = ["old", "plain"].map(|name| archive.at(name));
    assert_eq!(fs::read(&to).unwrap(), b"replaced");
    let faults = Faults::of(archive.daemon(), "unlinkat", None);
    let error = fs::rename(&from, &to).unwrap_err();
    assert!(is_fault(&error), "{error}");
    drop(faults);
    let begun = Instant::now();
    wait_until("the kernel to ask again", || {
        !from.exists() && fs::read(&to).is_ok_and(|found| found == content)
    });
    // By itself it would after a minute.
    assert!(begun.elapsed() < Duration::from_secs(30));
    fs::remove_file(&to).unwrap();
    archive.remount(&[]);
    assert!(!to.exists(), "what was replaced comes back");
}

#[test]
fn extended_attributes_that_cannot_be_read_are_not_left_out_by_packing() {
    let Some((archive, _)) = archive() else {
        return;
    };
    let old = archive.at("old");
    let set = |value| rustix::fs::setxattr(&old, "user.a", value, rustix::fs::XattrFlags::empty());
    set(b"kept").unwrap();
    let faults = Faults::of(archive.daemon(), "getxattr,fgetxattr", None);
    fails(vortex().arg("pack").arg(&old), 3);
    drop(faults);
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(&old, "user.a", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"kept");
    ok(vortex().arg("pack").arg(&old));
}

#[test]
fn a_file_that_could_not_be_opened_when_it_was_made_is_not_there() {
    let Some((archive, _)) = archive() else {
        return;
    };
    let nodes = || client::status(&archive.backing()).unwrap().requests.nodes;
    let before = nodes();
    let faults = Faults::of(archive.daemon(), "pread64", None);
    let error = File::create_new(archive.at("new")).unwrap_err();
    assert!(is_fault(&error), "{error}");
    drop(faults);
    assert!(!archive.backing().join("new.vortex").exists());
    assert_eq!(nodes(), before);
    fs::write(archive.at("new"), "content").unwrap();
}

#[test]
fn every_failed_call_of_packing_costs_no_content() {
    if !has("strace") {
        return;
    }
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let content = telemetry(20_000, 3);
    let (mut failed, mut done) = (0, 0);
    // The loader reads first, before the program begins.
    for (calls, turns) in [
        ("pread64", [5, 7, 9]),
        ("pwrite64", [1, 2, 3]),
        ("fdatasync", [1, 2, 3]),
        ("fsync", [1, 2, 3]),
        ("renameat,renameat2", [1, 2, 3]),
        ("unlinkat", [1, 2, 3]),
    ] {
        for turn in turns {
            for command in ["pack", "unpack"] {
                let mut strace = Command::new("strace");
                strace.args([
                    "-f",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    &format!("trace={calls}"),
                ]);
                strace.args(["-e", &format!("inject={calls}:error=EIO:when={turn}")]);
                strace
                    .arg(env!("CARGO_BIN_EXE_vortex-fs"))
                    .args([command, "--jobs", "1"]);
                for name in ["a", "b"] {
                    let [plain, segment] = [name.to_string(), format!("{name}.vortex")]
                        .map(|name| archive.backing().join(name));
                    if !plain.exists() && !segment.exists() {
                        fs::write(plain, &content).unwrap();
                    }
                }
                let output = strace.arg(archive.backing()).output().unwrap();
                // It may have gone unnoticed, or concern one of the files. 127: it hit the loader, before the program began.
                let code = output.status.code();
                assert!(
                    matches!(code, Some(0..=3 | 127)),
                    "{calls} {turn}: {output:?}"
                );
                failed += u32::from(matches!(code, Some(1..=3)));
                done += 1;
                archive.mount(&["--read-only"]);
                for name in ["a", "b"] {
                    let found = fs::read(archive.at(name));
                    assert!(
                        found.is_ok_and(|found| found == content),
                        "{calls} {turn}, {command}"
                    );
                }
                archive.umount();
            }
        }
    }
    println!("{failed} of {done} jobs failed");
    assert!(failed * 3 > done, "{failed} of {done} jobs failed");
    ok(vortex().arg("pack").arg(archive.backing()));
    ok(vortex().arg("verify").arg(archive.backing()));
}
