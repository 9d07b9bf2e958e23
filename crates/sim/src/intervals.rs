//! A set of addresses as disjoint intervals: which bytes of device memory have been written.
use std::collections::BTreeMap;

use crate::engine::Range;

/// Disjoint, non-adjacent ranges: a map from their begin to their end.
#[derive(Debug, Default)]
pub struct Intervals(BTreeMap<u64, u64>);

impl Intervals {
    /// Adds a range.
    pub fn insert(&mut self, range: Range) {
        let Range { mut begin, mut end } = range;
        if let Some((&before, &reach)) = self.0.range(..=begin).next_back()
            && reach >= begin
        {
            begin = before;
            end = end.max(reach);
        }
        while let Some((&next, &reach)) = self.0.range(begin..=end).next() {
            self.0.remove(&next);
            end = end.max(reach);
        }
        self.0.insert(begin, end);
    }

    /// Removes a range.
    pub fn remove(&mut self, range: Range) {
        for edge in [range.begin, range.end] {
            if let Some((&before, reach)) = self.0.range_mut(..edge).next_back()
                && *reach > edge
            {
                let end = std::mem::replace(reach, edge);
                debug_assert!(before < edge);
                self.0.insert(edge, end);
            }
        }
        let inside: Vec<u64> = self.0.range(range.begin..range.end).map(|(begin, _)| *begin).collect();
        for begin in inside {
            self.0.remove(&begin);
        }
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.0.iter().map(|(&begin, &end)| Range { begin, end })
    }

    /// The number of bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(begin, end)| end - begin).sum()
    }

    /// The first address of a range that is not in the set.
    pub fn gap(&self, range: Range) -> Option<u64> {
        let reach = self.0.range(..=range.begin).next_back().map_or(range.begin, |(_, end)| range.begin.max(*end));
        (reach < range.end).then_some(reach)
    }
}
