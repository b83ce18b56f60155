//! What bad input gets: one line that says what to do, exit code 1, nothing changed.

use std::fs;

use super::support::{Archive, fails, ok, vortex};

#[test]
fn bad_places_are_refused_in_one_line() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let outside = archive.outside();
    let (backing, mnt) = (archive.backing(), archive.mnt());
    fs::write(outside.join("file"), b"x").unwrap();
    fs::create_dir(backing.join("inner")).unwrap();
    let (none, file, inner) = (
        outside.join("none"),
        outside.join("file"),
        backing.join("inner"),
    );
    for (from, to, says) in [
        (&none, &mnt, "no such directory"),
        (&file, &mnt, "not a directory"),
        (&backing, &none, "mkdir"),
        (&backing, &file, "not a directory"),
        (&backing, &backing, "hidden"),
        (&inner, &backing, "hidden"),
        (&backing, &inner, "inside"),
        (&backing, &"/proc".into(), "already a mountpoint"),
    ] {
        let said = fails(vortex().arg("mount").arg(from).arg(to), 1);
        assert!(said.contains(says), "{said}");
    }
    assert!(
        !backing.join(".vortex").exists(),
        "a refused mount changes nothing"
    );
}

#[test]
fn mounting_twice_is_refused() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let said = fails(&mut archive.mount_command(&[]), 1);
    assert!(said.contains("already a mountpoint"), "{said}");
    let other = archive.outside();
    let said = fails(vortex().arg("mount").arg(archive.backing()).arg(&other), 1);
    assert!(said.contains("in use by another writer"), "{said}");
    fs::write(archive.at("f"), b"the first goes on").unwrap();
}

#[test]
fn archives_do_not_nest() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::create_dir(archive.at("sub")).unwrap();
    let other = archive.outside();
    let said = fails(
        vortex()
            .arg("mount")
            .arg(archive.backing().join("sub"))
            .arg(&other),
        1,
    );
    assert!(said.contains("inside the archive"), "{said}");
    let said = fails(vortex().arg("mount").arg(archive.at("sub")).arg(&other), 1);
    assert!(said.contains("inside the vortex-fs mount"), "{said}");
}

#[test]
fn unknown_format_is_refused() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    archive.umount();
    fs::write(archive.backing().join(".vortex/format"), "vortex-fs 99\n").unwrap();
    let said = fails(&mut archive.mount_command(&[]), 1);
    assert!(said.contains("99"), "{said}");
}

#[test]
fn options_are_known_or_refused() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    for bad in ["suid_everyone", "fsname=a\\,suid", "ro,rw", "uid=0"] {
        fails(&mut archive.mount_command(&["-o", bad]), 1);
    }
    for profile in ["nosuch", "gone.safetensors"] {
        for pack in ["idle", "off"] {
            let options = ["--profile", profile, "--pack", pack];
            let said = fails(&mut archive.mount_command(&options), 1);
            assert!(said.contains(profile), "{said}");
        }
    }
    assert!(
        !archive
            .mount_command(&["--block-size", "3K"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(
        !archive
            .mount_command(&["--cache-size", "many"])
            .output()
            .unwrap()
            .status
            .success()
    );
}

#[test]
fn unmounting_what_is_no_mount_of_ours_is_refused() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let said = fails(&mut archive.umount_command(), 1);
    assert!(said.contains("nothing is mounted"), "{said}");
    let said = fails(vortex().args(["umount", "/proc"]), 1);
    assert!(said.contains("no vortex-fs mount"), "{said}");
}

#[test]
fn mountpoint_that_is_not_empty_is_only_warned_of() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    fs::write(archive.at("below"), b"x").unwrap();
    let output = archive.mount_command(&[]).output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not empty"),
        "{output:?}"
    );
    assert!(!archive.at("below").exists());
    ok(&mut archive.umount_command());
    assert!(archive.at("below").exists());
}
