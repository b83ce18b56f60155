//! Makes the checksums of a segment right again, so that what was changed in it is not found at once.

/// Mends all that can be reached from the header, from the inside out.
pub fn checksums(bytes: &mut [u8]) {
    if bytes.len() < 40 {
        return;
    }
    bytes[..9].copy_from_slice(b"\x89VXS\r\n\x1a\n\0");
    if bytes[9] == 1 {
        let (at, len) = (number(bytes, 20, 8), number(bytes, 28, 4));
        directory(bytes, at, len);
        put_crc(bytes, 32, at, len);
    } else {
        let slots = number(bytes, 12, 8);
        for slot in [slots, slots.saturating_add(512)] {
            if number(bytes, slot, 4) == u64::from(u32::from_le_bytes(*b"VXRT")) {
                let (at, len) = (number(bytes, slot + 24, 8), number(bytes, slot + 4, 4));
                directory(bytes, at, len);
                put_crc(bytes, slot + 48, at, len);
                put_crc(bytes, slot + 52, slot, 52);
            }
        }
    }
    put_crc(bytes, 36, 0, 36);
}

/// The integer of so many bytes; 0 where the file has none.
fn number(bytes: &[u8], at: u64, len: usize) -> u64 {
    let mut raw = [0; 8];
    if let Some(found) = range(bytes.len(), at, len as u64).map(|r| &bytes[r]) {
        raw[..len].copy_from_slice(found);
    }
    u64::from_le_bytes(raw)
}

fn range(held: usize, at: u64, len: u64) -> Option<std::ops::Range<usize>> {
    let end = at.checked_add(len).filter(|&end| end <= held as u64)?;
    Some(at as usize..end as usize)
}

/// Writes at `to` the checksum of a range, if the file has both.
fn put_crc(bytes: &mut [u8], to: u64, at: u64, len: u64) {
    let held = bytes.len();
    if let (Some(to), Some(of)) = (range(held, to, 4), range(held, at, len)) {
        let crc = crc32c::crc32c(&bytes[of]);
        bytes[to].copy_from_slice(&crc.to_le_bytes());
    }
}

/// A place in the file.
struct At(u64);

impl At {
    fn u8(&mut self, bytes: &[u8]) -> u64 {
        self.0 = self.0.saturating_add(1);
        number(bytes, self.0 - 1, 1)
    }

    fn varint(&mut self, bytes: &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(bytes);
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }

    /// An offset, stored as the difference to `base`.
    fn offset(&mut self, bytes: &[u8], base: u64) -> u64 {
        let raw = self.varint(bytes);
        base.wrapping_add((raw >> 1) ^ (raw & 1).wrapping_neg())
    }

    /// The place of a checksum, of a payload or page, with that of the decoded bytes behind it if `both`.
    fn crc(&mut self, both: bool) -> u64 {
        let at = self.0;
        self.0 = self.0.saturating_add(if both { 8 } else { 4 });
        at
    }
}

fn directory(bytes: &mut [u8], start: u64, len: u64) {
    let end = start.saturating_add(len).min(bytes.len() as u64);
    let mut at = At(start);
    let models = at.u8(bytes);
    at.0 = at.0.saturating_add(16 * models);
    let states = at.varint(bytes);
    let mut base = 0;
    for _ in 0..states {
        if at.0 >= end {
            return;
        }
        let kind = at.u8(bytes);
        if kind == 255 {
            at.0 += 16;
            continue;
        }
        if kind & 32 != 0 {
            at.u8(bytes);
        }
        at.varint(bytes);
        let offset = at.offset(bytes, base);
        let (len, _) = (at.varint(bytes), at.varint(bytes));
        put_crc(bytes, at.crc(true), offset, len);
        base = offset.wrapping_add(len);
    }
    while at.0 < end {
        at.varint(bytes);
        let (offset, len) = (at.varint(bytes), at.varint(bytes));
        page(bytes, offset, len);
        put_crc(bytes, at.crc(false), offset, len);
    }
}

fn page(bytes: &mut [u8], start: u64, len: u64) {
    let end = start.saturating_add(len).min(bytes.len() as u64);
    let mut at = At(start);
    let mut base = 0;
    for _ in 0..at.varint(bytes).min(1024) {
        if at.0 >= end {
            return;
        }
        at.varint(bytes);
        let offset = at.offset(bytes, base);
        let (len, _, _) = (at.varint(bytes), at.varint(bytes), at.varint(bytes));
        let (codec, _, _) = (at.u8(bytes), at.u8(bytes), at.varint(bytes));
        let crc = at.crc(true);
        put_crc(bytes, crc, offset, len);
        if codec == 0 {
            put_crc(bytes, crc + 4, offset, len);
        }
        base = offset.wrapping_add(len);
    }
}
