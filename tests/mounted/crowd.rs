//! More files than the daemon may have descriptors.

use std::fs;
use std::path::Path;
use std::process::Command;

use vortex_fs::pack::client;

use super::support::{Archive, has, ok, sh};

const FILES: usize = 4000;

const BURST: usize = 3000;

/// Descriptors that the daemon may have, less than a third of what knowing all files would take.
const DESCRIPTORS: &str = "1000";

#[test]
fn trees_with_more_files_than_descriptors_are_listed_and_read() {
    with_few_descriptors("-sys_resource", true);
}

#[test]
fn the_same_where_files_can_not_be_opened_by_their_handles() {
    with_few_descriptors("-sys_resource,-dac_read_search", false);
}

/// As a daemon without these capabilities does it: whether it knows all files at once.
fn with_few_descriptors(taken: &str, knows_all: bool) {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    // Root may raise the limit again unless that right is taken away.
    let root = rustix::process::geteuid().is_root();
    if !has("prlimit") || (root && !has("setpriv")) {
        return;
    }
    for number in 0..FILES {
        let folder = archive.backing().join(format!("d{}", number % 3));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("f{number}.csv")), number.to_string()).unwrap();
    }
    let mount = archive.mount_command(&[]);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"));
    if root {
        limited.arg("setpriv");
        limited.arg(format!("--bounding-set={taken}"));
        limited.arg(format!("--inh-caps={taken}"));
    }
    ok(limited.arg(mount.get_program()).args(mount.get_args()));
    let open = format!("/proc/{}/fd", archive.daemon());
    let limit: usize = DESCRIPTORS.parse().unwrap();
    let opened = fs::File::open(archive.at("d0/f0.csv")).unwrap();
    for _ in 0..3 {
        let listed = sh(&archive.mnt(), "ls -lR . | grep -c csv");
        assert_eq!(listed.trim(), FILES.to_string());
        assert!(fs::read_dir(&open).unwrap().count() < limit);
    }
    let nodes = client::status(&archive.backing())
        .expect("a daemon")
        .requests
        .nodes;
    assert_eq!(nodes > FILES as u64, root && knows_all, "{nodes}");
    for number in 0..FILES {
        let path = archive.at(&format!("d{}/f{number}.csv", number % 3));
        assert_eq!(fs::read_to_string(&path).unwrap(), number.to_string());
    }
    sh(
        &archive.mnt(),
        "for n in $(seq 150); do echo $n > d1/new$n; done",
    );
    sh(
        &archive.mnt(),
        "test $(cat d1/new* | sort -n | uniq | wc -l) = 150",
    );
    assert_eq!(sh(&archive.mnt(), "ls d1 | grep -c new").trim(), "150");
    // Far more than there may be descriptors, made as fast as they can be by several at once.
    std::thread::scope(|scope| {
        for maker in 0..4 {
            let archive = &archive;
            scope.spawn(move || {
                for n in 0..BURST / 4 {
                    let path = archive.at(&format!("d2/burst{maker}.{n}"));
                    fs::write(path, format!("{maker} {n}")).unwrap();
                }
            });
        }
    });
    for n in (0..BURST / 4).step_by(97) {
        let path = archive.at(&format!("d2/burst3.{n}"));
        assert_eq!(fs::read_to_string(path).unwrap(), format!("3 {n}"));
    }
    // What is open stays.
    let shown = fs::read_link(Path::new("/proc/self/fd").join(fd(&opened))).unwrap();
    assert_eq!(shown, archive.at("d0/f0.csv"));
    assert_eq!(std::io::read_to_string(opened).unwrap(), "0");
    archive.umount();
}

fn fd(file: &fs::File) -> String {
    std::os::fd::AsRawFd::as_raw_fd(file).to_string()
}

#[test]
fn a_daemon_without_a_descriptor_left_is_unmounted_and_has_stored_everything() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let root = rustix::process::geteuid().is_root();
    if !has("prlimit") || (root && !has("setpriv")) {
        return;
    }
    let mount = archive.mount_command(&[]);
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=150:150");
    if root {
        limited.args(["setpriv", "--bounding-set=-sys_resource"]);
        limited.arg("--inh-caps=-sys_resource");
    }
    ok(limited.arg(mount.get_program()).args(mount.get_args()));
    fs::write(archive.at("file"), "kept").unwrap();
    // Directories in use are not forgotten: each holds a descriptor.
    let made = (0..400).map_while(|number| {
        let folder = archive.at(&format!("d{number}"));
        fs::create_dir(&folder)
            .ok()
            .and_then(|()| fs::File::open(folder).ok())
    });
    let open: Vec<fs::File> = made.collect();
    assert!(open.len() < 150, "{} directories", open.len());
    drop(open);
    ok(crate::support::vortex().arg("umount").arg(archive.mnt()));
    archive.mount(&[]);
    assert_eq!(fs::read_to_string(archive.at("file")).unwrap(), "kept");
    archive.umount();
}
