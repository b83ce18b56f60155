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

/// One's own profile, once files are packed with it: with its hash, its size and what a byte costs.
#[test]
fn profile_of_an_archive_is_listed_with_what_it_costs() {
    use vortex_fs::{codec::ModelId, engine::Model};
    let model = tiny_model(3);
    let (dir, own) = with_file("own.safetensors", &model);
    Archive::init(dir.path()).unwrap();
    let archive = Archive::open(dir.path(), Access::Write).unwrap();
    let profile = archive.models().profile(own.to_str().unwrap()).unwrap();
    archive.models().store(&profile).unwrap();
    drop(archive);
    let list = || {
        let mut command = vortex_fs();
        command.arg("profiles").arg(dir.path());
        command
    };
    let rows = json(&run(list().arg("--json"), GOOD));
    let rows = rows.as_array().unwrap();
    let built_in = rows.iter().filter(|row| row["built_in"] == true).count();
    assert_eq!((rows.len(), built_in), (4, 3), "{rows:?}");
    let config = Model::from_bytes(&model).unwrap().config().clone();
    let id = ModelId::of(&model).to_string();
    let row = rows.iter().find(|row| row["model"] == id.as_str()).unwrap();
    assert_eq!(row["built_in"], false);
    assert_eq!(row["stored_in_archive"], true);
    assert_eq!(row["bytes"].as_u64(), Some(model.len() as u64));
    let macs = config.macs_per_byte() as u64;
    assert_eq!(row["macs_per_byte"].as_u64(), Some(macs));
    let text = stdout(&run(&mut list(), GOOD));
    let line = text.lines().find(|line| line.contains(&id)).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words.contains(&macs.to_string().as_str()), "{text}");
    assert!(text.lines().next().unwrap().contains("MACS/BYTE"), "{text}");
    assert!(line.ends_with("archive"), "{text}");
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
