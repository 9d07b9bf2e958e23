//! Reductions, running sums and softmax.

use kiln_backend::{ArgReduceOp, DType, Error, Layout, ReduceOp, Result, View, ViewMut};

use super::launch::{Tag, launch};
use crate::{
    device::Device,
    params::{Lines, Reduce},
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
fn check_reduced(op: &'static str, x: &Layout, out: &Layout) -> Result<()> {
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

impl Device {
    pub(super) fn reduce_impl(&'static self, op: ReduceOp, x: View, out: ViewMut) -> Result<()> {
        let name = name(op);
        let (x, out) = (Tensor::read(self, name, x)?, Tensor::write(self, name, out)?);
        check_reduced(name, x.layout, out.layout)?;
        let out = out.of(name, result_dtype(op, x.dtype))?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if matches!(op, ReduceOp::Max | ReduceOp::Min) && x.layout.numel() == 0 {
            return Err(Error::shape(name, "at least one element to reduce", x.layout.shape()));
        }
        let correction = if let ReduceOp::Var { correction } = op { correction } else { 0.0 };
        self.reduce_checked(name, x, out, correction)
    }

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
    fn partials(&'static self, plan: &Reduce) -> Result<crate::memory::Block> {
        let bytes = if plan.stage == Reduce::FIRST { plan.partials() as usize * Reduce::PARTIAL } else { 0 };
        self.scratch(bytes)
    }

    pub(super) fn arg_reduce_impl(
        &'static self,
        op: ArgReduceOp,
        x: View,
        dim: usize,
        values: Option<ViewMut>,
        indices: ViewMut,
    ) -> Result<()> {
        let (name, kernel) = match op {
            ArgReduceOp::Max => ("argmax", "max"),
            ArgReduceOp::Min => ("argmin", "min"),
        };
        let (x, indices) = (Tensor::read(self, name, x)?, Tensor::write(self, name, indices)?.of(name, DType::I64)?);
        check_dim(name, x.layout, dim)?;
        check_reduced(name, x.layout, indices.layout)?;
        let others = |d: usize| d == dim || x.layout.dims()[d] == indices.layout.dims()[d];
        if !(0..x.layout.rank()).all(others) || indices.layout.dims().get(dim).is_some_and(|&n| n != 1) {
            return Err(Error::shape(name, "the input's extents, with 1 along the dimension", indices.layout.shape()));
        }
        let values = match values {
            Some(view) => Some(Tensor::write(self, name, view)?.of(name, x.dtype)?.shaped(name, indices.layout)?),
            None => None,
        };
        if indices.layout.numel() == 0 {
            return Ok(());
        }
        if x.layout.numel() == 0 {
            return Err(Error::shape(name, "at least one element to reduce", x.layout.shape()));
        }
        // The output has two sets of strides.
        let to = [values.as_ref().map(Tensor::place), Some(indices.place())];
        let plan = Reduce::new(x.layout.dims(), indices.layout.dims(), x.place(), to, 0.0);
        let partial = self.partials(&plan)?;
        let (tag, values) = (Tag::of(x.dtype), values.map_or(0, |tensor| tensor.address));
        let (x, partial, indices) = (x.address, partial.address(), indices.address);
        launch!(self, ARG_REDUCE, kernel, tag, plan.blocks(), plan, x, partial, values, indices)?;
        if plan.stage == Reduce::FIRST {
            let second = plan.second();
            launch!(self, ARG_REDUCE, kernel, tag, second.blocks(), second, x, partial, values, indices)?;
        }
        Ok(())
    }

    pub(super) fn cumsum_impl(&self, x: View, dim: usize, out: ViewMut) -> Result<()> {
        const OP: &str = "cumsum";
        let (x, out) = (Tensor::read(self, OP, x)?, Tensor::write(self, OP, out)?);
        let out = out.of(OP, if x.dtype.is_float() { x.dtype } else { DType::I64 })?.shaped(OP, x.layout)?;
        check_dim(OP, x.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        let blocks = lines.lines.numel.min(i32::MAX as u64) as u32;
        launch!(self, CUMSUM, "sum", Tag::of(x.dtype), blocks, lines, x.address, out.address)
    }

    pub(super) fn softmax_impl(&self, x: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        let (op, kernel) = softmax_names(log);
        let out = Tensor::write(self, op, out)?;
        let x = Tensor::read(self, op, x)?.of(op, out.dtype)?.shaped(op, out.layout)?;
        check_dim(op, x.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        launch!(self, SOFTMAX, kernel, Tag::of(x.dtype), lines.blocks(), lines, x.address, out.address)
    }

    pub(super) fn softmax_grad_impl(&self, grad: View, y: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        let (op, kernel) = softmax_names(log);
        let out = Tensor::write(self, op, out)?;
        let read = |view| Tensor::read(self, op, view)?.of(op, out.dtype)?.shaped(op, out.layout);
        let (grad, y) = (read(grad)?, read(y)?);
        check_dim(op, y.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<3>::new(y.layout.dims(), dim, [Some(grad.place()), Some(y.place()), Some(out.place())]);
        let (tag, blocks) = (Tag::of(out.dtype), lines.blocks());
        launch!(self, SOFTMAX_GRAD, kernel, tag, blocks, lines, grad.address, y.address, out.address)
    }
}

fn softmax_names(log: bool) -> (&'static str, &'static str) {
    if log { ("log_softmax", "log") } else { ("softmax", "plain") }
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
