//! `vortex-fs profiles`: what there is to compress with.

use vortex_fs::store::{Access, Archive};

use crate::common::*;

#[test]
fn default_profile_is_built_in() {
    let rows = json(&run(vortex_fs().args(["profiles", "--json"]), GOOD));
    let default: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["is_default"] == true)
        .collect();
    assert_eq!(default.len(), 1, "{rows}");
    assert_eq!(default[0]["built_in"], true);
    assert_eq!(default[0]["model"].as_str().unwrap().len(), 32);
    assert!(default[0]["parameters"].as_u64().unwrap() > 0);
    let text = stdout(&run(vortex_fs().arg("profiles"), GOOD));
    assert!(
        text.contains(default[0]["model"].as_str().unwrap()),
        "{text}"
    );
}

#[test]
fn model_of_an_archive_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    Archive::init(dir.path()).unwrap();
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    let fast = archive.models().profile("fast").unwrap();
    archive.models().store(&fast).unwrap();
    drop(archive);
    let rows = json(&run(
        vortex_fs().args(["profiles", "--json"]).arg(dir.path()),
        GOOD,
    ));
    assert!(
        rows.as_array()
            .unwrap()
            .iter()
            .any(|row| row["stored_in_archive"] == true),
        "{rows}"
    );
}

#[test]
fn directory_that_is_no_archive_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let line = complaint(vortex_fs().arg("profiles").arg(dir.path()), FAILED);
    assert!(line.contains("in no archive"), "{line}");
}
