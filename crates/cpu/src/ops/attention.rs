//! Scaled dot-product attention and its gradient without a matrix of scores in memory (Dao, "FlashAttention-2", 2023).
//!
//! Scores exist for a block of queries and a block of keys at a time, in the caches. The products are computed by the register
//! kernels of matrix products, whose packed operands are made here: keys and values are packed once for all queries of a
//! task, and the scores are stored the way in which the kernels read their next operand. Forward, a running maximum and sum of
//! the exponentials make up for the blocks of keys that are still to come. Backward, the scores are computed again.
//!
//! * `compute`: the types that it is computed in
//! * `problem`: shapes and operands; masks and dropout of a row of scores
//! * `forward`, `backward`: the walks over blocks
//! * `products`: packing, and products of what is packed
//! * `rows`: what happens to a row of scores between the products
//!
//! Results are bit for bit the same for any number of threads: how heads are divided among tasks depends on shapes alone
//! wherever it decides the order of a sum.

mod backward;
mod compute;
mod forward;
mod problem;
mod products;
mod rows;

use kiln_backend::{AttentionArgs, AttentionBackend, AttentionCall, AttentionGradArgs, Checked, Result};

use crate::{device::CpuBackend, numeric::dispatch::for_float};

const OP: &str = "scaled_dot_product_attention";

impl AttentionBackend for CpuBackend {
    fn has_attention(&self, _: &AttentionCall) -> bool {
        true
    }

    fn attention(&self, args: Checked<AttentionArgs>) -> Result<bool> {
        for_float!(OP, args.query.dtype(), T => forward::typed::<T>(args.into_inner()))?;
        Ok(true)
    }

    fn attention_grad(&self, args: Checked<AttentionGradArgs>) -> Result<bool> {
        for_float!(OP, args.query.dtype(), T => backward::typed::<T>(args.into_inner()))?;
        Ok(true)
    }
}
