//! Files whose pages the kernel has: they are read without the daemon, also after they were closed.

use std::fs::{self, File};

use vortex_fs::pack::client;

use crate::support::*;

/// How often a file is opened again.
const TIMES: u64 = 30;

/// Requests that the daemon has served once every file is closed; finding that out takes some, always as many.
fn served(archive: &Archive) -> u64 {
    let status = || {
        client::status(&archive.backing())
            .expect("a daemon")
            .requests
    };
    wait_until("the last close", || status().open == 0);
    status().served
}

/// Requests of opening and closing a file so often, with `each` in between.
fn requests(archive: &Archive, name: &str, each: impl Fn(&mut File)) -> u64 {
    let before = served(archive);
    for _ in 0..TIMES {
        each(&mut File::open(archive.at(name)).unwrap());
    }
    served(archive) - before
}

#[test]
fn a_file_that_is_opened_again_is_read_without_requests_while_the_kernel_has_it() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    let content = telemetry(3 << 20, 1);
    for name in ["fresh", "packed", "plain"] {
        match name {
            "plain" => fs::write(archive.backing().join(name), &content).unwrap(),
            _ => fs::write(archive.at(name), &content).unwrap(),
        }
    }
    let packed = archive.at("packed");
    File::options()
        .write(true)
        .open(&packed)
        .unwrap()
        .set_len(300_000)
        .unwrap();
    ok(vortex().arg("pack").arg(&packed));
    archive.remount(&[]);
    for name in ["fresh", "packed", "plain"] {
        let same = || {
            let read = fs::read(archive.at(name)).unwrap();
            assert!(read == content[..read.len()] && read.len() >= 300_000);
        };
        let cold = served(&archive);
        same();
        let cold = served(&archive) - cold;
        let opened = requests(&archive, name, |_| ());
        let read = requests(&archive, name, |file| {
            let mut all = Vec::new();
            std::io::Read::read_to_end(file, &mut all).unwrap();
            assert!(all == content[..all.len()] && all.len() >= 300_000);
        });
        println!(
            "{name}: {cold} requests cold, {opened} to open it {TIMES} times, {read} to read it, too"
        );
        assert!(cold > opened / TIMES, "{name} was read from somewhere else");
        assert!(read < opened + TIMES / 2, "{name}: {read} and {opened}");
    }
    archive.umount();
}
