//! YAML, JSON and the lines of `.vortex`.

use vortex_fs::pack::protocol::{Event, MAX_REQUEST, Request};
use vortex_fs::train::Settings;

use super::{bounded, refused};

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(text)
}

#[test]
fn yaml_that_multiplies_is_refused() {
    let mut laughs = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
    for (from, to) in ('a'..='y').zip('b'..='z') {
        let aliases = vec![format!("*{from}"); 9].join(",");
        laughs.push_str(&format!("{to}: &{to} [{aliases}]\n"));
    }
    let merges = (0..60).fold(String::from("m0: &m0 {k: 1}\n"), |text, n| {
        format!(
            "{text}m{}: &m{} {{<<: [*m{n}, *m{n}], k{n}: 1}}\n",
            n + 1,
            n + 1
        )
    });
    for (what, text) in [
        ("aliases of aliases", laughs),
        ("merges of merges", merges),
        ("deep lists", "[".repeat(60_000)),
        ("deep maps", "{a: ".repeat(15_000)),
        (
            "deep blocks",
            (0..300).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
        ),
        ("many documents", "---\na: 1\n".repeat(6000)),
        (
            "many anchors",
            (0..6000).map(|n| format!("- &a{n} 1\n")).collect(),
        ),
        ("many questions", "? ".repeat(30_000)),
        ("a long word", "x".repeat(65_000)),
        ("a longer word", "x".repeat(1 << 20)),
        ("no text", "\0\u{1}\u{feff}".to_string()),
        (
            "a huge number",
            format!("model: {{d_model: {}}}", "9".repeat(60_000)),
        ),
        ("an alias of itself", "a: &a [*a]".to_string()),
    ] {
        let error = refused(what, || parse(&text));
        assert!(!error.contains('\n') && error.len() < 400, "{error:?}");
    }
}

#[test]
fn requests_are_bounded() {
    let most = MAX_REQUEST as usize;
    let mut paths = String::from(r#"{"command":"pack","paths":["""#);
    while paths.len() + 8 < most {
        paths.push_str(r#",""#);
        paths.push('"');
    }
    paths.push_str("]}");
    bounded("as many paths as a request holds", || {
        serde_json::from_str::<Request>(&paths).expect("a request")
    });
    for (what, text) in [
        ("deep lists", "[".repeat(most)),
        ("deep maps", r#"{"a":"#.repeat(most / 5)),
        (
            "a number too large",
            r#"{"command":"pack","paths":[],"jobs":99999999999999999999999}"#.into(),
        ),
        ("an unknown command", r#"{"command":"shell"}"#.into()),
    ] {
        refused(what, || serde_json::from_str::<Request>(&text));
        refused(what, || serde_json::from_str::<Event>(&text));
    }
}
