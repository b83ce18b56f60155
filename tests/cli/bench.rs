//! `vortex-fs bench codec`: figures of files, beside those of other compressors.

use crate::common::*;

#[test]
fn figures_of_files_and_their_sum() {
    let (dir, _path) = with_file("a.csv", &csv(40));
    std::fs::write(dir.path().join("b.bin"), records(2000)).unwrap();
    let rows = json(&run(
        vortex_fs()
            .args(["bench", "codec", "--peers", "--json"])
            .arg(dir.path()),
        GOOD,
    ));
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(
            row["stored"].as_u64() > Some(0) && row["stored"].as_u64() < row["bytes"].as_u64(),
            "{row}"
        );
        assert!(
            row["xz_9"].as_u64() > Some(0) && row["unpack_mb_s"].as_f64() > Some(0.0),
            "{row}"
        );
    }
    let text = stdout(&run(
        vortex_fs().args(["bench", "codec"]).arg(dir.path()),
        GOOD,
    ));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].contains("bits/B") && lines[3].contains("all files"),
        "{text}"
    );
}

#[test]
fn missing_file_is_named() {
    let line = complaint(
        vortex_fs().args(["bench", "codec", "/no/such/file"]),
        FAILED,
    );
    assert!(line.contains("/no/such/file: no such file"), "{line}");
}
