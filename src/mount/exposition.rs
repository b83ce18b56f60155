//! The figures in the text format of Prometheus, version 0.0.4.

use std::fmt::Write;

use crate::fs::{BOUNDS, Latency};
use crate::pack::status::{Cache, IdleState, Status};

/// All figures; names begin with `vortex_` and end in the unit, those of counters in `_total`.
pub(super) fn exposition(status: &Status) -> String {
    let mut out = Exposition(String::with_capacity(16 << 10));
    let s = status;
    out.head("info", "What runs.");
    out.sample("info", &[("version", &s.version)], 1);
    out.figures(&[
        ("uptime_seconds", "Time since the mount.", s.uptime),
        (
            "resident_bytes",
            "Resident memory of the daemon.",
            s.memory.resident,
        ),
    ]);
    if let Some(limit) = s.memory.limit {
        let help = "What that is to stay below.";
        out.figures(&[("memory_limit_bytes", help, limit)]);
    }
    let r = &s.requests;
    out.figures(&[
        ("requests_total", "Requests that were answered.", r.served),
        ("requests_running", "Requests under way.", r.running),
        ("open_handles", "Open files and directories.", r.open),
        (
            "nodes",
            "Files and directories that the kernel knows.",
            r.nodes,
        ),
    ]);
    out.caches(&[("block", s.cache), ("start", s.starts)]);
    out.disk_cache(s);
    out.decoding(s);
    let w = &s.writes;
    out.figures(&[
        (
            "dirty_bytes",
            "Written bytes that are only in memory.",
            w.dirty_bytes,
        ),
        (
            "dirty_files",
            "Files with something to commit.",
            w.dirty_files,
        ),
        (
            "stored_blocks_total",
            "Blocks encoded and stored.",
            w.stored_blocks,
        ),
        ("commits_total", "Commits of a file.", w.commits),
    ]);
    out.packing(s);
    out.background(s);
    out.0
}

struct Exposition(String);

impl Exposition {
    /// Heads a family; its kind follows from its name.
    fn head(&mut self, name: &str, help: &str) {
        let kind = match name {
            "decode_seconds" => "histogram",
            _ if name.ends_with("_total") => "counter",
            _ => "gauge",
        };
        let _ = writeln!(
            self.0,
            "# HELP vortex_{name} {help}\n# TYPE vortex_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str("vortex_");
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

    /// Families of one figure: names, helps, values.
    fn figures(&mut self, figures: &[(&str, &str, u64)]) {
        for &(name, help, value) in figures {
            self.head(name, help);
            self.sample(name, &[], value);
        }
    }

    fn caches(&mut self, caches: &[(&str, Cache)]) {
        type Of = fn(&Cache) -> u64;
        let families: [(&str, &str, Of); 4] = [
            ("cache_bytes", "Bytes in a cache.", |c| c.bytes),
            (
                "cache_limit_bytes",
                "Bytes that a cache holds at most.",
                |c| c.limit,
            ),
            (
                "cache_hits_total",
                "How often a cache had what was wanted.",
                |c| c.hits,
            ),
            (
                "cache_misses_total",
                "How often that had to be made.",
                |c| c.misses,
            ),
        ];
        for (name, help, of) in families {
            self.head(name, help);
            for (cache, figures) in caches {
                self.sample(name, &[("cache", cache)], of(figures));
            }
        }
    }

    fn disk_cache(&mut self, status: &Status) {
        let Some(d) = &status.disk_cache else { return };
        let families = [
            ("bytes", "Bytes of the disk cache.", d.bytes),
            ("limit_bytes", "Bytes that it may have.", d.limit),
            ("hits_total", "Blocks that it had.", d.hits),
            ("misses_total", "Blocks that had to be decoded.", d.misses),
            ("stored_total", "Blocks that were written to it.", d.stored),
            (
                "evicted_total",
                "Blocks that made room for others.",
                d.evicted,
            ),
            (
                "damaged_total",
                "Files that were not what they should be.",
                d.damaged,
            ),
        ];
        for (name, help, value) in families {
            self.figures(&[(&format!("disk_cache_{name}"), help, value)]);
        }
    }

    fn decoding(&mut self, status: &Status) {
        let name = "decode_seconds";
        self.head(name, "How long decoding a block took.");
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
                self.sample("decode_seconds_bucket", &labels, sum);
            }
            let labels = [("codec", codec), ("le", "+Inf")];
            self.sample("decode_seconds_bucket", &labels, decode.blocks);
            let seconds = decode.nanos as f64 / 1e9;
            self.sample("decode_seconds_sum", &[("codec", codec)], seconds);
            self.sample("decode_seconds_count", &[("codec", codec)], decode.blocks);
        }
    }

    fn packing(&mut self, status: &Status) {
        let p = &status.packing;
        self.figures(&[(
            "pack_jobs",
            "Jobs of pack and unpack that run or wait.",
            p.jobs,
        )]);
        let job = p.job.clone().unwrap_or_default();
        self.figures(&[
            (
                "pack_job_bytes",
                "Work of the job that runs: bytes to encode and to compare, or to decode.",
                job.bytes,
            ),
            ("pack_job_done_bytes", "How much of that is done.", job.done),
        ]);
        let name = "pack_files_total";
        self.head(name, "Files that were dealt with, by outcome.");
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
        self.figures(&[
            (
                "packed_logical_bytes_total",
                "Logical bytes of packed files.",
                p.logical,
            ),
            (
                "packed_before_bytes_total",
                "Stored bytes of packed files, before.",
                p.before,
            ),
            (
                "packed_after_bytes_total",
                "Stored bytes of packed files, after.",
                p.after,
            ),
        ]);
    }

    fn background(&mut self, status: &Status) {
        if let Some(idle) = &status.idle {
            self.figures(&[
                (
                    "idle_queue_files",
                    "Files that the background packer is still to pack.",
                    idle.queue_files,
                ),
                (
                    "idle_queue_bytes",
                    "Logical bytes of those.",
                    idle.queue_bytes,
                ),
                (
                    "idle_settled_files",
                    "Files that have nothing to gain.",
                    idle.settled,
                ),
                ("idle_looks_total", "Looks at the tree.", idle.looks),
                ("idle_rests_total", "Rests between two blocks.", idle.rests),
            ]);
            let name = "idle_rest_seconds_total";
            self.head(name, "Time of those.");
            self.sample(name, &[], idle.rested as f64 / 1e3);
            let name = "idle_state";
            self.head(name, "1 for what it is at.");
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
            self.figures(&[
                ("scrub_running", "1 while it runs.", running),
                (
                    "scrub_files",
                    "Segments checked in this pass, or in the last one.",
                    scrub.files,
                ),
                ("scrub_bytes", "Stored bytes of those.", scrub.bytes),
                (
                    "scrub_damaged_files",
                    "Files known to be damaged.",
                    scrub.damaged,
                ),
            ]);
            let help = "When the last pass ended; 0 for never.";
            let at = scrub.finished.unwrap_or(0);
            self.figures(&[("scrub_finished_timestamp_seconds", help, at)]);
        }
    }
}
