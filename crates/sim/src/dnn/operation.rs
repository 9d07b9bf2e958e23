//! The operations of a graph: the three computations of a convolution, and which tensors each operation reads and
//! writes.
use super::attributes::{Kind, Record};

/// Which of the three computations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Data,
    Filter,
}

impl Direction {
    /// Which of x, w and y it writes.
    pub fn result(self) -> usize {
        match self {
            Direction::Data => 0,
            Direction::Filter => 1,
            Direction::Forward => 2,
        }
    }
}

/// The attributes of x, w, y, the rule, alpha and beta of an operation, if it is a convolution.
pub fn convolution_attributes(kind: Kind) -> Option<(Direction, [u32; 6])> {
    Some(match kind {
        Kind::Forward => (Direction::Forward, [704, 703, 705, 702, 700, 701]),
        Kind::BackwardData => (Direction::Data, [710, 709, 711, 708, 706, 707]),
        Kind::BackwardFilter => (Direction::Filter, [716, 715, 717, 714, 712, 713]),
        _ => return None,
    })
}

/// The attributes of the tensors that an operation reads, and of the one that it writes.
pub fn operands(operation: &Record) -> (Vec<u32>, u32) {
    match convolution_attributes(operation.kind) {
        Some((direction, [x, w, y, ..])) => {
            let mut reads = vec![x, w, y];
            let target = reads.remove(direction.result());
            (reads, target)
        }
        None if operation.kind == Kind::ReductionOperation => (vec![1610], 1611),
        // Modes of gradients come last in the enum.
        None if operation.number_in(750, 0, 0) >= 200 => (vec![751, 757], 756),
        None => (vec![751, 752], 753),
    }
}
