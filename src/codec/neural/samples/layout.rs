//! Where the numbers of a record lie.

use super::super::NeuralError;

/// Most columns of a record.
pub(crate) const MAX_COLUMNS: usize = MAX_RECORD / WIDTH;
/// Longest record that has columns, in bytes.
pub(crate) const MAX_RECORD: usize = 128;
/// Bytes of a number.
pub(super) const WIDTH: usize = 2;

/// A whole number of [`WIDTH`] bytes with a sign in each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Column {
    /// Its first byte, counted from the record's.
    pub(super) at: u8,
    /// The most significant byte comes first.
    pub(super) big: bool,
}

/// The columns of a record, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    columns: [Column; MAX_COLUMNS],
    count: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            columns: [Column::default(); MAX_COLUMNS],
            count: 0,
        }
    }
}

impl Layout {
    /// A layout of at most [`MAX_COLUMNS`] columns; of more there is none.
    pub(super) fn of(found: &[Column]) -> Option<Self> {
        let mut layout = Layout {
            count: found.len(),
            ..Layout::default()
        };
        layout
            .columns
            .get_mut(..found.len())?
            .copy_from_slice(found);
        Some(layout)
    }

    pub(crate) fn columns(&self) -> &[Column] {
        &self.columns[..self.count]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends it as the payload's header holds it: the number of columns, then a byte for each.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.count as u8);
        for c in self.columns() {
            out.push(c.at | u8::from(c.big) << 7);
        }
    }

    /// Reads what [`Layout::write`] wrote for records of `stride` bytes, and returns what follows it.
    pub(crate) fn read(bytes: &[u8], stride: usize) -> Result<(Self, &[u8]), NeuralError> {
        let (&count, bytes) = bytes.split_first().ok_or(NeuralError::Truncated)?;
        let count = usize::from(count);
        if count > MAX_COLUMNS || stride > MAX_RECORD {
            return Err(NeuralError::Plan);
        }
        let (raw, rest) = (bytes.split_at_checked(count)).ok_or(NeuralError::Truncated)?;
        let mut layout = Layout {
            count,
            ..Layout::default()
        };
        let mut end = 0;
        for (column, raw) in layout.columns.iter_mut().zip(raw) {
            *column = Column {
                at: raw & 127,
                big: raw & 128 != 0,
            };
            if usize::from(column.at) < end {
                return Err(NeuralError::Plan);
            }
            end = usize::from(column.at) + WIDTH;
        }
        if count == 0 || end > stride {
            return Err(NeuralError::Plan);
        }
        Ok((layout, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(at: u8) -> Column {
        Column {
            at,
            big: at.is_multiple_of(4),
        }
    }

    #[test]
    fn layouts_read_back() {
        let layout = Layout::of(&[column(0), column(3), column(10)]).unwrap();
        let mut out = Vec::new();
        layout.write(&mut out);
        out.push(99);
        assert_eq!(Layout::read(&out, 12), Ok((layout, &[99][..])));
        assert_eq!(Layout::read(&out, 11), Err(NeuralError::Plan));
        assert_eq!(Layout::read(&out[..3], 12), Err(NeuralError::Truncated));
    }

    #[test]
    fn impossible_layouts_are_refused() {
        let refused = |columns: &[Column], stride| {
            let mut out = Vec::new();
            Layout::of(columns).unwrap().write(&mut out);
            assert_eq!(Layout::read(&out, stride), Err(NeuralError::Plan));
        };
        refused(&[], 8);
        refused(&[column(2), column(0)], 8);
        refused(&[column(0), column(1)], 8);
        refused(&[column(0)], MAX_RECORD + 1);
        assert_eq!(Layout::read(&[65; 80], 128), Err(NeuralError::Plan));
    }
}
