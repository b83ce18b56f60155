//! Set-user-id and set-group-id bits: whoever may not set them takes them away by changing a file's content.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::*;

/// Changes of a file `f`, each a way of its own through the kernel.
const CHANGES: [&str; 4] = [
    "printf y >> f",
    "truncate -s 1 f",
    "printf new > f",
    "fallocate -l 9000 f",
];

/// Both bits, and each alone.
const MODES: [u32; 3] = [0o6777, 0o4777, 0o2777];

/// Users: another one, root, root without the right to set the bits, and root in a user namespace of its own.
const USERS: [&[&str]; 4] = [
    &["--reuid=1", "--regid=1", "--clear-groups"],
    &[],
    &["--bounding-set=-fsetid", "--inh-caps=-fsetid"],
    NAMESPACE,
];
const NAMESPACE: &[&str] = &["unshare", "--user", "--map-root-user"];

fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root can be another user");
    }
    root && has("setpriv")
}

/// What a shell says that runs in a directory as another user.
#[track_caller]
fn as_user(user: &[&str], dir: &Path, script: &str) -> String {
    let mut command = Command::new("setpriv");
    command.args(user).args(["sh", "-euc", script]);
    ok(command.current_dir(dir)).trim().to_string()
}

#[test]
fn changes_of_the_content_take_the_bits_that_they_take_in_a_plain_directory() {
    if !able() {
        return;
    }
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&["--allow-other"]);
    let plain = archive.outside();
    let namespaces = Command::new(NAMESPACE[0])
        .args(&NAMESPACE[1..])
        .arg("true")
        .status();
    let users = match namespaces {
        Ok(status) if status.success() => &USERS[..],
        _ => &USERS[..3],
    };
    let mut kept = 0;
    for (user, change) in users.iter().flat_map(|u| CHANGES.map(|c| (u, c))) {
        for mode in MODES {
            let after = |dir: &Path| {
                let file = dir.join("f");
                fs::write(&file, b"some content").unwrap();
                fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
                as_user(user, dir, change);
                let after = fs::metadata(&file).unwrap().permissions().mode() & 0o7777;
                fs::remove_file(&file).unwrap();
                after
            };
            let (there, here) = (after(&plain), after(&archive.mnt()));
            assert_eq!(here, there, "{user:?}: {change}, {mode:o}");
            kept += u32::from(here == mode);
        }
    }
    assert_eq!(kept, 3 * 4, "root's own");
    archive.umount();
}

#[test]
fn a_program_that_another_user_changed_runs_with_his_own_rights_at_once() {
    if !able() {
        return;
    }
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&["--allow-other", "-o", "suid"]);
    let run = |script| as_user(USERS[0], &archive.mnt(), script);
    for name in ["segment", "plain"] {
        let program = archive.at(name);
        match name {
            "plain" => fs::copy("/usr/bin/id", archive.backing().join(name)).unwrap(),
            _ => fs::copy("/usr/bin/id", &program).unwrap(),
        };
        fs::set_permissions(&program, PermissionsExt::from_mode(0o4777)).unwrap();
        fs::rename(&program, archive.at("id")).unwrap();
        assert_eq!(run("./id -u"), "0", "{name}");
        assert_eq!(run("printf y >> id; ./id -u"), "1", "{name}");
        fs::remove_file(archive.at("id")).unwrap();
    }
    archive.umount();
}
