//! Race detection between operations of streams: who last read and wrote each range of bytes.
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::clock::{Clock, Moment};
use crate::engine::Range;

/// An operation that touched memory.
#[derive(Clone, Debug)]
pub struct Touch {
    pub moment: Moment,
    pub name: Rc<str>,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    end: u64,
    writer: Option<Touch>,
    readers: Vec<Touch>,
}

/// Two operations that are not ordered.
pub struct Conflict {
    pub at: u64,
    pub earlier: Touch,
    pub earlier_wrote: bool,
}

/// Disjoint segments by their first byte. Bytes are in no segment if all their users are known to have finished.
#[derive(Default)]
pub struct History(BTreeMap<u64, Segment>);

impl History {
    /// Records an access by `touch`, which happened after everything that `clock` covers, and returns the first
    /// conflict.
    pub fn access(&mut self, range: Range, write: bool, touch: &Touch, clock: &Clock) -> Option<Conflict> {
        self.split(range.begin);
        self.split(range.end);
        let mut conflict = None;
        let mut gaps = Vec::new();
        let mut at = range.begin;
        for (&begin, segment) in self.0.range_mut(range.begin..range.end) {
            if begin > at {
                gaps.push((at, begin));
            }
            at = segment.end;
            let ordered = |other: &Touch| other.moment.stream == touch.moment.stream || clock.covers(other.moment);
            let writer = segment.writer.iter().map(|writer| (writer, true));
            let readers = segment.readers.iter().filter(|_| write).map(|reader| (reader, false));
            if conflict.is_none()
                && let Some((other, earlier_wrote)) = writer.chain(readers).find(|(other, _)| !ordered(other))
            {
                conflict = Some(Conflict { at: begin, earlier: other.clone(), earlier_wrote });
            }
            if !write {
                segment.readers.retain(|reader| reader.moment.stream != touch.moment.stream);
                segment.readers.push(touch.clone());
            }
        }
        if at < range.end {
            gaps.push((at, range.end));
        }
        if write {
            let inside: Vec<u64> = self.0.range(range.begin..range.end).map(|(begin, _)| *begin).collect();
            for begin in inside {
                self.0.remove(&begin);
            }
            self.0.insert(range.begin, Segment { end: range.end, writer: Some(touch.clone()), readers: Vec::new() });
        } else {
            for (begin, end) in gaps {
                self.0.insert(begin, Segment { end, writer: None, readers: vec![touch.clone()] });
            }
        }
        conflict
    }

    /// Forgets the users of a range, because the memory was freed or replaced.
    pub fn forget(&mut self, range: Range) {
        self.split(range.begin);
        self.split(range.end);
        let inside: Vec<u64> = self.0.range(range.begin..range.end).map(|(begin, _)| *begin).collect();
        for begin in inside {
            self.0.remove(&begin);
        }
    }

    /// Forgets operations that all future operations are ordered after: those that all of `clocks` cover.
    pub fn settle(&mut self, clocks: &[&Clock]) {
        let settled = |touch: &Touch| clocks.iter().all(|clock| clock.covers(touch.moment));
        self.0.retain(|_, segment| {
            segment.readers.retain(|reader| !settled(reader));
            if segment.writer.as_ref().is_some_and(settled) {
                segment.writer = None;
            }
            segment.writer.is_some() || !segment.readers.is_empty()
        });
    }

    fn split(&mut self, at: u64) {
        let Some((_, segment)) = self.0.range_mut(..at).next_back() else { return };
        if segment.end > at {
            let rest = segment.clone();
            segment.end = at;
            self.0.insert(at, rest);
        }
    }
}
