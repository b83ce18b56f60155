//! Holds the import table of docs/DESIGN.md: who may know of whom, and which crate is whose alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every module and the modules that it may import, in the order of the table in docs/DESIGN.md.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "demo", "bench", "mount", "pack", "fs", "store", "train", "model", "segment", "codec",
            "profiles", "engine",
        ],
    ),
    (
        "demo",
        &[
            "bench", "mount", "pack", "fs", "store", "train", "model", "segment", "codec",
            "profiles", "engine",
        ],
    ),
    (
        "bench",
        &[
            "demo", "mount", "pack", "fs", "store", "train", "model", "segment", "codec",
            "profiles", "engine",
        ],
    ),
    (
        "mount",
        &[
            "pack", "fs", "store", "segment", "codec", "profiles", "engine",
        ],
    ),
    (
        "pack",
        &["fs", "store", "segment", "codec", "profiles", "engine"],
    ),
    (
        "fs",
        &["store", "segment", "codec", "profiles", "engine", "sync"],
    ),
    ("store", &["segment", "codec", "profiles", "engine", "sync"]),
    ("train", &["model", "codec", "profiles", "engine"]),
    ("model", &["engine"]),
    ("segment", &["codec"]),
    ("codec", &["engine"]),
    ("profiles", &["engine"]),
    ("engine", &[]),
    ("sync", &[]),
];

/// Crates that only the named modules may use.
const CRATE_OWNERS: &[(&str, &[&str])] = &[
    ("fuser", &["mount"]),
    ("candle_core", &["model", "train"]),
    ("candle_nn", &["model", "train"]),
    ("clap", &["cli"]),
    ("plotters", &["train"]),
    ("constriction", &["codec"]),
];

/// Cap on the length of a source file; docs and tests count, as they do for the reader.
const MAX_LINES: usize = 800;

#[test]
fn imports_point_downward_only() {
    let mut wrong = Vec::new();
    for file in sources() {
        for module in imported_modules(&file) {
            if module != file.module && !may_import(&file.module, &module) {
                wrong.push(format!("{} imports {module}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_stay_with_their_owners() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (name, owners) in CRATE_OWNERS {
            if !owners.contains(&file.module.as_str()) && names_crate(&file.code, name) {
                wrong.push(format!("{} uses {name}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_row_in_the_design() {
    let design = fs::read_to_string(root().join("docs/DESIGN.md")).unwrap();
    let rows: BTreeSet<String> = design
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().trim_matches('`').to_owned())
        .collect();
    let known: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let modules: BTreeSet<String> = sources().into_iter().map(|file| file.module).collect();
    assert!(!modules.is_empty());
    for module in modules {
        assert!(
            known.contains_key(module.as_str()),
            "{module} is not in tests/layers.rs"
        );
        assert!(
            rows.contains(&module),
            "{module} has no row in docs/DESIGN.md"
        );
    }
}

#[test]
fn no_source_file_outgrows_its_reader() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|file| file.lines > MAX_LINES)
        .map(|file| format!("{}: {} lines", file.path.display(), file.lines))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn the_parser_sees_every_form_of_import() {
    let code = "use crate::fs::Node;\nuse crate::{store::{A, crate_b}, codec};\n\
                fn f() { crate::mount::run(); $crate::pack::go() }\nlet subcrate::x = 1;";
    let found = crate_paths(code);
    for module in ["fs", "store", "codec", "mount", "pack"] {
        assert!(found.contains(module), "{module} is not among {found:?}");
    }
    assert!(
        !found.contains("x") && !found.contains("crate_b"),
        "{found:?}"
    );
    assert!(names_crate("use fuser::Session;", "fuser"));
    assert!(names_crate("let x: fuser::Session;", "fuser"));
    assert!(!names_crate("let fuser = 1; defuser::x", "fuser"));
    assert_eq!(
        without_comments("a // crate::fs\n/// crate::fs\nb"),
        "a \n\nb"
    );
}

struct Source {
    path: PathBuf,
    module: String,
    code: String,
    lines: usize,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the library's modules; `src/lib.rs` and the binaries only name modules.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(&src).unwrap();
            if path.is_dir() {
                if inside != Path::new("bin") {
                    folders.push(path);
                }
                continue;
            }
            if path.extension().is_none_or(|e| e != "rs") || inside == Path::new("lib.rs") {
                continue;
            }
            let first = inside.iter().next().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source {
                module: first.trim_end_matches(".rs").to_owned(),
                lines: text.lines().count(),
                code: without_comments(&text),
                path: inside.to_owned(),
            });
        }
    }
    found
}

fn may_import(module: &str, imported: &str) -> bool {
    // Names at the crate's root that are no modules (macros, re-exports) belong to nobody.
    let is_module = MAY_IMPORT.iter().any(|(name, _)| *name == imported);
    !is_module
        || MAY_IMPORT
            .iter()
            .any(|(name, allowed)| *name == module && allowed.contains(&imported))
}

fn imported_modules(file: &Source) -> BTreeSet<String> {
    let mut found = crate_paths(&file.code);
    // A file of tests is a module inside another file, so `super` counts differently there.
    if file.path.to_string_lossy().ends_with("tests.rs") {
        return found;
    }
    // `use super::fs` in `src/mount/mod.rs` reaches the crate's root as well.
    let depth = file.path.components().count();
    let is_mod = file.path.file_name().is_some_and(|name| name == "mod.rs");
    let to_root = "super::".repeat(if is_mod { depth - 1 } else { depth });
    for line in file.code.lines() {
        if let Some(rest) = line.strip_prefix(&format!("use {to_root}")) {
            found.extend(leading_names(rest));
        }
    }
    found
}

/// The `x` of every `crate::x` and of every item in `crate::{x::y, z}`.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        found.extend(leading_names(&code[at + "crate::".len()..]));
    }
    found
}

/// `x` of `x::y`, or `x` and `z` of `{x::{y, w}, z}`.
fn leading_names(path: &str) -> Vec<String> {
    let name_of = |text: &str| -> String {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![name_of(path)];
    };
    let (mut depth, mut names, mut at_start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_start = true,
            c if at_start && !c.is_whitespace() => {
                names.push(name_of(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
    }
    names
}

fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + name.len()..];
        let whole = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        whole
            && (after.starts_with("::")
                || code[..at].ends_with("use ") && after.starts_with([';', ' ']))
    })
}

/// Drops line comments, the only kind the project writes; a `//` inside a string goes as well, which is harmless here.
fn without_comments(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.find("//").map_or(line, |at| &line[..at]))
        .collect();
    lines.join("\n")
}
