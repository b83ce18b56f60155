//! What programs do with files, through the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};

use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags};

use super::support::{Archive, has, noise, sh, telemetry};

#[test]
fn content_survives_a_remount_and_takes_less_space() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let (small, large, random) = (telemetry(1000, 1), telemetry(3_000_017, 2), noise(300_001));
    fs::create_dir_all(archive.at("a/b")).unwrap();
    for (name, data) in [
        ("small", &small),
        ("a/large", &large),
        ("a/b/random", &random),
        ("empty", &Vec::new()),
    ] {
        fs::write(archive.at(name), data).unwrap();
        assert_eq!(&fs::read(archive.at(name)).unwrap(), data, "{name} at once");
    }
    archive.remount(&[]);
    for (name, data) in [
        ("small", &small),
        ("a/large", &large),
        ("a/b/random", &random),
        ("empty", &Vec::new()),
    ] {
        assert_eq!(
            &fs::read(archive.at(name)).unwrap(),
            data,
            "{name} after a remount"
        );
    }
    let meta = fs::metadata(archive.at("a/large")).unwrap();
    assert_eq!(meta.len(), large.len() as u64);
    assert!(
        meta.blocks() * 512 < meta.len() * 3 / 4,
        "{} blocks for {} bytes",
        meta.blocks(),
        meta.len()
    );
    assert!(archive.backing().join("a/large.vortex").is_file());
}

#[test]
fn ranges_are_overwritten_appended_and_cut() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let mut expected = telemetry(1_000_000, 3);
    fs::write(archive.at("f"), &expected).unwrap();
    archive.remount(&[]);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(archive.at("f"))
        .unwrap();
    for (offset, data) in [
        (0, noise(10)),
        (65_530, noise(20)),
        (500_000, noise(200_000)),
        (999_999, noise(5)),
    ] {
        file.write_all_at(&data, offset as u64).unwrap();
        if expected.len() < offset + data.len() {
            expected.resize(offset + data.len(), 0);
        }
        expected[offset..offset + data.len()].copy_from_slice(&data);
    }
    for len in [900_000, 65_537, 800_000, 65_536] {
        file.set_len(len).unwrap();
        expected.resize(len as usize, 0);
    }
    let mut appended = OpenOptions::new()
        .append(true)
        .open(archive.at("f"))
        .unwrap();
    appended.write_all(b"end").unwrap();
    expected.extend(b"end");
    assert_eq!(fs::read(archive.at("f")).unwrap(), expected);
    drop((file, appended));
    archive.remount(&[]);
    assert_eq!(fs::read(archive.at("f")).unwrap(), expected);
}

#[test]
fn truncating_open_empties_the_file() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), telemetry(200_000, 4)).unwrap();
    fs::write(archive.at("f"), b"new").unwrap();
    assert_eq!(fs::read(archive.at("f")).unwrap(), b"new");
    archive.remount(&[]);
    assert_eq!(fs::read(archive.at("f")).unwrap(), b"new");
}

#[test]
fn holes_cost_nothing_and_are_found() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let file = File::create_new(archive.at("sparse")).unwrap();
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"end", (1 << 32) - 3).unwrap();
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 32);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap();
    assert!(hole < 1 << 20, "first hole at {hole}");
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(1 << 20)).unwrap();
    assert!(data > (1 << 32) - (2 << 20), "next data at {data}");
    drop(file);
    archive.remount(&[]);
    let mut file = File::open(archive.at("sparse")).unwrap();
    file.seek(SeekFrom::End(-5)).unwrap();
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, b"\0\0end");
}

#[test]
fn unlinked_file_stays_usable_until_last_close() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let data = telemetry(400_000, 5);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(archive.at("f"))
        .unwrap();
    file.write_all(&data).unwrap();
    fs::remove_file(archive.at("f")).unwrap();
    assert!(!archive.at("f").exists());
    file.write_all_at(b"still", 100).unwrap();
    file.sync_all().unwrap();
    let mut back = vec![0; data.len()];
    file.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(
        (&back[..100], &back[100..105], &back[105..]),
        (&data[..100], &b"still"[..], &data[105..])
    );
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    archive.umount();
    assert_eq!(
        fs::read_dir(archive.backing()).unwrap().count(),
        1,
        "only .vortex is left"
    );
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for name in ["a", "b"] {
        fs::write(
            archive.at(name),
            telemetry(100_000, u64::from(name.as_bytes()[0])),
        )
        .unwrap();
    }
    let (a, b) = (
        fs::read(archive.at("a")).unwrap(),
        fs::read(archive.at("b")).unwrap(),
    );
    let rename =
        |flags| rustix::fs::renameat_with(CWD, archive.at("a"), CWD, archive.at("b"), flags);
    assert_eq!(
        rename(RenameFlags::NOREPLACE),
        Err(rustix::io::Errno::EXIST)
    );
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(
        (
            fs::read(archive.at("a")).unwrap(),
            fs::read(archive.at("b")).unwrap()
        ),
        (b.clone(), a.clone())
    );
    rename(RenameFlags::empty()).unwrap();
    assert!(!archive.at("a").exists());
    fs::create_dir(archive.at("d")).unwrap();
    fs::rename(archive.at("b"), archive.at("d/c")).unwrap();
    fs::rename(archive.at("d"), archive.at("e")).unwrap();
    archive.remount(&[]);
    assert_eq!(fs::read(archive.at("e/c")).unwrap(), b);
    assert_eq!(fs::read_dir(archive.mnt()).unwrap().count(), 1);
}

#[test]
fn exchange_of_a_file_and_a_directory() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), b"file").unwrap();
    fs::create_dir(archive.at("d")).unwrap();
    fs::write(archive.at("d/x"), b"inside").unwrap();
    rustix::fs::renameat_with(
        CWD,
        archive.at("f"),
        CWD,
        archive.at("d"),
        RenameFlags::EXCHANGE,
    )
    .unwrap();
    for _ in 0..2 {
        assert_eq!(fs::read(archive.at("d")).unwrap(), b"file");
        assert_eq!(fs::read(archive.at("f/x")).unwrap(), b"inside");
        archive.remount(&[]);
    }
}

#[test]
fn attributes_are_kept() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), telemetry(100_000, 6)).unwrap();
    fs::set_permissions(archive.at("f"), PermissionsExt::from_mode(0o640)).unwrap();
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(1_000_000_000, 1),
        last_modification: time(-86_400, 250_000_000),
    };
    rustix::fs::utimensat(CWD, archive.at("f"), &times, AtFlags::empty()).unwrap();
    rustix::fs::setxattr(archive.at("f"), "user.unit", b"bar", XattrFlags::CREATE).unwrap();
    fs::hard_link(archive.at("f"), archive.at("g")).unwrap();
    symlink("f", archive.at("s")).unwrap();
    for round in 0..2 {
        let meta = fs::metadata(archive.at("f")).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640, "round {round}");
        assert_eq!((meta.atime(), meta.atime_nsec()), (1_000_000_000, 1));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-86_400, 250_000_000));
        assert_eq!(
            (meta.nlink(), meta.ino()),
            (2, fs::metadata(archive.at("g")).unwrap().ino())
        );
        assert_eq!(fs::read_link(archive.at("s")).unwrap().to_str(), Some("f"));
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(archive.at("f"), "user.unit", &mut value).unwrap();
        assert_eq!(&value[..len], b"bar");
        let len = rustix::fs::listxattr(archive.at("f"), &mut value).unwrap();
        assert_eq!(&value[..len], b"user.unit\0");
        archive.remount(&[]);
    }
    rustix::fs::removexattr(archive.at("f"), "user.unit").unwrap();
    assert_eq!(
        rustix::fs::getxattr(archive.at("f"), "user.unit", &mut [0; 16]),
        Err(rustix::io::Errno::NODATA)
    );
}

#[test]
fn special_files_are_made_and_shown() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    rustix::fs::mknodat(
        CWD,
        archive.at("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(archive.at("socket")).unwrap();
    assert!(
        fs::metadata(archive.at("fifo"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert!(
        fs::metadata(archive.at("socket"))
            .unwrap()
            .file_type()
            .is_socket()
    );
}

#[test]
fn names_work_up_to_the_limit_that_statfs_reports() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let limit = usize::try_from(rustix::fs::statvfs(archive.mnt()).unwrap().f_namemax).unwrap();
    assert!(limit >= 240, "{limit}");
    let (longest, longer) = ("n".repeat(limit), "n".repeat(limit + 1));
    fs::write(archive.at(&longest), b"x").unwrap();
    fs::create_dir(archive.at(&format!("d{}", &longest[1..]))).unwrap();
    let error = fs::write(archive.at(&longer), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidFilename);
    archive.remount(&[]);
    assert_eq!(fs::read(archive.at(&longest)).unwrap(), b"x");
}

#[test]
fn names_that_look_like_ours_are_ordinary_names() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for name in ["a.vortex", "a.vortex~plain", "a", ".vortex", "b~plain"] {
        fs::write(archive.at(name), name).unwrap();
    }
    fs::create_dir(archive.at("dir.vortex")).unwrap();
    archive.remount(&[]);
    let mut names: Vec<_> = fs::read_dir(archive.mnt())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            ".vortex",
            "a",
            "a.vortex",
            "a.vortex~plain",
            "b~plain",
            "dir.vortex"
        ]
    );
    for name in ["a.vortex", "a.vortex~plain", "a", ".vortex", "b~plain"] {
        assert_eq!(fs::read_to_string(archive.at(name)).unwrap(), name);
    }
}

#[test]
fn large_directory_is_listed_whole() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for i in 0..3000 {
        fs::write(
            archive.at(&format!("file-with-a-rather-long-name-{i:05}")),
            b"",
        )
        .unwrap();
    }
    for _ in 0..2 {
        let mut names: Vec<_> = fs::read_dir(archive.mnt())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 3000);
        archive.remount(&[]);
    }
    // Removing while listing must reach everything too.
    for entry in fs::read_dir(archive.mnt()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(fs::read_dir(archive.mnt()).unwrap().count(), 0);
}

#[test]
fn many_threads_read_and_write_at_once() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let shared = telemetry(2_000_000, 7);
    fs::write(archive.at("shared"), &shared).unwrap();
    archive.remount(&["--cache-size", "1M"]);
    std::thread::scope(|s| {
        for t in 0..8u64 {
            let (archive, shared) = (&archive, &shared);
            s.spawn(move || {
                let own = telemetry(300_000, 100 + t);
                let file = File::open(archive.at("shared")).unwrap();
                for round in 0..5u64 {
                    fs::write(archive.at(&format!("own-{t}-{round}")), &own).unwrap();
                    let offset = (t * 241_567 + round * 97_001) % 1_500_000;
                    let mut back = vec![0; 300_000];
                    file.read_exact_at(&mut back, offset).unwrap();
                    assert!(back == shared[offset as usize..offset as usize + 300_000]);
                    assert!(fs::read(archive.at(&format!("own-{t}-{round}"))).unwrap() == own);
                }
            });
        }
    });
}

#[test]
fn writing_by_another_user_takes_set_user_id_away() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), b"x").unwrap();
    fs::set_permissions(archive.at("f"), PermissionsExt::from_mode(0o6755)).unwrap();
    assert_eq!(
        fs::metadata(archive.at("f")).unwrap().mode() & 0o7777,
        0o6755
    );
    if !rustix::process::geteuid().is_root() {
        OpenOptions::new()
            .append(true)
            .open(archive.at("f"))
            .unwrap()
            .write_all(b"y")
            .unwrap();
    } else {
        // Root keeps the bits when it writes, as on other file systems; a change of owner takes them.
        rustix::fs::chown(archive.at("f"), Some(rustix::fs::Uid::from_raw(1)), None).unwrap();
    }
    assert_eq!(fs::metadata(archive.at("f")).unwrap().mode() & 0o6000, 0);
}

/// What root sees is no test of permissions: runs a command as another user and group.
fn as_user(uid: u32, gid: u32, archive: &Archive, script: &str) -> bool {
    let ids = [format!("--reuid={uid}"), format!("--regid={gid}")];
    let mut command = Command::new("setpriv");
    command
        .args(ids)
        .arg("--clear-groups")
        .args(["sh", "-c", script]);
    command.current_dir(archive.mnt()).stderr(Stdio::null());
    command.status().unwrap().success()
}

#[test]
fn default_access_control_lists_hand_down_what_they_do_in_a_plain_directory() {
    if !has("setfacl") {
        return;
    }
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let plain = archive.outside().join("plain");
    fs::create_dir(&plain).unwrap();
    let script = "for umask in 000 022 077; do
        for list in u:1:rwx,g:2:r o::- g::- u::rx,o::-; do
            d=$umask.$list; mkdir $d; setfacl -d -m $list $d; umask $umask
            echo hi > $d/file; mkdir $d/dir; mkfifo $d/pipe; mkfifo -m 640 $d/pipe2; cp /bin/true $d/cp; umask 022
            echo hi > $d/dir/file
        done; umask $umask; touch $umask.file; mkdir $umask.dir; mkfifo $umask.pipe; umask 022
    done";
    let shown = |dir: &std::path::Path| {
        sh(dir, script);
        let list = Command::new("getfacl")
            .args(["-R", "-n", "."])
            .current_dir(dir)
            .output()
            .unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    let (found, expected) = (shown(&archive.mnt()), shown(&plain));
    let about = |all: &str| {
        let mut files: Vec<String> = all.split("\n\n").map(str::to_string).collect();
        // Its directory itself is not what this is about, and the order is the directory's own.
        files.retain(|file| !file.starts_with("# file: .\n"));
        files.sort();
        files
    };
    assert!(expected.contains("default:"), "{expected}");
    assert_eq!(about(&found), about(&expected));
}

#[test]
fn modes_and_access_control_lists_are_enforced() {
    if !has("setfacl") || !has("setpriv") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&["--allow-other"]);
    fs::set_permissions(
        archive.mnt().parent().unwrap(),
        PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    fs::set_permissions(archive.mnt(), PermissionsExt::from_mode(0o777)).unwrap();
    fs::write(archive.at("f"), b"x").unwrap();
    sh(&archive.mnt(), "chown 0:2 f && chmod 600 f");
    assert!(!as_user(1, 1, &archive, "cat f"));
    sh(&archive.mnt(), "setfacl -m u:1:rw f");
    for _ in 0..2 {
        assert!(
            as_user(1, 1, &archive, "cat f && echo y >> f"),
            "the user on the list"
        );
        assert!(
            !as_user(3, 2, &archive, "cat f"),
            "the owning group has no entry but the mask's bits"
        );
        assert!(!as_user(3, 3, &archive, "cat f"));
        sh(&archive.mnt(), "getfacl -n f | grep -q user:1:rw-");
        archive.remount(&["--allow-other"]);
    }
    sh(
        &archive.mnt(),
        "mkdir d && chmod 777 d && setfacl -d -m u:1:rwx d",
    );
    assert!(
        as_user(3, 3, &archive, "umask 022; echo z > d/g"),
        "made by somebody else"
    );
    assert!(as_user(1, 1, &archive, "cat d/g"), "lists are inherited");
    assert!(as_user(3, 3, &archive, "rm d/g && test $(id -u) = 3"));
    let made = || fs::metadata(archive.at("d/h")).unwrap();
    assert!(as_user(3, 3, &archive, "echo z > d/h"));
    assert_eq!((made().uid(), made().gid()), (3, 3));
}
