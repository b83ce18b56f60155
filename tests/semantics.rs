//! Holds docs/SEMANTICS.md: promises are numbered in order, and each names tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A numbered sentence with all that belongs to it.
struct Promise {
    number: usize,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn promises() -> Vec<Promise> {
    let text = fs::read_to_string(root().join("docs/SEMANTICS.md")).expect("the document");
    let mut all: Vec<Promise> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let head = line
            .split_once(". ")
            .and_then(|(n, rest)| Some((n.parse().ok()?, rest)));
        if let Some((number, rest)) = head {
            let text = rest.to_string();
            all.push(Promise { number, text });
            inside = true;
        } else if !line.starts_with("   ") {
            inside = false;
        } else if let (true, Some(last)) = (inside, all.last_mut()) {
            last.text.push(' ');
            last.text.push_str(line.trim());
        }
    }
    all
}

/// The paths of all tests: modules from the crate's or the test program's name on, then the function.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (folder, is_library) in [("src", true), ("tests", false)] {
        let mut waiting = vec![root().join(folder)];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(dir).expect("a directory").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let module = module_of(&path, &root().join(folder), is_library);
                    let code = fs::read_to_string(&path).expect("a source file");
                    found.extend(tests_in(&code, &module));
                }
            }
        }
    }
    found
}

fn module_of(path: &Path, folder: &Path, is_library: bool) -> String {
    let inside: PathBuf = path
        .strip_prefix(folder)
        .expect("inside")
        .with_extension("");
    let mut names: Vec<String> = inside
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let entry = if is_library { "mod" } else { "main" };
    if names.last().is_some_and(|name| name == entry) {
        names.pop();
    }
    // The source files of a test program that is a package of its own.
    names.retain(|name| is_library || name != "src");
    names.join("::")
}

fn tests_in(code: &str, module: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut inner, mut marked) = (None, false);
    for line in code.lines() {
        let word = line.trim();
        if let Some(name) = line.strip_prefix("mod ").and_then(|m| m.strip_suffix(" {")) {
            inner = Some(name.to_string());
        } else if line == "}" {
            inner = None;
        }
        // Those that a scheduler runs are listed with how they are run.
        if let Some((many, name)) = word.strip_suffix(',').and_then(|w| w.split_once(' '))
            && matches!(many, "many" | "all")
        {
            found.push(format!("{module}::{name}"));
        }
        if word == "#[test]" {
            marked = true;
        } else if let (true, Some(rest)) = (marked, word.strip_prefix("fn ")) {
            let name = rest.split('(').next().unwrap_or_default();
            let path = [Some(module), inner.as_deref(), Some(name)];
            found.push(path.into_iter().flatten().collect::<Vec<_>>().join("::"));
            marked = false;
        }
    }
    found
}

/// Quoted words that can only be meant as paths of tests.
fn named(text: &str) -> Vec<&str> {
    let is_path = |word: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
        word.chars().all(plain) && (word.contains("::") || word.matches('_').count() > 1)
    };
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| is_path(word))
        .collect()
}

#[test]
fn promises_are_numbered_without_gaps() {
    let promises = promises();
    assert!(promises.len() > 40, "{} promises", promises.len());
    for (at, promise) in promises.iter().enumerate() {
        assert_eq!(promise.number, at + 1, "{}", promise.text);
    }
}

#[test]
fn each_promise_names_tests_that_exist() {
    let tests = tests();
    let mut wrong = Vec::new();
    for Promise { number, text } in promises() {
        let named = named(&text);
        if named.is_empty() {
            wrong.push(format!("promise {number} names no test"));
        }
        for path in named {
            let inside = format!("{path}::");
            if !tests.contains(path) && !tests.iter().any(|test| test.starts_with(&inside)) {
                wrong.push(format!("promise {number} names {path}, which is no test"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_name_would_be_found() {
    let code = "#[test]\nfn first() {\n}\nmod tests {\n    #[test]\n    fn second_one() {\n    }\n}\n#[test]\nfn third() {}\n";
    assert_eq!(
        tests_in(code, "a::b"),
        ["a::b::first", "a::b::tests::second_one", "a::b::third"]
    );
    assert_eq!(
        named("`fsync` of `a::b` in `st_size`, `two_in_one`, `EIO`"),
        ["a::b", "two_in_one"]
    );
}
