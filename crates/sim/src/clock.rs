//! Vector clocks over streams: which operations happened before a given one.
use crate::stream_id::StreamId;

/// Per stream, the number of its latest operation that happened before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clock(Vec<(StreamId, u64)>);

/// An operation: its stream, and its number within the stream, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub stream: StreamId,
    pub number: u64,
}

impl Clock {
    /// Whether the operation at `moment` happened before.
    pub fn covers(&self, moment: Moment) -> bool {
        self.0.iter().any(|&(stream, number)| stream == moment.stream && number >= moment.number)
    }

    /// Adds `moment`, and with it all earlier operations of its stream.
    pub fn advance(&mut self, moment: Moment) {
        match self.0.iter_mut().find(|(stream, _)| *stream == moment.stream) {
            Some((_, number)) => *number = (*number).max(moment.number),
            None => self.0.push((moment.stream, moment.number)),
        }
    }

    /// Adds all operations that `other` covers.
    pub fn join(&mut self, other: &Clock) {
        for &(stream, number) in &other.0 {
            self.advance(Moment { stream, number });
        }
    }
}
