//! The daemon: ready when the prompt returns, gone when umount returns.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{
    Archive, fails, is_alive, kill, ok, sh, telemetry, vortex, wait_gone, wait_until,
};

#[test]
fn mount_is_usable_when_the_prompt_returns_and_holds_nothing_of_the_caller() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    for round in 0..5 {
        // The output is a pipe: this hangs if the daemon keeps it.
        assert_eq!(ok(&mut archive.mount_command(&[])), "");
        fs::write(archive.at(&format!("f{round}")), b"x").unwrap();
        let pid = archive.daemon();
        let session = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session: u32 = session
            .rsplit_once(") ")
            .unwrap()
            .1
            .split(' ')
            .nth(3)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(session, pid, "a session of its own");
        assert_eq!(
            fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(),
            Some("/")
        );
        archive.umount();
        assert!(!is_alive(pid), "gone when umount returns");
    }
    assert_eq!(fs::read_dir(archive.backing()).unwrap().count(), 6);
}

#[test]
fn umount_waits_until_everything_is_stored() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let data = telemetry(30_000_000, 1);
    fs::write(archive.at("f"), &data).unwrap();
    archive.umount();
    // The lock is free and the content complete at once.
    archive.mount(&[]);
    assert!(fs::read(archive.at("f")).unwrap() == data);
}

#[test]
fn busy_mount_is_not_unmounted_and_its_user_is_named() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let mut file = File::create(archive.at("f")).unwrap();
    let said = fails(&mut archive.umount_command(), 1);
    assert!(
        said.contains(&format!("({})", std::process::id())),
        "{said}"
    );
    file.write_all(b"still works").unwrap();
    drop(file);
    archive.umount();
}

#[test]
fn mount_table_shows_archive_and_type() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .find(|l| l.contains(archive.mnt().to_str().unwrap()))
        .unwrap();
    let fields: Vec<_> = line.split(' ').collect();
    assert_eq!(
        (fields[0], fields[2]),
        (archive.backing().to_str().unwrap(), "fuse.vortex")
    );
    assert!(
        fields[3].contains("nosuid") && fields[3].contains("default_permissions"),
        "{line}"
    );
}

#[test]
fn signals_end_the_daemon_cleanly() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    for signal in ["-TERM", "-INT", "-HUP"] {
        archive.mount(&[]);
        let data = telemetry(2_000_000, 2);
        fs::write(archive.at("f"), &data).unwrap();
        let pid = archive.daemon();
        kill(pid, signal);
        wait_gone(pid);
        assert_eq!(
            fs::read_dir(archive.mnt()).unwrap().count(),
            0,
            "unmounted after {signal}"
        );
        archive.mount(&["--read-only"]);
        assert!(fs::read(archive.at("f")).unwrap() == data, "after {signal}");
        archive.umount();
    }
}

#[test]
fn told_to_end_with_open_files_the_daemon_stores_them() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let mut file = File::create(archive.at("f")).unwrap();
    file.write_all(b"written before the end").unwrap();
    let pid = archive.daemon();
    kill(pid, "-TERM");
    wait_gone(pid);
    drop(file);
    archive.mount(&[]);
    assert_eq!(
        fs::read(archive.at("f")).unwrap(),
        b"written before the end"
    );
}

#[test]
fn foreground_stays_and_ends_with_the_mount() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let mut child = archive
        .mount_command(&["--foreground"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the mount", || {
        fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .contains(archive.mnt().to_str().unwrap())
    });
    fs::write(archive.at("f"), b"x").unwrap();
    assert_eq!(archive.daemon(), child.id());
    ok(std::process::Command::new("umount").arg(archive.mnt()));
    assert!(child.wait().unwrap().success());
    assert!(archive.backing().join("f.vortex").exists() || archive.backing().join("f").exists());
}

#[test]
fn dead_mount_is_taken_away() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let pid = archive.daemon();
    kill(pid, "-KILL");
    wait_gone(pid);
    assert!(fs::read_dir(archive.mnt()).is_err());
    let output = archive.umount_command().output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("died"),
        "{output:?}"
    );
    assert_eq!(fs::read_dir(archive.mnt()).unwrap().count(), 0);
}

#[test]
fn background_log_is_in_the_archive() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    archive.umount();
    let log = fs::read_to_string(archive.backing().join(".vortex/log")).unwrap();
    assert!(
        log.lines().count() >= 2 && log.contains("mounted on"),
        "{log}"
    );
}

#[test]
fn background_log_of_a_read_only_mount_is_the_systems() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: takes root to stand in for the system's log");
        return;
    }
    fs::write(archive.at("f"), telemetry(200_000, 1)).unwrap();
    archive.umount();
    let segment = File::options()
        .write(true)
        .open(archive.backing().join("f.vortex"))
        .unwrap();
    segment.write_all_at(&[0xaa; 100], 20_000).unwrap();
    let socket = archive.backing().with_file_name("log");
    let log = UnixDatagram::bind(&socket).unwrap();
    let timeout = Some(Duration::from_secs(20));
    log.set_read_timeout(timeout).unwrap();
    // A socket that stands for the system's where this process alone sees it.
    let script = r#"
        made=; [ -e /dev/log ] || { made=yes; : > /dev/log; }
        mount --bind "$1" /dev/log
        "$2" mount --read-only "$3" "$4"
        cat "$4/f" > /dev/null || true
        "$2" umount "$4"
        umount /dev/log; [ -z "$made" ] || rm /dev/log"#;
    ok(Command::new("unshare")
        .args(["--mount", "sh", "-euc", script, "sh"])
        .arg(&socket)
        .arg(vortex().get_program())
        .args([archive.backing(), archive.mnt()]));
    let mut said = String::new();
    while !said.contains("err") {
        let mut buf = [0; 1000];
        let len = log.recv(&mut buf).expect(&said);
        said += &String::from_utf8_lossy(&buf[..len]);
        said += "\n";
    }
    assert!(said.contains("<30>vortex-fs["), "{said}");
    assert!(
        said.contains("<27>vortex-fs[") && said.contains("error: f (inode"),
        "{said}"
    );
}

#[test]
fn options_of_mount_and_fstab_are_taken() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&[
        "-o",
        "rw,noatime,noexec,_netdev,fsname=line-7",
        "-o",
        "x-systemd.automount",
    ]);
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table
        .lines()
        .find(|l| l.contains(archive.mnt().to_str().unwrap()))
        .unwrap();
    assert!(
        line.starts_with("line-7 ") && line.contains("noexec") && line.contains("noatime"),
        "{line}"
    );
    // Found all the same.
    archive.umount();
    archive.mount(&["-o", "ro"]);
    assert!(fs::write(archive.at("f"), b"x").is_err());
}

#[test]
fn paths_with_odd_characters_and_great_length_work() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let odd = archive
        .outside()
        .join("a b,c\\d%e\u{e9}")
        .join("l".repeat(120))
        .join("m".repeat(120));
    let (backing, mnt) = (odd.join("backing"), odd.join("mnt"));
    fs::create_dir_all(&backing).unwrap();
    fs::create_dir_all(&mnt).unwrap();
    ok(vortex().arg("mount").arg(&backing).arg(&mnt));
    fs::write(mnt.join("f"), telemetry(100_000, 3)).unwrap();
    let packed = vortex().arg("pack").arg(&backing).output().unwrap();
    let back = fs::read(mnt.join("f")).unwrap();
    ok(vortex().arg("umount").arg(&mnt));
    assert!(packed.status.success(), "{packed:?}");
    assert_eq!(back, telemetry(100_000, 3));
}

#[test]
fn read_only_mount_stands_beside_a_writer_and_follows_it() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let second = archive.outside();
    let reader = || {
        let mut command = vortex();
        command
            .args(["mount", "--read-only"])
            .arg(archive.backing())
            .arg(&second);
        command
    };
    fs::write(archive.at("f"), b"first").unwrap();
    File::open(archive.at("f")).unwrap().sync_all().unwrap();
    ok(&mut reader());
    assert_eq!(fs::read(second.join("f")).unwrap(), b"first");
    assert!(fs::write(second.join("g"), b"x").is_err());
    assert!(
        OpenOptions::new()
            .append(true)
            .open(second.join("f"))
            .is_err()
    );
    // Also where the size stays the same, and a packed form takes the place of the first.
    for content in [&b"second, longer"[..], b"third, as long"] {
        fs::write(archive.at("f"), content).unwrap();
        File::open(archive.at("f")).unwrap().sync_all().unwrap();
        wait_until("the reader to follow", || {
            fs::read(second.join("f")).is_ok_and(|got| got == content)
        });
    }
    fs::write(archive.at("g"), telemetry(20_000, 1)).unwrap();
    File::open(archive.at("g")).unwrap().sync_all().unwrap();
    wait_until("the new file", || second.join("g").exists());
    assert!(fs::read(second.join("g")).unwrap() == telemetry(20_000, 1));
    ok(vortex().arg("pack").arg(archive.backing()));
    assert!(fs::read(second.join("g")).unwrap() == telemetry(20_000, 1));
    fs::remove_file(archive.at("g")).unwrap();
    wait_until("the file to be gone", || !second.join("g").exists());
    // Unmounting the reader does not wait for the writer.
    ok(vortex().arg("umount").arg(&second));
    assert_eq!(fs::read(archive.at("f")).unwrap(), b"third, as long");
}

#[test]
fn the_table_of_descriptors_does_not_grow_while_a_usual_tree_is_looked_up() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let status = fs::read_to_string(format!("/proc/{}/status", archive.daemon())).unwrap();
    let size = status.lines().find_map(|l| l.strip_prefix("FDSize:"));
    let size: u64 = size.unwrap().trim().parse().unwrap();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if limit.is_some_and(|most| most < 1 << 14) {
        println!("skipped: this user may have only {limit:?} descriptors");
        return;
    }
    assert!(size >= 1 << 14, "{size}");
}

#[test]
fn plain_directory_is_shown_as_it_is() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    fs::create_dir(archive.backing().join("d")).unwrap();
    fs::write(archive.backing().join("d/plain"), b"plain").unwrap();
    archive.mount(&["--read-only"]);
    assert_eq!(fs::read(archive.at("d/plain")).unwrap(), b"plain");
    archive.umount();
    assert!(
        !archive.backing().join(".vortex").exists(),
        "a read-only mount changes nothing"
    );
    archive.mount(&[]);
    assert!(archive.backing().join(".vortex").is_dir());
    assert_eq!(sh(&archive.mnt(), "ls -A"), "d\n", "hidden in the mount");
    fs::write(archive.at("d/plain"), b"changed").unwrap();
    archive.remount(&[]);
    assert_eq!(fs::read(archive.at("d/plain")).unwrap(), b"changed");
}
