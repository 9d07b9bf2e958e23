//! Code shared by the losses: how sums are divided over blocks, and finished.

use kiln_backend::{Reduction, Result};

use super::launch::{Tag, launch};
use crate::{
    device::Device,
    params::{self, LossFinish},
};

/// Bytes of a block's partial sums: the loss and the divisor, as `f64`.
pub(super) const PARTIAL: usize = 16;
/// Up to this many threads' worth of work, one block does all of it, so that a small loss is one launch.
const ALONE: u64 = 16 * params::THREADS as u64;

/// The number of blocks for a loss of `threads` threads. It depends on the shape only, and so does the order of
/// additions.
pub(super) fn blocks(threads: u64) -> u32 {
    if threads <= ALONE { 1 } else { params::blocks(threads) }
}

pub(super) fn code(reduction: Reduction) -> u32 {
    match reduction {
        Reduction::None => 0,
        Reduction::Mean => 1,
        Reduction::Sum => 2,
    }
}

impl Device {
    /// Reduces the partial sums of blocks to the loss of scores of this dtype, which may be wider. The memory of the sums may be
    /// freed when this returns.
    pub(super) fn finish_loss(
        &self,
        tag: Tag,
        blocks: u32,
        count: f64,
        (reduction, is_wide): (Reduction, bool),
        [partial, loss, total]: [u64; 3],
    ) -> Result<()> {
        let finish = LossFinish { blocks: blocks.into(), count, reduction: code(reduction), wide: is_wide.into() };
        launch!(self, LOSS_FINISH, "sum", tag, 1, finish, partial, loss, total)
    }
}
