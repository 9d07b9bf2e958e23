//! Reductions over dimensions, in one launch or two.

use kiln_backend::{Checked, ReduceArgs, ReduceBackend, ReduceOp, Result};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    params::Reduce,
    view::{Access, Tensor},
};

impl ReduceBackend for CudaBackend {
    fn reduce(&self, args: Checked<ReduceArgs>) -> Result<()> {
        let ReduceArgs { op, x, out } = args.into_inner();
        let access = Access { device: self.0, op: op.name() };
        let (x, out) = (access.read(x)?, access.write(out)?);
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let correction = if let ReduceOp::Var { correction } = op { correction } else { 0.0 };
        self.0.reduce_checked(access.op, x, out, correction)
    }
}

impl Device {
    /// The sum of the rows of a matrix.
    pub(super) fn sum_rows(&'static self, x: Tensor, out: Tensor) -> Result<()> {
        let row = out.layout.unsqueeze(0)?;
        if row.numel() == 0 { Ok(()) } else { self.reduce_checked("sum", x, Tensor { layout: &row, ..out }, 0.0) }
    }

    /// A reduction over any dtype that the operation is defined for, to an output of the right shape and dtype.
    pub(super) fn reduce_checked(
        &'static self,
        name: &'static str,
        x: Tensor,
        out: Tensor,
        correction: f64,
    ) -> Result<()> {
        let tag = Tag::of(x.dtype);
        let plan = Reduce::new(x.layout.dims(), out.layout.dims(), x.place(), [Some(out.place()), None], correction);
        let partial = self.partials(&plan)?;
        launch!(self, REDUCE, name, tag, plan.blocks(), plan, x.address, partial.address(), out.address)?;
        if plan.stage == Reduce::FIRST {
            let second = plan.second();
            launch!(self, REDUCE, name, tag, second.blocks(), second, x.address, partial.address(), out.address)?;
        }
        Ok(())
    }

    /// Memory for the results that a reduction passes from its first stage to its second.
    pub(super) fn partials(&'static self, plan: &Reduce) -> Result<crate::memory::Block> {
        let bytes = if plan.stage == Reduce::FIRST { plan.partials() as usize * Reduce::PARTIAL } else { 0 };
        self.scratch(bytes)
    }
}
