//! Counters of the running machine, read from /proc: real telemetry that every Linux machine has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file of /proc that is read again and again, and the fields found in its first reading.
#[derive(Debug)]
pub struct Counters {
    name: &'static str,
    file: File,
    text: Vec<u8>,
    fields: Vec<String>,
}

/// The sources, and the names of their recordings.
const SOURCES: [(&str, &str); 4] = [
    ("/proc/stat", "cpu"),
    ("/proc/meminfo", "memory"),
    ("/proc/net/dev", "network"),
    ("/proc/vmstat", "vmstat"),
];

/// Longest text that is read of a source.
const MAX_TEXT: usize = 1 << 16;

impl Counters {
    /// Opens every source that this machine has.
    ///
    /// # Errors
    /// It has none of them.
    pub fn open_all() -> io::Result<Vec<Counters>> {
        let found: Vec<Counters> = SOURCES
            .into_iter()
            .filter_map(|(path, name)| Counters::open(path, name).ok())
            .filter(|counters| !counters.fields.is_empty())
            .collect();
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "/proc has no counters; mount it",
            ));
        }
        Ok(found)
    }

    fn open(path: &str, name: &'static str) -> io::Result<Counters> {
        let mut counters = Counters {
            name,
            file: File::open(path)?,
            text: vec![0; MAX_TEXT],
            fields: Vec::new(),
        };
        let text = counters.read_text()?;
        let fields = parse(text).into_iter().map(|(field, _)| field).collect();
        counters.fields = fields;
        Ok(counters)
    }

    /// What its recordings are called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Names of the values, in their order.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Reads the present values, as many as there are fields; a value that is gone is 0.
    ///
    /// # Errors
    /// I/O errors.
    pub fn read(&mut self, values: &mut Vec<u64>) -> io::Result<()> {
        let fields = self.fields.len();
        values.clear();
        values.extend(parse(self.read_text()?).into_iter().map(|(_, value)| value));
        values.resize(fields, 0);
        Ok(())
    }

    fn read_text(&mut self) -> io::Result<&str> {
        let mut len = 0;
        while let Some(rest) = self.text.get_mut(len..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, len as u64)? {
                0 => break,
                n => len += n,
            }
        }
        let text = self.text.get(..len).unwrap_or_default();
        std::str::from_utf8(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }
}

/// All numbers of a /proc text with names made of the line's first word and the number's place in the line.
fn parse(text: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        // A list of every interrupt since the start of the machine: thousands of zeros on some.
        if matches!(first, "intr" | "softirq") {
            continue;
        }
        let name = first.trim_end_matches(':');
        let values: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        if let [value] = values.as_slice() {
            found.push((name.to_owned(), *value));
        } else {
            found.extend(
                values
                    .into_iter()
                    .enumerate()
                    .map(|(i, value)| (format!("{name}.{i}"), value)),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_named_by_line_and_place() {
        let text =
            "cpu  1 2 3\nintr 9 9 9\nctxt 77\nMemFree:  12 kB\nInter-| Receive\n eth0: 5 6\n";
        let expected = [
            ("cpu.0", 1),
            ("cpu.1", 2),
            ("cpu.2", 3),
            ("ctxt", 77),
            ("MemFree", 12),
            ("eth0.0", 5),
            ("eth0.1", 6),
        ];
        let expected: Vec<_> = expected
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn this_machine_has_counters_of_constant_number() {
        for mut counters in Counters::open_all().unwrap() {
            let mut values = Vec::new();
            counters.read(&mut values).unwrap();
            assert_eq!(values.len(), counters.fields().len());
            assert!(values.iter().any(|&v| v > 0), "{}", counters.name());
        }
    }
}
