//! The three computations of a convolution: forward, and the gradients of the input and of the filter.
use super::attributes::Kind;

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
