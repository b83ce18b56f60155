//! YAML with bounds, and errors that name the key.

use serde::de::DeserializeOwned;

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
    serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(text, &error))
}

/// What the parser says of a value, in words for who wrote it, and of which key it is the value.
fn explain(text: &str, error: &serde_saphyr::Error) -> String {
    let said = error.to_string();
    let said = said.lines().next().unwrap_or("not YAML");
    let plainer = [
        ("invalid u64", "not a whole number"),
        ("invalid f64", "not a number"),
        ("expected string scalar", "not a single value"),
        ("expected mapping start", "not a mapping of keys to values"),
        ("expected sequence start", "not a list"),
    ];
    let Some((technical, plain)) = plainer.iter().find(|(t, _)| said.starts_with(t)) else {
        return said.to_string();
    };
    let said = said.replacen(technical, plain, 1);
    let key = error.location().and_then(|place| {
        let (line, column) = (place.line() as usize, place.column() as usize);
        let lines = text.lines().take(line);
        let mut before: Vec<&str> = lines.collect();
        let last = before.pop()?;
        let until: String = last.chars().take(column.saturating_sub(1)).collect();
        key_of(&until).or_else(|| before.into_iter().rev().find_map(key_of))
    });
    match key {
        Some(key) => format!("`{key}`: {said}"),
        None => said,
    }
}

/// The last word before a colon.
fn key_of(text: &str) -> Option<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.rmatch_indices(':').find_map(|(at, _)| {
        let word = text[..at].rsplit(|c| !is_word(c)).next()?;
        (!word.is_empty()).then(|| word.to_string())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn error(text: &str) -> String {
        read::<BTreeMap<String, BTreeMap<String, Vec<u64>>>>(text).unwrap_err()
    }

    #[test]
    fn a_wrong_value_is_told_with_its_key() {
        for (text, told) in [
            ("a: 3", "`a`: not a mapping of keys to values at line 1"),
            ("a: {b: 3}", "`b`: not a list at line 1"),
            (
                "a: {b: [1], c: [1, x]}",
                "`c`: not a whole number at line 1",
            ),
            (
                "a:\n  b:\n  - 1\n  - 2.5\n",
                "`b`: not a whole number at line 4",
            ),
            ("a: {b: [{c: 1}]}", "line 1"),
            ("a: {b: [1]", "line 1"),
        ] {
            let error = error(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn nesting_and_aliases_are_bounded() {
        assert!(read::<serde_json::Value>(&"[".repeat(100)).is_err());
        let many = format!("[&a 1{}]", ", *a".repeat(200));
        assert!(read::<serde_json::Value>(&many).is_err());
    }
}
