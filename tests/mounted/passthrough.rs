//! Plain files of a read-only mount, which the kernel reads from the backing file itself, and why not those of a writable one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::disk::Disk;
use super::support::{Archive, ok, telemetry, vortex, wait_until};

/// Reads, each of another page and backwards, so that nothing is read ahead.
const READS: usize = 64;

/// Whether the kernel has passthrough; says so if not.
fn kernel_can() -> bool {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel.split(['.', '-']).map(|n| n.parse::<u32>().unwrap());
    let can = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    if !can {
        println!("skipped: the kernel is older than 6.9 and passes nothing through");
    }
    can
}

#[track_caller]
fn mount_read_only(archive: &Archive, at: &Path) {
    let mut reader = vortex();
    reader.args(["mount", "--read-only"]).arg(archive.backing());
    ok(reader.arg(at));
}

/// Requests that the kernel has had for the daemon.
fn served(mount: &Path) -> u64 {
    let status = ok(vortex().args(["status", "--json"]).arg(mount));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["requests"]["served"].as_u64().unwrap()
}

/// Reads pieces of `file`, compares them, and tells how many requests that took.
#[track_caller]
fn requests_of_reading(file: &File, data: &[u8], mount: &Path) -> u64 {
    let before = served(mount);
    for at in (0..READS).rev().map(|n| n << 12) {
        let mut got = [0; 10];
        file.read_exact_at(&mut got, at as u64).unwrap();
        assert!(got == data[at..at + 10]);
    }
    served(mount) - before
}

#[test]
fn plain_files_of_a_read_only_mount_are_read_by_the_kernel_itself() {
    let Some(disk) = Disk::new(64) else { return };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    let data = telemetry(READS << 12, 4);
    fs::write(archive.backing().join("plain"), &data).unwrap();
    archive.mount(&[]);
    let second = archive.outside();
    mount_read_only(&archive, &second);
    let path = second.join("plain");
    let (one, two) = (File::open(&path).unwrap(), File::open(&path).unwrap());
    let took = requests_of_reading(&one, &data, &second);
    if kernel_can() {
        // Finding out how many there were takes some, too.
        assert!(took < READS as u64 / 4, "{took} requests");
    }
    drop(one);
    // The writer packs the file and changes it: who has it open reads on, who opens it anew sees the change.
    ok(vortex().arg("pack").arg(archive.at("plain")));
    let mut got = vec![0; data.len()];
    two.read_exact_at(&mut got, 0).unwrap();
    assert!(got == data && fs::read(&path).unwrap() == data);
    let changed = OpenOptions::new().write(true).open(archive.at("plain"));
    let changed = changed.unwrap();
    changed.write_all_at(b"changed", 100).unwrap();
    changed.sync_all().unwrap();
    wait_until("the reader to follow", || {
        fs::read(&path).unwrap()[100..107] == *b"changed"
    });
    two.read_exact_at(&mut got, 0).unwrap();
    assert!(got == data);
    drop(two);
    // As a plain file again, which the writer changes in place: seen by who has it open, and by who opens it.
    ok(vortex().arg("unpack").arg(archive.at("plain")));
    assert!(archive.backing().join("plain").exists());
    wait_until("the plain file", || {
        let seen = File::open(&path).unwrap();
        changed.write_all_at(b"CHANGED", 100).unwrap();
        let mut got = [0; 7];
        seen.read_exact_at(&mut got, 100).unwrap();
        got == *b"CHANGED"
    });
    ok(vortex().arg("umount").arg(&second));
}

#[test]
fn plain_files_on_a_stacked_file_system_are_read_through_the_daemon() {
    let Some(disk) = Disk::new(64) else { return };
    let Some(archive) = Archive::on(&disk) else {
        return;
    };
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| disk.path().join(name));
    for folder in [&lower, &upper, &work] {
        fs::create_dir(folder).unwrap();
    }
    let data = telemetry(READS << 12, 6);
    fs::write(lower.join("plain"), &data).unwrap();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let mut overlay = Command::new("mount");
    overlay.args(["-t", "overlay", "overlay", "-o", &options]);
    let stacked = overlay.arg(archive.backing()).output().unwrap();
    if !stacked.status.success() {
        println!("skipped: no overlay file system");
        return;
    }
    mount_read_only(&archive, &archive.mnt());
    let (one, two) = (
        File::open(archive.at("plain")).unwrap(),
        File::open(archive.at("plain")).unwrap(),
    );
    let took = requests_of_reading(&one, &data, &archive.mnt());
    assert!(took >= READS as u64, "{took} requests");
    let mut got = vec![0; data.len()];
    two.read_exact_at(&mut got, 0).unwrap();
    assert!(got == data);
    drop((one, two));
    archive.umount();
    ok(Command::new("umount").arg(archive.backing()));
}

/// With passthrough a map would be one of the backing file, which the daemon hears no more of once the descriptor is closed.
#[test]
fn maps_outlive_their_descriptors_and_follow_packing() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let data = telemetry(300_000, 9);
    for name in ["plain", "segment"] {
        fs::write(archive.backing().join("plain"), &data).unwrap();
        archive.mount(&[]);
        let path = archive.at(name);
        fs::write(&path, &data).unwrap();
        // SAFETY: nobody cuts the file meanwhile, and nothing relies on what a map has shown before.
        let (mut writer, reader) = unsafe {
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let writer = memmap2::MmapMut::map_mut(&file.unwrap()).unwrap();
            let reader = memmap2::Mmap::map(&File::open(&path).unwrap()).unwrap();
            (writer, reader)
        };
        assert!(reader[..] == data);
        ok(vortex().arg("pack").arg(&path));
        let packed = archive.backing().join(format!("{name}.vortex"));
        assert!(fs::metadata(packed).unwrap().len() < data.len() as u64 / 2);
        writer[100..107].copy_from_slice(b"changed");
        writer.flush().unwrap();
        assert_eq!(&reader[100..107], b"changed", "{name}");
        drop((writer, reader));
        archive.remount(&[]);
        let now = fs::read(&path).unwrap();
        assert!(now[100..107] == *b"changed" && now[107..] == data[107..]);
        fs::remove_file(&path).unwrap();
        archive.umount();
    }
}
