//! Reductions: sum, mean, product, extremes, `any`, `all`, variance, `logsumexp`.

use crate::{
    contract::{Arguments, Checked, has_dtype, is_float},
    dtype::DType,
    error::{Error, Result},
    view::{View, ViewMut},
};

/// A reduction of some dimensions to one value each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReduceOp {
    /// Sum; 0 without elements. Integers and `bool` are summed as `i64`, half precision as `f32`.
    Sum,
    /// Arithmetic mean of floats; NaN without elements.
    Mean,
    /// Product; 1 without elements. Integers as `i64`.
    Prod,
    /// Largest value; NaN if there is one. An error without elements.
    Max,
    /// Smallest value; NaN if there is one. An error without elements.
    Min,
    /// Whether any element is nonzero, as `bool`.
    Any,
    /// Whether all elements are nonzero, as `bool`.
    All,
    /// Variance with the divisor `max(n - correction, 0)`, in two passes.
    Var {
        /// Bessel's correction is 1.
        correction: f64,
    },
    /// `log(sum(exp(x)))` without overflow; `-inf` without elements.
    LogSumExp,
}

impl ReduceOp {
    /// The name for errors: that of the tensor's method.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
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

    /// The dtype of the result.
    #[must_use]
    pub fn result_dtype(self, dtype: DType) -> DType {
        match self {
            ReduceOp::Any | ReduceOp::All => DType::Bool,
            ReduceOp::Sum | ReduceOp::Prod if !dtype.is_float() => DType::I64,
            _ => dtype,
        }
    }
}

/// Arguments of [`reduce`](ReduceBackend::reduce).
#[derive(Debug)]
pub struct ReduceArgs<'a> {
    /// The reduction.
    pub op: ReduceOp,
    /// The tensor to reduce.
    pub x: View<'a>,
    /// Receives the result, of dtype [`result_dtype`](ReduceOp::result_dtype) and the rank of `x`; each extent is that
    /// of `x`, or 1 if the dimension is reduced.
    pub out: ViewMut<'a>,
}

impl Arguments for ReduceArgs<'_> {
    fn check(&self) -> Result<()> {
        let ReduceArgs { op, x, out } = self;
        let name = op.name();
        if matches!(op, ReduceOp::Mean | ReduceOp::Var { .. } | ReduceOp::LogSumExp) {
            is_float(name, x.dtype())?;
        }
        has_dtype(name, op.result_dtype(x.dtype()), out.dtype())?;
        let (x, out) = (x.layout, out.layout);
        let fits = |(&n, &m): (&usize, &usize)| m == n || m == 1;
        if x.rank() != out.rank() || !x.dims().iter().zip(out.dims()).all(fits) {
            let expected = "the extents must be equal, or 1 in the output";
            return Err(Error::shapes(name, x.shape(), out.shape(), expected));
        }
        // A maximum or minimum needs at least one element.
        if matches!(op, ReduceOp::Max | ReduceOp::Min) && out.numel() > 0 && x.numel() == 0 {
            return Err(Error::shape(name, "at least one element to reduce", x.shape()));
        }
        Ok(())
    }
}

/// Reductions over dimensions.
pub trait ReduceBackend {
    /// Reduces over the dimensions in which `out` has extent 1 and `x` may have more.
    fn reduce(&self, args: Checked<ReduceArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn results_have_the_contracts_dtypes_and_shapes() {
        assert_eq!(ReduceOp::Sum.result_dtype(DType::Bool), DType::I64);
        assert_eq!(ReduceOp::Sum.result_dtype(DType::F16), DType::F16);
        assert_eq!(ReduceOp::Max.result_dtype(DType::U8), DType::U8);
        assert_eq!(ReduceOp::All.result_dtype(DType::F32), DType::Bool);
        let check = |op, (from, x): (DType, &[usize]), (to, out): (DType, &[usize])| {
            let (memory, mut target, x, out) = (Memory(from), Memory(to), layout(x), layout(out));
            ReduceArgs { op, x: memory.view(&x), out: target.view_mut(&out) }.check().is_ok()
        };
        let (f32, i32, i64) = (DType::F32, DType::I32, DType::I64);
        assert!(check(ReduceOp::Sum, (f32, &[2, 3]), (f32, &[1, 3])));
        assert!(!check(ReduceOp::Sum, (f32, &[2, 3]), (f32, &[3])));
        assert!(!check(ReduceOp::Sum, (f32, &[2, 3]), (f32, &[2, 4])));
        assert!(check(ReduceOp::Sum, (i32, &[2]), (i64, &[1])) && !check(ReduceOp::Sum, (i32, &[2]), (i32, &[1])));
        assert!(!check(ReduceOp::Mean, (i32, &[2]), (i32, &[1])));
        assert!(!check(ReduceOp::Max, (f32, &[2, 0]), (f32, &[2, 1])));
        assert!(check(ReduceOp::Max, (f32, &[0, 2]), (f32, &[0, 1])));
    }
}
