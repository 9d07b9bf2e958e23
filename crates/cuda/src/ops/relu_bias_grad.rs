//! `relu_bias_grad`: the gradient through ReLU, and its sums for the bias, in one pass.

use kiln_backend::{Checked, ReluBiasGradArgs, ReluBiasGradBackend, Result};

use super::{
    launch::{Tag, launch},
    norm::parts,
};
use crate::{
    device::CudaBackend,
    params::{Groups, PackedGroups, Reduce},
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
        let (to, step) = parts(Some(&bias));
        let (tag, grad, y, out) = (Tag::of(dtype), grad.address, y.address, out.address);
        let start = |groups: Groups, blocks: u32, partial: u64| {
            launch!(device, RELU_BIAS_GRAD, "masked", tag, blocks, groups, grad, y, out, to, step, partial)
        };
        if let Some((op, packed)) = PackedGroups::new(&groups, [y, out, grad].map(Some), dtype.size()) {
            let partials = packed.partials(groups.count.extent) as usize;
            let partial = device.scratch(partials * SUM * dtype.accumulator().size())?;
            let (blocks, parts) = (packed.blocks(), partial.address());
            launch!(device, RELU_BIAS_GRAD_PACKED, op, tag, blocks, packed, grad, y, out, to, step, parts)?;
            let second = packed.second(&groups);
            return if partials > 0 { start(second, second.blocks_of_groups(), parts) } else { Ok(()) };
        }
        let partial = device.parts_of_groups(&groups, SUM, dtype)?;
        start(groups, groups.blocks(), partial.address())?;
        let second = groups.second();
        if groups.stage == Reduce::FIRST { start(second, second.blocks_of_groups(), partial.address()) } else { Ok(()) }
    }
}
