//! A collective queued in a stream: what is called, its memory, and how far it has come.
use std::sync::Arc;

use super::call::{Call, Kind};
use super::link::Link;
use crate::engine::Range;

/// A collective with its memory.
#[derive(Clone)]
pub struct Collective {
    pub comm: usize,
    pub call: Call,
    pub send: u64,
    pub receive: u64,
    pub link: Arc<Link>,
    /// Its number in the communicator, once this rank's values have been sent.
    pub number: Option<u64>,
    /// What it writes, once all values are there; nothing if it was aborted.
    pub result: Option<Vec<u8>>,
}

impl Collective {
    /// Whether it waits for other ranks.
    pub fn is_waiting(&self) -> bool {
        self.number.is_some_and(|number| !self.link.may_end(number))
    }

    /// Writes the result.
    ///
    /// # Safety
    /// The memory that it receives into may be written.
    pub unsafe fn write(&mut self) {
        if let Some(result) = self.result.take() {
            // SAFETY: the caller's promise; the result has as many bytes as the range.
            unsafe { std::ptr::copy_nonoverlapping(result.as_ptr(), self.receive as *mut u8, result.len()) };
        }
    }

    /// The ranges that it reads and writes. A rank that does not send in a broadcast reads nothing.
    pub fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let (read, written) = self.call.bytes(self.link.ranks);
        let range = |begin: u64, bytes: usize| match bytes {
            0 => Vec::new(),
            _ => vec![Range { begin, end: begin + bytes as u64 }],
        };
        let reads = self.call.kind != Kind::Broadcast || self.call.root == self.link.rank;
        (if reads { range(self.send, read) } else { Vec::new() }, range(self.receive, written))
    }
}
