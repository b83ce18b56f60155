//! YAML with bounds, and errors that name the key.

use serde::de::DeserializeOwned;

/// Characters of an error that are shown, of those that the file may have in them.
const SHOWN: usize = 240;

/// Reads what a configuration file says.
///
/// # Errors
/// One line that says what is wrong, and where.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // What a configuration can need, many times over: aliases and nesting multiply work.
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: 4096,
            max_nodes: 2048,
            max_depth: 16,
            max_aliases: 64,
            max_anchors: 64,
            max_documents: 1,
            max_recorded_anchor_events: 4096,
            max_recorded_anchor_bytes: 64 << 10,
            max_merge_keys: 64,
        },
    };
    let mut key = String::new();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| {
        serde_path_to_error::deserialize(yaml).map_err(|error| {
            key = error.path().to_string();
            error.into_inner()
        })
    });
    read.map_err(|error| explain(&key, &error.to_string()))
}

/// What the parser says of the value of `key`, in words for who wrote it.
fn explain(key: &str, said: &str) -> String {
    let said = said.lines().next().unwrap_or("not YAML");
    let plainer = [
        ("invalid u64", "not a whole number from 0 on"),
        ("invalid floating point", "not a number"),
        ("expected string scalar", "not a single value"),
        ("expected mapping start", "not a mapping of keys to values"),
        ("expected sequence start", "not a list"),
    ];
    let technical = plainer.iter().find(|(t, _)| said.starts_with(t));
    let said = match technical {
        Some((technical, plain)) => said.replacen(technical, plain, 1),
        None => said.to_string(),
    };
    // At the top it names the document.
    match key {
        "" | "." | "?" => shown(&said),
        key => format!("{}: {}", shown(key), shown(&said)),
    }
}

/// What a line can show of what may be anything.
fn shown(text: &str) -> String {
    let one = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.chars().take(SHOWN).map(one).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only errors are looked at")]
    struct Inner {
        count: usize,
        #[serde(default)]
        rate: f64,
        #[serde(default)]
        kinds: Vec<Kind>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        One,
    }

    #[test]
    fn a_wrong_value_is_told_with_its_key() {
        for (text, told) in [
            ("a: 3", "a: not a mapping of keys to values at line 1"),
            ("a:", "a"),
            (
                "a: {count: x}",
                "a.count: not a whole number from 0 on at line 1",
            ),
            ("a: {count: -1}", "a.count: not a whole number from 0 on"),
            ("a:\n  rate: 1\n  count:\nb: {}", "a.count: not a whole"),
            ("a:\n  \"count\": x", "a.count: not a whole"),
            ("a:\n  count : # b: c\n    x", "a.count: not a whole"),
            ("{\"a\": {\"count\": \"x\"}}", "a.count: not a whole"),
            (
                "a: {count: 1, rate: fast}",
                "a.rate: not a number at line 1",
            ),
            ("a: {count: 1, rate: [1]}", "a.rate: "),
            ("a: {count: 1, kinds: 3}", "a.kinds: not a list"),
            (
                "a: {count: 1, kinds: [one, two]}",
                "a.kinds[1]: unknown variant `two`",
            ),
            ("a: {count: 1, cuont: 2}", "unknown field `cuont`"),
            ("b: {}", "missing field `count`"),
            ("\"a\\nb\\e[1m\": {count: x}", "a b [1m.count: not a whole"),
            ("a: {\"cu\\r\\nont\": 2}", "unknown field `cu"),
            ("a: {count: 1", "line 1"),
        ] {
            let error = read::<BTreeMap<String, Inner>>(text).unwrap_err();
            let one_line = !error.contains(char::is_control) && error.contains("line ");
            assert!(error.contains(told) && one_line, "{text}: {error}");
        }
        assert!(read::<BTreeMap<String, Inner>>("a: {count: 1, rate: 2, kinds: [one]}").is_ok());
    }

    #[test]
    fn a_long_key_is_shown_in_part() {
        let text = format!("{}: {{count: x}}", "k".repeat(1000));
        let error = read::<BTreeMap<String, Inner>>(&text).unwrap_err();
        assert!(
            error.len() < 500 && error.contains("kkk...: not a whole"),
            "{error}"
        );
    }

    #[test]
    fn nesting_and_aliases_are_bounded() {
        assert!(read::<serde_json::Value>(&"[".repeat(100)).is_err());
        let many = format!("[&a 1{}]", ", *a".repeat(200));
        assert!(read::<serde_json::Value>(&many).is_err());
    }
}
