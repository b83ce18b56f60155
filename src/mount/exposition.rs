//! The figures in the text format of Prometheus, version 0.0.4.

use std::fmt::Write;

use crate::fs::{BOUNDS, Latency};
use crate::pack::status::{Cache, IdleState, Status};

/// All figures; names end in the unit, those of counters in `_total`.
pub(super) fn exposition(status: &Status) -> String {
    let mut out = Exposition(String::with_capacity(16 << 10));
    let s = status;
    out.head("vortex_info", "gauge", "What runs.");
    out.sample("vortex_info", &[("version", &s.version)], 1);
    out.gauge("vortex_uptime_seconds", "Time since the mount.", s.uptime);
    let text = "Resident memory of the daemon.";
    out.gauge("vortex_resident_bytes", text, s.memory.resident);
    if let Some(limit) = s.memory.limit {
        let text = "What that is to stay below.";
        out.gauge("vortex_memory_limit_bytes", text, limit);
    }
    let text = "Requests that were answered.";
    out.counter("vortex_requests_total", text, s.requests.served);
    let text = "Requests under way.";
    out.gauge("vortex_requests_running", text, s.requests.running);
    let text = "Open files and directories.";
    out.gauge("vortex_open_handles", text, s.requests.open);
    let text = "Files and directories that the kernel knows.";
    out.gauge("vortex_nodes", text, s.requests.nodes);
    out.caches(&[("block", s.cache), ("start", s.starts)]);
    out.disk_cache(s);
    out.decoding(s);
    let text = "Written bytes that are only in memory.";
    out.gauge("vortex_dirty_bytes", text, s.writes.dirty_bytes);
    let text = "Files with something to commit.";
    out.gauge("vortex_dirty_files", text, s.writes.dirty_files);
    let text = "Blocks encoded and stored.";
    out.counter("vortex_stored_blocks_total", text, s.writes.stored_blocks);
    let text = "Commits of a file.";
    out.counter("vortex_commits_total", text, s.writes.commits);
    out.packing(s);
    out.background(s);
    out.0
}

struct Exposition(String);

impl Exposition {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            let text = text.replace('\n', "\\n");
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn caches(&mut self, caches: &[(&str, Cache)]) {
        type Of = fn(&Cache) -> u64;
        let families: [(&str, &str, &str, Of); 4] = [
            ("vortex_cache_bytes", "gauge", "Bytes in a cache.", |c| {
                c.bytes
            }),
            (
                "vortex_cache_limit_bytes",
                "gauge",
                "Bytes that a cache holds at most.",
                |c| c.limit,
            ),
            (
                "vortex_cache_hits_total",
                "counter",
                "How often a cache had what was wanted.",
                |c| c.hits,
            ),
            (
                "vortex_cache_misses_total",
                "counter",
                "How often that had to be made.",
                |c| c.misses,
            ),
        ];
        for (name, kind, help, of) in families {
            self.head(name, kind, help);
            for (cache, figures) in caches {
                self.sample(name, &[("cache", cache)], of(figures));
            }
        }
    }

    fn disk_cache(&mut self, status: &Status) {
        let Some(d) = &status.disk_cache else { return };
        let text = "Bytes of the disk cache.";
        self.gauge("vortex_disk_cache_bytes", text, d.bytes);
        let text = "Bytes that it may have.";
        self.gauge("vortex_disk_cache_limit_bytes", text, d.limit);
        let text = "Blocks that it had.";
        self.counter("vortex_disk_cache_hits_total", text, d.hits);
        let text = "Blocks that had to be decoded.";
        self.counter("vortex_disk_cache_misses_total", text, d.misses);
        let text = "Blocks that were written to it.";
        self.counter("vortex_disk_cache_stored_total", text, d.stored);
        let text = "Blocks that made room for others.";
        self.counter("vortex_disk_cache_evicted_total", text, d.evicted);
        let text = "Files that were not what they should be.";
        self.counter("vortex_disk_cache_damaged_total", text, d.damaged);
    }

    fn decoding(&mut self, status: &Status) {
        let name = "vortex_decode_seconds";
        self.head(name, "histogram", "How long decoding a block took.");
        for decode in &status.decode {
            let codec = decode.codec.as_str();
            let mut sum = 0;
            for n in 0..BOUNDS {
                let bound = Latency::bound(n);
                let up_to = u64::try_from(bound.as_micros()).ok();
                let here = decode.latency.iter().find(|b| b.up_to == up_to);
                sum += here.map_or(0, |b| b.blocks);
                let le = bound.as_secs_f64().to_string();
                let labels = [("codec", codec), ("le", le.as_str())];
                self.sample("vortex_decode_seconds_bucket", &labels, sum);
            }
            let labels = [("codec", codec), ("le", "+Inf")];
            self.sample("vortex_decode_seconds_bucket", &labels, decode.blocks);
            let seconds = decode.nanos as f64 / 1e9;
            self.sample("vortex_decode_seconds_sum", &[("codec", codec)], seconds);
            self.sample(
                "vortex_decode_seconds_count",
                &[("codec", codec)],
                decode.blocks,
            );
        }
    }

    fn packing(&mut self, status: &Status) {
        let p = &status.packing;
        let text = "Jobs of pack and unpack that run or wait.";
        self.gauge("vortex_pack_jobs", text, p.jobs);
        let job = p.job.clone().unwrap_or_default();
        let text = "Work of the job that runs: bytes to encode and to compare, or to decode.";
        self.gauge("vortex_pack_job_bytes", text, job.bytes);
        let text = "How much of that is done.";
        self.gauge("vortex_pack_job_done_bytes", text, job.done);
        let name = "vortex_pack_files_total";
        self.head(name, "counter", "Files that were dealt with, by outcome.");
        let outcomes = [
            ("packed", p.packed),
            ("left", p.left),
            ("unpacked", p.unpacked),
            ("skipped", p.skipped),
            ("failed", p.failed),
        ];
        for (outcome, files) in outcomes {
            self.sample(name, &[("outcome", outcome)], files);
        }
        let text = "Logical bytes of packed files.";
        self.counter("vortex_packed_logical_bytes_total", text, p.logical);
        let text = "Stored bytes of packed files, before.";
        self.counter("vortex_packed_before_bytes_total", text, p.before);
        let text = "Stored bytes of packed files, after.";
        self.counter("vortex_packed_after_bytes_total", text, p.after);
    }

    fn background(&mut self, status: &Status) {
        if let Some(idle) = &status.idle {
            let text = "Files that the background packer is still to pack.";
            self.gauge("vortex_idle_queue_files", text, idle.queue_files);
            let text = "Logical bytes of those.";
            self.gauge("vortex_idle_queue_bytes", text, idle.queue_bytes);
            let text = "Files that have nothing to gain.";
            self.gauge("vortex_idle_settled_files", text, idle.settled);
            let text = "Looks at the tree.";
            self.counter("vortex_idle_looks_total", text, idle.looks);
            let text = "Rests between two blocks.";
            self.counter("vortex_idle_rests_total", text, idle.rests);
            let name = "vortex_idle_rest_seconds_total";
            self.head(name, "counter", "Time of those.");
            self.sample(name, &[], idle.rested as f64 / 1e3);
            let name = "vortex_idle_state";
            self.head(name, "gauge", "1 for what it is at.");
            let states = [
                (IdleState::Waiting, "waiting"),
                (IdleState::Looking, "looking"),
                (IdleState::Packing, "packing"),
                (IdleState::Resting, "resting"),
            ];
            for (state, text) in states {
                self.sample(name, &[("state", text)], u8::from(idle.state == state));
            }
        }
        if let Some(scrub) = &status.scrub {
            let running = u64::from(scrub.running);
            self.gauge("vortex_scrub_running", "1 while it runs.", running);
            let text = "Segments checked in this pass, or in the last one.";
            self.gauge("vortex_scrub_files", text, scrub.files);
            let text = "Stored bytes of those.";
            self.gauge("vortex_scrub_bytes", text, scrub.bytes);
            let text = "Files known to be damaged.";
            self.gauge("vortex_scrub_damaged_files", text, scrub.damaged);
            let text = "When the last pass ended; 0 for never.";
            let at = scrub.finished.unwrap_or(0);
            self.gauge("vortex_scrub_finished_timestamp_seconds", text, at);
        }
    }
}
