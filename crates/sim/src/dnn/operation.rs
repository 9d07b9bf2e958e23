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

/// Modes of an element-wise operation: from this one on those of a gradient, from the next on comparisons.
const GRADIENTS: i64 = 200;
const COMPARISONS: i64 = 300;
/// `CUDNN_POINTWISE_SQRT`, `CUDNN_POINTWISE_GEN_INDEX`, `CUDNN_POINTWISE_BINARY_SELECT`
pub const SQRT: i64 = 4;
pub const INDEX: i64 = 501;
pub const SELECT: i64 = 601;

/// The attributes of the tensors that an operation takes, and of the one that it writes.
pub fn operands(operation: &Record) -> (Vec<u32>, u32) {
    if let Some((direction, [x, w, y, ..])) = convolution_attributes(operation.kind) {
        let mut reads = vec![x, w, y];
        let target = reads.remove(direction.result());
        return (reads, target);
    }
    match (operation.kind, operation.number_in(750, 0, 0)) {
        (Kind::ReductionOperation, _) => (vec![1610], 1611),
        (Kind::ProductOperation, _) => (vec![1520, 1521], 1522),
        (Kind::ReshapeOperation, _) => (vec![2200], 2201),
        (_, GRADIENTS..COMPARISONS) => (vec![751, 757], 756),
        (_, SELECT) => (vec![751, 752, 758], 753),
        _ => (vec![751, 752], 753),
    }
}
