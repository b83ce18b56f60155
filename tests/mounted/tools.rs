//! Existing tools, unmodified.

use std::fs;
use std::path::Path;

use super::support::{Archive, has, noise, sh, telemetry};

/// A tree with a bit of everything.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("2024/line 7/empty")).unwrap();
    fs::write(at.join("2024/counters.bin"), telemetry(1_500_000, 1)).unwrap();
    fs::write(at.join("2024/line 7/small.csv"), "time,value\n".repeat(500)).unwrap();
    fs::write(at.join("2024/line 7/noise"), noise(200_000)).unwrap();
    fs::write(at.join("nothing"), b"").unwrap();
    sh(
        at,
        "ln -s 2024/counters.bin link; ln nothing second-name; mkfifo fifo; chmod 750 2024; touch -d '2001-02-03 04:05:06' nothing",
    );
    for i in 0..200 {
        fs::write(
            at.join(format!("2024/f{i}")),
            format!("file {i}\n").repeat(i),
        )
        .unwrap();
    }
}

#[test]
fn cp_and_diff() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let outside = archive.outside();
    tree(&outside);
    sh(
        &archive.mnt(),
        "cp -a ../outside/. . && diff -r --no-dereference -x fifo ../outside .",
    );
    let before = sh(&outside, "du -s -B1 . | cut -f1")
        .trim()
        .parse::<u64>()
        .unwrap();
    archive.remount(&[]);
    sh(
        &archive.mnt(),
        "diff -r --no-dereference -x fifo ../outside .",
    );
    assert!(
        archive.stored() < before,
        "{} of {before}",
        archive.stored()
    );
    let times = |dir: &Path| {
        sh(
            dir,
            "find . -printf '%P %m %T@ %y %s %n\\n' | grep -v '^ ' | sed '/ d /s/ [0-9]* [0-9]*$//' | sort",
        )
    };
    assert_eq!(times(&outside), times(&archive.mnt()));
    sh(&archive.mnt(), "rm -rf ./2024 && test ! -e 2024");
}

#[test]
fn tar_both_ways() {
    if !has("tar") {
        return;
    }
    let Some(archive) = Archive::mounted() else {
        return;
    };
    tree(&archive.outside());
    sh(&archive.mnt(), "tar -C ../outside -cf - . | tar -xpf -");
    archive.remount(&[]);
    sh(
        &archive.mnt(),
        "tar -cf ../outside.tar . && mkdir ../back && tar -C ../back -xpf ../outside.tar",
    );
    sh(
        &archive.outside(),
        "diff -r --no-dereference -x fifo . ../back && test ../back/nothing -ef ../back/second-name",
    );
}

#[test]
fn rsync_twice_copies_once() {
    if !has("rsync") {
        return;
    }
    let Some(archive) = Archive::mounted() else {
        return;
    };
    tree(&archive.outside());
    sh(&archive.mnt(), "rsync -aH ../outside/ .");
    archive.remount(&[]);
    let again = sh(&archive.mnt(), "rsync -aHi --checksum ../outside/ .");
    assert_eq!(again, "", "nothing to copy the second time");
    sh(&archive.outside(), "echo more >> 2024/counters.bin");
    sh(
        &archive.mnt(),
        "rsync -aH --inplace ../outside/ . && diff -r --no-dereference -x fifo ../outside .",
    );
}

#[test]
fn sqlite_creates_queries_and_recovers() {
    if !has("sqlite3") {
        return;
    }
    let Some(archive) = Archive::mounted() else {
        return;
    };
    for mode in ["delete", "truncate", "wal"] {
        let fill = format!(
            "sqlite3 {mode}.db \"pragma journal_mode={mode}; create table t(a integer primary key, b text);
             with recursive n(i) as (select 1 union all select i+1 from n where i<20000)
             insert into t select i, 'value ' || (i*i) from n; update t set b='x' where a%7=0; delete from t where a%5=0;
             create index i on t(b); vacuum;\""
        );
        sh(&archive.mnt(), &fill);
        archive.remount(&[]);
        let answer = sh(
            &archive.mnt(),
            &format!(
                "sqlite3 {mode}.db 'pragma integrity_check; select count(*) from t; select b from t where a=11'"
            ),
        );
        assert_eq!(answer, "ok\n16000\nvalue 121\n", "{mode}");
    }
}

#[test]
fn git_clones_commits_and_checks() {
    if !has("git") {
        return;
    }
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let outside = archive.outside();
    let git = "git -c init.defaultBranch=main -c user.name=t -c user.email=t@example.com -c safe.directory=*";
    fs::write(outside.join("counters"), telemetry(300_000, 1)).unwrap();
    sh(
        &outside,
        &format!(
            "{git} init -q . && for i in $(seq 50); do echo $i > f$i; done && {git} add . && {git} commit -qm one"
        ),
    );
    sh(
        &archive.mnt(),
        &format!(
            "{git} clone -q --no-hardlinks ../outside clone && cd clone && {git} fsck --strict 2>&1"
        ),
    );
    archive.remount(&[]);
    let script = format!(
        "cd clone && {git} status --porcelain && echo two > f1 && {git} commit -qam two && {git} gc -q && {git} fsck 2>&1 && {git} log --oneline | wc -l"
    );
    assert_eq!(sh(&archive.mnt(), &script).trim(), "2");
}

#[test]
fn dd_writes_into_the_middle() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let outside = archive.outside();
    fs::write(outside.join("f"), telemetry(1_000_000, 1)).unwrap();
    fs::write(outside.join("patch"), noise(70_000)).unwrap();
    sh(&archive.mnt(), "cp ../outside/f .");
    archive.remount(&[]);
    for dir in [&outside, &archive.mnt()] {
        sh(
            dir,
            "dd if=../outside/patch of=f conv=notrunc bs=1000 seek=333 status=none",
        );
    }
    sh(&archive.mnt(), "cmp f ../outside/f");
    archive.remount(&[]);
    sh(&archive.mnt(), "cmp f ../outside/f");
}

#[test]
fn a_running_program_can_not_be_emptied() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let program = archive.at("program");
    fs::copy("/bin/sleep", &program).unwrap();
    let content = fs::read(&program).unwrap();
    let mut running = std::process::Command::new(&program)
        .arg("60")
        .spawn()
        .unwrap();
    for flags in [0o1, 0o2, 0o1000, 0o1001] {
        // As it is, without what the library would add: O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_TRUNC.
        let mode = rustix::fs::Mode::empty();
        let flags = rustix::fs::OFlags::from_bits_retain(flags);
        let opened = rustix::fs::open(&program, flags, mode);
        assert_eq!(
            opened.map(drop),
            Err(rustix::io::Errno::TXTBSY),
            "{flags:?}"
        );
    }
    assert!(running.try_wait().unwrap().is_none(), "it runs on");
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(fs::read(&program).unwrap() == content);
    // Afterwards it can.
    fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&program)
        .unwrap();
    assert_eq!(fs::metadata(&program).unwrap().len(), 0);
}

#[test]
fn memory_maps_read_and_write() {
    if !has("python3") {
        return;
    }
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), vec![b'a'; 300_000]).unwrap();
    let script = "python3 - <<'E'
import mmap
with open('f', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
    assert m[:5] == b'aaaaa' and len(m) == 300000
    m[100000:100006] = b'mapped'
    m[299999:] = b'z'
    m.flush()
assert open('f', 'rb').read()[99999:100007] == b'amappeda'
E";
    sh(&archive.mnt(), script);
    archive.remount(&[]);
    let back = fs::read(archive.at("f")).unwrap();
    assert_eq!(
        (&back[100_000..100_006], back[299_999], back.len()),
        (&b"mapped"[..], b'z', 300_000)
    );
}

#[test]
fn a_logger_appends_line_by_line() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let script = "for i in $(seq 2000); do echo \"2026-01-01T00:00:00 sensor=$((i % 7)) value=$((i * i))\" >> log; done; wc -l < log";
    assert_eq!(sh(&archive.mnt(), script).trim(), "2000");
    archive.remount(&[]);
    assert_eq!(
        sh(
            &archive.mnt(),
            "wc -l < log && grep -c sensor=3 log && tail -n 1 log"
        )
        .split_whitespace()
        .next(),
        Some("2000")
    );
    let waste = fs::metadata(archive.backing().join("log.vortex")).unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&waste) * 512 < 1 << 20,
        "dead space is given back"
    );
}

#[test]
fn find_grep_and_du_agree_with_the_original() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    tree(&archive.outside());
    sh(&archive.mnt(), "cp -a ../outside/. .");
    archive.remount(&[]);
    for script in [
        "find . | sort",
        "grep -r --exclude=fifo 'file 17' . | sort",
        "find . -type f -size +100k | sort",
        "du -s --apparent-size -B1 2024/line* | cut -f1",
    ] {
        assert_eq!(
            sh(&archive.mnt(), script),
            sh(&archive.outside(), script),
            "{script}"
        );
    }
}
