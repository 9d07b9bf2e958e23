//! `relu_bias_grad`: the gradient through ReLU, and its sums for the bias, in one pass.

use kiln_backend::{Checked, ReluBiasGradArgs, ReluBiasGradBackend, Result};

use super::{
    launch::{Tag, launch},
    norm::parts,
};
use crate::{
    device::CudaBackend,
    params::{Groups, Reduce},
    view::Access,
};

/// Numbers in a partial result: one sum.
const SUM: usize = 1;

impl ReluBiasGradBackend for CudaBackend {
    fn relu_bias_grad(&self, args: Checked<ReluBiasGradArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "relu_bias_grad" };
        let ReluBiasGradArgs { grad, y, dim, out, bias } = args.into_inner();
        let (grad, y) = (access.read(grad)?, access.read(y)?);
        let (out, bias, dtype) = (access.write(out)?, access.write(bias)?, y.dtype);
        if bias.layout.numel() == 0 {
            return Ok(());
        }
        let groups = Groups::new(y.layout.dims(), dim, [Some(y.place()), Some(out.place()), Some(grad.place())]);
        let partial = device.parts_of_groups(&groups, SUM, dtype)?;
        let (to, step) = parts(Some(&bias));
        let start = |groups: Groups| {
            let (tag, blocks, partial) = (Tag::of(dtype), groups.blocks(), partial.address());
            let (grad, y, out) = (grad.address, y.address, out.address);
            launch!(device, RELU_BIAS_GRAD, "masked", tag, blocks, groups, grad, y, out, to, step, partial)
        };
        start(groups)?;
        if groups.stage == Reduce::FIRST { start(groups.second()) } else { Ok(()) }
    }
}
