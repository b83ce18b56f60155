//! Numbers of bytes as people write and read them: `64K`, `256M`, `OFFSET:LENGTH`, `1.5 MiB`.
//!
//! Suffixes are powers of 1024 in both directions.

/// A number of bytes given on the command line.
pub type Size = u64;

/// Bytes `offset .. offset + length` of a file, as given to `--range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Number of bytes; none means up to the end of the file.
    pub length: Option<u64>,
}

/// Reads `4096`, `64K`, `64KiB`, `256M`, `1G`, `2T`: for clap's `value_parser`.
pub fn parse_size(text: &str) -> Result<Size, String> {
    let wrong = || format!("`{text}` is no size: write a number of bytes, or 64K, 256M, 1G");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Reads `OFFSET:LENGTH` or `OFFSET:`, both in the notation of [`parse_size`]: for clap's `value_parser`.
pub fn parse_range(text: &str) -> Result<Range, String> {
    let (offset, length) = text
        .split_once(':')
        .ok_or_else(|| format!("`{text}` is no range: write OFFSET:LENGTH, for example 1M:64K"))?;
    let offset = parse_size(offset)?;
    let length = match length {
        "" => None,
        length => Some(parse_size(length)?),
    };
    if offset.checked_add(length.unwrap_or(0)).is_none() {
        return Err(format!("`{text}` ends beyond any file"));
    }
    Ok(Range { offset, length })
}

/// `999 B`, `1.5 KiB`, `20.0 MiB`.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    while value >= 1023.95 {
        match units.next() {
            Some(next) => unit = next,
            None => break,
        }
        value /= 1024.0;
    }
    format!("{value:.1} {unit}")
}

/// How many times smaller the stored bytes are: `logical / stored`, none when nothing is stored.
pub fn ratio(logical: u64, stored: u64) -> Option<f64> {
    (stored > 0).then(|| logical as f64 / stored as f64)
}

/// `stored` as a share of `logical`, `12.3%`; `-` for an empty file.
pub fn percent(stored: u64, logical: u64) -> String {
    if logical == 0 {
        return "-".to_owned();
    }
    format!("{:.1}%", 100.0 * stored as f64 / logical as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("256M", 256 << 20),
            ("1G", 1 << 30),
            ("2TB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "1.5M",
            "64Q",
            "64 K",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_offset_and_length() {
        assert_eq!(
            parse_range("1K:10"),
            Ok(Range {
                offset: 1024,
                length: Some(10)
            })
        );
        assert_eq!(
            parse_range("7:"),
            Ok(Range {
                offset: 7,
                length: None
            })
        );
        for text in ["", "7", ":7", "a:b", "1:-1", "18446744073709551615:1"] {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_bytes_keep_four_digits_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (20 << 20, "20.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(show_bytes(bytes), text);
        }
    }
}
