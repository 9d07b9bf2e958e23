//! Reductions of dimensions to one value each, in one launch or two.

use kiln_backend::{DType, Error, Layout, ReduceBackend, ReduceOp, Result, View, ViewMut};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    params::Reduce,
    view::Tensor,
};

fn name(op: ReduceOp) -> &'static str {
    match op {
        ReduceOp::Sum => "sum",
        ReduceOp::Mean => "mean",
        ReduceOp::Prod => "prod",
        ReduceOp::Max => "max",
        ReduceOp::Min => "min",
        ReduceOp::Any => "any",
        ReduceOp::All => "all",
        ReduceOp::Var { .. } => "var",
        ReduceOp::LogSumExp => "logsumexp",
    }
}

/// The dtype of a reduction's result.
fn result_dtype(op: ReduceOp, dtype: DType) -> DType {
    match op {
        ReduceOp::Any | ReduceOp::All => DType::Bool,
        ReduceOp::Sum | ReduceOp::Prod if !dtype.is_float() => DType::I64,
        _ => dtype,
    }
}

/// Checks that `out` has the rank of `x` and its extents, or 1.
pub(super) fn check_reduced(op: &'static str, x: &Layout, out: &Layout) -> Result<()> {
    let fits = |(&n, &m): (&usize, &usize)| m == n || m == 1;
    if x.rank() == out.rank() && x.dims().iter().zip(out.dims()).all(fits) {
        return Ok(());
    }
    Err(Error::shapes(op, x.shape(), out.shape(), "the extents must be equal, or 1 in the output"))
}

/// Checks that `dim` is a dimension (of a scalar, 0 is).
pub(super) fn check_dim(op: &'static str, layout: &Layout, dim: usize) -> Result<()> {
    if dim < layout.rank().max(1) { Ok(()) } else { Err(Error::dim(op, dim as i64, layout.rank())) }
}

impl ReduceBackend for CudaBackend {
    fn reduce(&self, op: ReduceOp, x: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        let name = name(op);
        let (x, out) = (Tensor::read(device, name, x)?, Tensor::write(device, name, out)?);
        check_reduced(name, x.layout, out.layout)?;
        let out = out.of(name, result_dtype(op, x.dtype))?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if matches!(op, ReduceOp::Max | ReduceOp::Min) && x.layout.numel() == 0 {
            return Err(Error::shape(name, "at least one element to reduce", x.layout.shape()));
        }
        let correction = if let ReduceOp::Var { correction } = op { correction } else { 0.0 };
        device.reduce_checked(name, x, out, correction)
    }
}

impl Device {
    /// The sum of the rows of a matrix.
    pub(super) fn sum_rows(&'static self, x: Tensor, out: Tensor) -> Result<()> {
        let row = out.layout.unsqueeze(0)?;
        if row.numel() == 0 { Ok(()) } else { self.reduce_checked("sum", x, Tensor { layout: &row, ..out }, 0.0) }
    }

    /// A reduction of floats, or of what else the operation is defined for, to an output of the right shape and dtype.
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

    /// Memory for what a reduction in two stages leaves between them.
    pub(super) fn partials(&'static self, plan: &Reduce) -> Result<crate::memory::Block> {
        let bytes = if plan.stage == Reduce::FIRST { plan.partials() as usize * Reduce::PARTIAL } else { 0 };
        self.scratch(bytes)
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    #[test]
    fn results_have_the_contracts_dtypes() {
        assert_eq!(result_dtype(ReduceOp::Sum, DType::Bool), DType::I64);
        assert_eq!(result_dtype(ReduceOp::Sum, DType::F16), DType::F16);
        assert_eq!(result_dtype(ReduceOp::Max, DType::U8), DType::U8);
        assert_eq!(result_dtype(ReduceOp::All, DType::F32), DType::Bool);
        let layout = |dims: &[usize]| Layout::contiguous(Shape::new(dims).unwrap());
        assert!(check_reduced("sum", &layout(&[2, 3]), &layout(&[1, 3])).is_ok());
        assert!(check_reduced("sum", &layout(&[2, 3]), &layout(&[3])).is_err());
        assert!(check_reduced("sum", &layout(&[2, 3]), &layout(&[2, 4])).is_err());
        assert!(check_dim("sum", &layout(&[]), 0).is_ok() && check_dim("sum", &layout(&[2]), 1).is_err());
    }
}
