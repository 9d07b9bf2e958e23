//! `argmax` and `argmin`: positions of the largest and smallest elements along a dimension.

use kiln_backend::{ArgReduceArgs, ArgReduceBackend, ArgReduceOp, Checked, Result};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::Reduce,
    view::{Access, Tensor},
};

impl ArgReduceBackend for CudaBackend {
    fn arg_reduce(&self, args: Checked<ArgReduceArgs>) -> Result<()> {
        let device = self.0;
        let ArgReduceArgs { op, x, values, indices, .. } = args.into_inner();
        let access = Access { device, op: op.name() };
        let kernel = match op {
            ArgReduceOp::Max => "max",
            ArgReduceOp::Min => "min",
        };
        let (x, values, indices) = (access.read(x)?, access.write_if(values)?, access.write(indices)?);
        if indices.layout.numel() == 0 {
            return Ok(());
        }
        // The output has two sets of strides.
        let to = [values.as_ref().map(Tensor::place), Some(indices.place())];
        let plan = Reduce::new(x.layout.dims(), indices.layout.dims(), x.place(), to, 0.0);
        let partial = device.partials(&plan)?;
        let (tag, values) = (Tag::of(x.dtype), values.map_or(0, |tensor| tensor.address));
        let (x, partial, indices) = (x.address, partial.address(), indices.address);
        launch!(device, ARG_REDUCE, kernel, tag, plan.blocks(), plan, x, partial, values, indices)?;
        if plan.stage == Reduce::FIRST {
            let second = plan.second();
            launch!(device, ARG_REDUCE, kernel, tag, second.blocks(), second, x, partial, values, indices)?;
        }
        Ok(())
    }
}
