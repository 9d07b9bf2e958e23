//! A collective queued in a stream: what is called, its memory, and how far it has come.
use std::fmt;
use std::sync::Arc;

use super::link::Link;
use crate::engine::Range;

/// The kinds of collectives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    AllReduce,
    Broadcast,
    AllGather,
    ReduceScatter,
}

const KINDS: [Kind; 4] = [Kind::AllReduce, Kind::Broadcast, Kind::AllGather, Kind::ReduceScatter];

/// Bytes of an element of each `ncclDataType_t`.
pub const SIZES: [usize; 12] = [1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1];
const TYPES: [&str; 12] = ["i8", "u8", "i32", "u32", "i64", "u64", "f16", "f32", "f64", "bf16", "f8e4m3", "f8e5m2"];
const OPS: [&str; 5] = ["sum", "product", "max", "min", "avg"];

/// The arguments that must be the same on all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    pub kind: Kind,
    /// The number of elements that the function takes: of the smaller operand.
    pub count: usize,
    pub data: usize,
    /// The `ncclRedOp_t`, if it reduces.
    pub op: usize,
    /// The rank that sends, for a broadcast.
    pub root: usize,
}

impl Call {
    pub fn words(&self) -> [u64; 5] {
        let kind = KINDS.iter().position(|kind| *kind == self.kind).unwrap_or(0);
        [kind, self.count, self.data, self.op, self.root].map(|word| word as u64)
    }

    pub fn from_words([kind, count, data, op, root]: [u64; 5]) -> Call {
        let kind = KINDS[kind as usize % KINDS.len()];
        Call { kind, count: count as usize, data: data as usize, op: op as usize, root: root as usize }
    }

    /// Bytes that each rank reads, and that it writes.
    pub fn bytes(&self, ranks: usize) -> (usize, usize) {
        let small = self.count * SIZES[self.data];
        match self.kind {
            Kind::AllReduce | Kind::Broadcast => (small, small),
            Kind::AllGather => (small, small * ranks),
            Kind::ReduceScatter => (small * ranks, small),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { kind, count, data, op, root } = self;
        match kind {
            Kind::AllReduce | Kind::ReduceScatter => write!(f, "nccl{kind:?} ({}) of", OPS[*op])?,
            Kind::Broadcast => write!(f, "ncclBroadcast from rank {root} of")?,
            Kind::AllGather => f.write_str("ncclAllGather of")?,
        }
        write!(f, " {count} {}", TYPES[*data])
    }
}

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
