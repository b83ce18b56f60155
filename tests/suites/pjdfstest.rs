//! pjdfstest, the POSIX conformance suite: what ext4 passes on this machine, a mounted archive passes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::disk::Disk;
use super::root;
use super::support::{Archive, has};

const CONFIG: &str = r#"
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
rename_ctime = {}
[settings]
naptime = 0.05
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// The suite leaves it out where the C library does not know the kind of file system, as with everything that is mounted
/// through FUSE. `as_many_links_as_on_ext4` does what it does.
const LEFT_OUT: &str = "link::link_count_max";

/// Runs the suite in a directory; answers the outcome of each test: `ok`, `skipped`, `FAILED`, and what else was said.
fn outcomes(dir: &Path, config: &Path, other: &Path) -> (BTreeMap<String, String>, String) {
    fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    let mut suite = Command::new("pjdfstest");
    suite.arg("-c").arg(config).arg("-p").arg(dir);
    let output = suite.arg("-s").arg(other).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let outcomes = said.lines().filter_map(|line| {
        let (name, outcome) = line.split_once(' ')?;
        (name.contains("::")).then(|| (name.to_string(), outcome.trim().to_string()))
    });
    (outcomes.collect(), said)
}

fn count(outcomes: &BTreeMap<String, String>, outcome: &str) -> usize {
    outcomes.values().filter(|o| *o == outcome).count()
}

/// What is neither passed nor skipped, and how it came out.
fn others(outcomes: &BTreeMap<String, String>) -> Vec<(&String, &String)> {
    let others = outcomes.iter();
    others
        .filter(|(_, o)| !["ok", "skipped"].contains(&o.as_str()))
        .collect()
}

/// Makes links to a file until it may have no more; answers how many names it has, and why there are no more.
fn names_possible(dir: &Path) -> (u64, std::io::Error) {
    let file = dir.join("linked");
    fs::write(&file, b"x").unwrap();
    let linked = (0..100_000).map(|i| fs::hard_link(&file, dir.join(i.to_string())));
    let error = linked.filter_map(Result::err).next().unwrap();
    (fs::metadata(&file).unwrap().nlink(), error)
}

#[test]
fn as_many_links_as_on_ext4() {
    let Some(disk) = Disk::new(64) else { return };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    let (expected, _) = names_possible(&disk.path());
    archive.mount(&[]);
    let (found, error) = names_possible(&archive.mnt());
    assert_eq!(found, expected);
    assert_eq!(error.kind(), ErrorKind::TooManyLinks);
    archive.umount();
}

#[test]
fn what_ext4_passes_is_passed() {
    if !root() || !has("pjdfstest") {
        return;
    }
    let (Some(disk), Some(other)) = (Disk::new(256), Disk::new(16)) else {
        return;
    };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    let config = archive.outside().join("pjdfstest.toml");
    fs::write(&config, CONFIG).unwrap();
    // The suite works as other users too: they have to reach the directories.
    for dir in [
        archive.mnt().parent().unwrap(),
        disk.path().parent().unwrap(),
    ] {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let plain = disk.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let (expected, said_of_ext4) = outcomes(&plain, &config, &other.path());
    archive.mount(&["--allow-other", "-o", "suid,dev"]);
    let (found, said) = outcomes(&archive.mnt(), &config, &other.path());
    archive.umount();

    let passed = count(&expected, "ok");
    assert!(
        passed >= 383,
        "ext4 passes {passed}, skips {}, fails {:?}\n{said_of_ext4}",
        count(&expected, "skipped"),
        others(&expected),
    );
    let worse: Vec<_> = expected
        .iter()
        .filter(|(name, outcome)| {
            *outcome == "ok" && *name != LEFT_OUT && found.get(*name) != Some(outcome)
        })
        .map(|(name, _)| name)
        .collect();
    assert!(
        worse.is_empty(),
        "worse than ext4: {worse:?}\nnot passed: {:?}\n{said}",
        others(&found)
    );
    println!(
        "pjdfstest: {} passed, {} skipped; ext4: {passed} passed, {} skipped",
        count(&found, "ok"),
        count(&found, "skipped"),
        count(&expected, "skipped"),
    );
}
