//! What ranks must agree on when they call a collective: its kind, count, dtype, reduction and root.
use std::fmt;

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
