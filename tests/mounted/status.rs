//! What a daemon says of itself: `status`, its JSON and the metrics, compared with what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use vortex_fs::pack::status::Status;

use crate::support::*;

const BLOCK: usize = 1 << 16;

fn status(archive: &Archive) -> Status {
    let json = ok(vortex().arg("status").arg("--json").arg(archive.mnt()));
    serde_json::from_str(&json).expect("figures")
}

/// Reads through the kernel's page cache, which keeps nothing of it.
fn read_anew(archive: &Archive, name: &str) -> Vec<u8> {
    let mut file = File::open(archive.at(name)).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    content
}

fn ask(addr: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("somebody listens");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(addr: &str, path: &str) -> String {
    let answer = ask(
        addr,
        &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n"),
    );
    let (head, body) = answer.split_once("\r\n\r\n").expect("headers");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    body.to_string()
}

/// Samples by name and labels. Fails where the text is not what Prometheus reads.
fn parse(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let is_name = |name: &str| {
        let first = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
        first && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(is_name(name) && !text.is_empty(), "{line}");
            assert!(helped.insert(name.to_string()), "twice: {line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(helped.contains(name), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            let again = kinds.insert(name.to_string(), kind.to_string());
            assert!(again.is_none(), "twice: {line}");
            current = name.to_string();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let value: f64 = value.parse().expect("a number");
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            let name = series.split('{').next().unwrap();
            assert!(is_name(name), "{line}");
            if let Some(labels) = series.strip_prefix(name).filter(|l| !l.is_empty()) {
                let inner = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}'));
                for label in inner.expect("braces").split(',') {
                    let (label, text) = label.split_once('=').expect("a label");
                    assert!(is_name(label), "{line}");
                    assert!(text.starts_with('"') && text.ends_with('"') && text.len() >= 2);
                }
            }
            let family = match kinds.get(&current).map(String::as_str) {
                Some("histogram") => ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .expect("a histogram's sample"),
                _ => name,
            };
            assert_eq!(family, current, "a sample stands below its type: {line}");
            let again = samples.insert(series.to_string(), value);
            assert!(again.is_none(), "twice: {line}");
        }
    }
    for (name, _) in kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        for codec in ["raw", "zstd", "neural"] {
            let of = |end: &str| samples[&format!("{name}_{end}{{codec=\"{codec}\"}}")];
            let bucket = format!("{name}_bucket{{codec=\"{codec}\",le=\"");
            let mut buckets: Vec<(f64, f64)> = samples
                .iter()
                .filter_map(|(series, n)| {
                    let le = series.strip_prefix(&bucket)?.trim_end_matches("\"}");
                    Some((le.replace("+Inf", "inf").parse().unwrap(), *n))
                })
                .collect();
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert!(buckets.len() > 10 && buckets.is_sorted_by(|a, b| a.1 <= b.1));
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, of("count"))));
            assert_eq!(of("sum") > 0.0, of("count") > 0.0);
        }
    }
    samples
}

#[test]
fn figures_are_what_was_done_in_every_form() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&["--metrics", "0", "--cache-size", "64M"]);
    let content: Vec<_> = (0..3).map(|n| telemetry(3 * BLOCK, n)).collect();
    for (n, content) in content.iter().enumerate() {
        fs::write(archive.at(&format!("f{n}")), content).unwrap();
        let file = File::open(archive.at(&format!("f{n}"))).unwrap();
        file.sync_all().unwrap();
    }
    fs::write(archive.at("noise"), noise(2 * BLOCK)).unwrap();
    File::open(archive.at("noise")).unwrap().sync_all().unwrap();
    let now = status(&archive);
    assert_eq!((now.pid, now.read_only), (archive.daemon(), false));
    assert_eq!(now.writes.stored_blocks, 11);
    assert_eq!((now.writes.dirty_bytes, now.writes.dirty_files), (0, 0));
    assert!(now.writes.commits >= 4 && now.requests.served > 8);
    assert!(now.memory.resident > 1 << 20);
    assert_eq!(now.cache.limit, 64 << 20);
    let held = 11 * BLOCK as u64;
    assert!((held..held + 10_000).contains(&now.cache.bytes), "{now:?}");
    assert!(now.idle.is_none() && now.scrub.is_none());

    ok(vortex().arg("pack").arg(archive.mnt()));
    let packed = status(&archive).packing;
    assert_eq!((packed.packed, packed.left, packed.failed), (3, 1, 0));
    assert_eq!((packed.jobs, &packed.job), (0, &None));
    assert_eq!(packed.logical, 9 * BLOCK as u64);
    assert_eq!(packed.saved, packed.before - packed.after);
    assert!(packed.after > 0 && packed.saved > packed.after);

    let before = status(&archive);
    for (n, content) in content.iter().enumerate() {
        assert!(read_anew(&archive, &format!("f{n}")) == *content);
    }
    let cold = status(&archive);
    let neural = |s: &Status| {
        s.decode
            .iter()
            .find(|d| d.codec == "neural")
            .unwrap()
            .clone()
    };
    assert_eq!(neural(&cold).blocks - neural(&before).blocks, 9);
    assert!(neural(&cold).nanos > 0);
    let latency = neural(&cold).latency;
    assert_eq!(
        latency.iter().map(|b| b.blocks).sum::<u64>(),
        neural(&cold).blocks
    );
    assert_eq!(cold.cache.misses - before.cache.misses, 9);
    assert!(cold.starts.misses > 0 && cold.starts.bytes > 0);
    for (n, content) in content.iter().enumerate() {
        assert!(read_anew(&archive, &format!("f{n}")) == *content);
    }
    let warm = status(&archive);
    assert_eq!(
        warm.cache.misses, cold.cache.misses,
        "all were in the cache"
    );
    assert!(warm.cache.hits >= cold.cache.hits + 9);

    let addr = warm.metrics.clone().expect("an address");
    assert!(addr.starts_with("127.0.0.1:"), "{addr}");
    let samples = parse(&get(&addr, "/metrics"));
    let json: Status = serde_json::from_str(&get(&addr, "/json")).expect("figures");
    assert_eq!(json.packing, warm.packing);
    assert_eq!((json.cache, json.starts), (warm.cache, warm.starts));
    assert_eq!((&json.decode, json.writes), (&warm.decode, warm.writes));
    let sample = |series: &str| samples[series] as u64;
    assert_eq!(sample("vortex_pack_files_total{outcome=\"packed\"}"), 3);
    assert_eq!(sample("vortex_pack_files_total{outcome=\"left\"}"), 1);
    assert_eq!(sample("vortex_packed_before_bytes_total"), packed.before);
    assert_eq!(sample("vortex_packed_after_bytes_total"), packed.after);
    assert_eq!(
        sample("vortex_cache_hits_total{cache=\"block\"}"),
        warm.cache.hits
    );
    assert_eq!(
        sample("vortex_cache_misses_total{cache=\"start\"}"),
        warm.starts.misses
    );
    assert_eq!(
        sample("vortex_decode_seconds_count{codec=\"neural\"}"),
        neural(&warm).blocks
    );
    assert_eq!(
        sample("vortex_stored_blocks_total"),
        warm.writes.stored_blocks
    );
    assert!(sample("vortex_requests_total") >= warm.requests.served);

    let text = ok(vortex().arg("status").arg(archive.mnt()));
    for part in [
        "3 files packed",
        "1 not smaller",
        "neural: 9 blocks",
        "64.0 MiB",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    ok(vortex().arg("unpack").arg(archive.mnt()));
    assert_eq!(status(&archive).packing.unpacked, 3);
    archive.umount();
    let gone = fails(vortex().arg("status").arg(archive.mnt()), 1);
    assert!(gone.contains("lies in no vortex-fs mount"), "{gone}");
}

#[test]
fn a_read_only_mount_tells_its_own_figures_to_its_user_only() {
    let Some(archive) = Archive::mounted() else {
        return;
    };
    fs::write(archive.at("f"), telemetry(BLOCK, 1)).unwrap();
    archive.umount();
    archive.mount(&["--read-only", "--allow-other"]);
    assert_eq!(read_anew(&archive, "f").len(), BLOCK);
    let now = status(&archive);
    assert!(
        now.read_only && now.pid == archive.daemon() && now.cache.misses == 1,
        "{now:?}"
    );
    assert_eq!(now.writes, Default::default());
    if rustix::process::geteuid().is_root() && has("setpriv") && has("getfattr") {
        let ask = |user: &str| {
            let user = format!("--reuid={user}");
            let mut command = std::process::Command::new("setpriv");
            command.args([
                user.as_str(),
                "--clear-groups",
                "getfattr",
                "--only-values",
                "-n",
                "user.vortex.status",
            ]);
            let _ = fs::set_permissions(
                archive.mnt().parent().unwrap(),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            );
            command.arg(archive.mnt()).output().unwrap()
        };
        assert!(ask("0").status.success());
        assert!(!ask("65534").status.success());
    }
    archive.umount();
}

#[test]
fn clients_of_the_metrics_can_neither_stall_the_daemon_nor_make_it_grow() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    archive.mount(&["--metrics", "127.0.0.1:0"]);
    fs::write(archive.at("f"), telemetry(BLOCK, 1)).unwrap();
    let first = status(&archive);
    let addr = first.metrics.clone().unwrap();
    let threads = || {
        let task = format!("/proc/{}/task", first.pid);
        fs::read_dir(task).unwrap().count()
    };
    let before = threads();
    // Some say nothing, some say a little now and then.
    let mut slow: Vec<_> = (0..64)
        .map(|_| TcpStream::connect(&addr).unwrap())
        .collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        for stream in slow.iter_mut().step_by(2) {
            let _ = stream.write_all(b"G");
        }
        fs::write(archive.at("g"), b"somebody writes").unwrap();
        assert_eq!(status(&archive).pid, first.pid);
        assert!(threads() <= before + 16, "{}", threads());
        std::thread::sleep(Duration::from_millis(50));
    }
    // None keeps its place for long, whatever it says.
    wait_until("the slow ones to be turned away", || {
        for stream in slow.iter_mut().step_by(2) {
            let _ = stream.write_all(b"G");
        }
        std::thread::sleep(Duration::from_millis(100));
        let mut stream = TcpStream::connect(&addr).unwrap();
        let _ = stream.write_all(b"GET /json HTTP/1.0\r\n\r\n");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).is_ok() && answer.contains("200 OK")
    });
    drop(slow);
    std::thread::sleep(Duration::from_secs(3));
    // A header without an end.
    let resident = status(&archive).memory.resident;
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&addr).unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
        let junk = vec![b'x'; 1 << 20];
        while stream.write_all(&junk).is_ok() {}
    }
    let now = status(&archive).memory.resident;
    assert!(now < resident + (8 << 20), "{resident} to {now}");
    let refused = [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("GET /../etc/passwd HTTP/1.1\r\n\r\n", "404"),
        ("POST /json HTTP/1.1\r\n\r\n", "405"),
        ("\r\n\r\n", "400"),
        ("\0\0\n\n", "400"),
    ];
    for (request, code) in refused {
        let answer = ask(&addr, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    }
    parse(&get(&addr, "/metrics"));
    // Who reads nothing of the answer is left behind, too.
    let _silent =
        TcpStream::connect(&addr).map(|mut s| s.write_all(b"GET /metrics HTTP/1.1\r\n\r\n"));
    archive.umount();
}

#[test]
fn a_port_that_is_taken_is_told_before_anything_is_mounted() {
    let Some(archive) = Archive::unmounted() else {
        return;
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = fails(&mut archive.mount_command(&["--metrics", &port]), 1);
    assert!(said.contains("another port"), "{said}");
    let said = archive
        .mount_command(&["--metrics", "here"])
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(!archive.backing().join(".vortex").exists());
}
