//! Text that others chose, made fit for a terminal or a log.

use std::borrow::Cow;

/// `text` as one line that moves no cursor: control characters, and those that turn the direction of writing, are escaped.
///
/// Names of files and words found in them may hold anything, also what a terminal obeys.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn is_unsafe(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(shown("a b\u{e9}.csv"), "a b\u{e9}.csv");
        assert_eq!(
            shown("a\nb\x1b[2J\x07\u{9b}\u{202e}\r\t\x7f"),
            "a\\nb\\u{1b}[2J\\u{7}\\u{9b}\\u{202e}\\r\\t\\u{7f}"
        );
        let every: String = (0..=0x2100).filter_map(char::from_u32).collect();
        assert!(!shown(&every).contains(is_unsafe));
    }
}
