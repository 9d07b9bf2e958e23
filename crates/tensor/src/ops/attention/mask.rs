//! Masks of attention, and the queries that they hide all keys from.

use kiln_backend::{DType, Result};

use super::block::Block;
use crate::{autograd::no_grad, tensor::Tensor};

/// A mask, and the queries for which no key takes part ("dead"). Dimensions may be 1 and broadcast.
pub(super) struct Mask {
    /// `true` where a key does not take part, or the numbers to add to the scores. For dead queries all keys take part:
    /// their outputs are zeroed afterwards.
    values: Tensor,
    /// `[…, queries, 1]`.
    dead: Tensor,
}

impl Mask {
    pub fn new(mask: &Tensor) -> Result<Mask> {
        no_grad(|| {
            let blocked = if mask.dtype() == DType::Bool { mask.logical_not()? } else { mask.eq(f64::NEG_INFINITY)? };
            let dead = blocked.all_keepdim(-1)?;
            let values = if mask.dtype() == DType::Bool { blocked } else { mask.clone() };
            Ok(Mask { values: values.masked_fill(&dead, 0)?, dead })
        })
    }

    pub fn apply(&self, block: &Block, scores: &Tensor) -> Result<()> {
        let mut values = self.values.clone();
        for (dim, range) in [&block.samples, &block.heads, &block.queries].into_iter().enumerate() {
            if values.dims()[dim] > 1 {
                values = values.narrow(dim, range.start, range.len())?;
            }
        }
        if values.dtype() == DType::Bool {
            scores.masked_fill_(&values, f64::NEG_INFINITY)
        } else {
            scores.add_(&values.to_dtype(scores.dtype())?)
        }
    }

    /// Zeroes the outputs or gradients of dead queries.
    pub fn revived(&self, t: &Tensor) -> Result<Tensor> {
        t.masked_fill(&self.dead, 0)
    }
}
