//! Sets of byte ranges: the dead space of a live segment.

use std::collections::BTreeMap;
use std::ops::Range;

/// Byte ranges, joined where they touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range and answers the joined range that it is now part of.
    pub(super) fn insert(&mut self, range: Range<u64>) -> Range<u64> {
        let Range { mut start, mut end } = range;
        if start >= end {
            return start..start;
        }
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.ranges.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
        start..end
    }

    /// Adds all ranges of another set.
    pub(super) fn extend(&mut self, other: RangeSet) {
        for (start, end) in other.ranges {
            self.insert(start..end);
        }
    }

    /// Adds the ranges of `dead` and takes out every whole multiple of `unit` that they complete.
    pub(super) fn take_aligned(&mut self, dead: RangeSet, unit: u64) -> Vec<Range<u64>> {
        let mut taken: Vec<Range<u64>> = Vec::new();
        for (start, end) in dead.ranges {
            let joined = self.insert(start..end);
            let inner = joined.start.next_multiple_of(unit)..joined.end / unit * unit;
            if inner.start >= inner.end {
                continue;
            }
            self.ranges.remove(&joined.start);
            self.insert(joined.start..inner.start);
            self.insert(inner.end..joined.end);
            taken.push(inner);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn holds_what_was_added_and_gives_whole_units_once(
            groups in proptest::collection::vec(proptest::collection::vec((0..60u64, 0..12u64), 0..4), 0..12)
        ) {
            let mut set = RangeSet::default();
            let mut bytes = BTreeSet::new();
            let mut given = BTreeSet::new();
            for group in groups {
                let mut dead = RangeSet::default();
                for (start, len) in group {
                    let fresh = (start..start + len).filter(|b| !given.contains(b) && !bytes.contains(b));
                    for b in fresh.collect::<Vec<_>>() {
                        dead.insert(b..b + 1);
                        bytes.insert(b);
                    }
                }
                for range in set.take_aligned(dead, 8) {
                    prop_assert!(range.start % 8 == 0 && range.end % 8 == 0);
                    for b in range {
                        prop_assert!(bytes.remove(&b) && given.insert(b));
                    }
                }
                let held: BTreeSet<u64> = set.ranges.iter().flat_map(|(&s, &e)| s..e).collect();
                prop_assert_eq!(&held, &bytes);
                let ends: Vec<_> = set.ranges.iter().map(|(&s, &e)| (s, e)).collect();
                prop_assert!(ends.windows(2).all(|w| w[0].1 < w[1].0), "ranges touch: {:?}", ends);
                prop_assert!((0..72).step_by(8).all(|u| !(u..u + 8).all(|b| held.contains(&b))));
            }
        }
    }
}
