//! Reductions: sum, mean, product, extremes, `any`, `all`, variance, `logsumexp`.

use crate::{DType, Error, Layout, Result, View, ViewMut};

/// A reduction of some dimensions to one value each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReduceOp {
    /// Sum; 0 of nothing. Integers and `bool` are summed as `i64`, half precision as `f32`.
    Sum,
    /// Arithmetic mean of floats; NaN of nothing.
    Mean,
    /// Product; 1 of nothing. Integers as `i64`.
    Prod,
    /// Largest value; NaN if there is one. Not of nothing.
    Max,
    /// Smallest value; NaN if there is one. Not of nothing.
    Min,
    /// Whether any is nonzero, as `bool`.
    Any,
    /// Whether all are nonzero, as `bool`.
    All,
    /// Variance with the divisor `max(n - correction, 0)`, in two passes.
    Var {
        /// Bessel's correction is 1.
        correction: f64,
    },
    /// `log(sum(exp(x)))` without overflow; `-inf` of nothing.
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

    /// Checks that `out` has the rank of `x` and its extents, or 1, and that there is an element where one is picked.
    ///
    /// # Errors
    /// The shapes do not fit.
    pub fn check(self, x: &Layout, out: &Layout) -> Result<()> {
        let fits = |(&n, &m): (&usize, &usize)| m == n || m == 1;
        if x.rank() != out.rank() || !x.dims().iter().zip(out.dims()).all(fits) {
            let expected = "the extents must be equal, or 1 in the output";
            return Err(Error::shapes(self.name(), x.shape(), out.shape(), expected));
        }
        if matches!(self, ReduceOp::Max | ReduceOp::Min) && out.numel() > 0 && x.numel() == 0 {
            return Err(Error::shape(self.name(), "at least one element to reduce", x.shape()));
        }
        Ok(())
    }
}

/// Reductions of dimensions to one value each.
pub trait ReduceBackend {
    /// Reduces the dimensions in which `out` has extent 1 and `x` may have more; `out` has `x`'s rank.
    fn reduce(&self, op: ReduceOp, x: View, out: ViewMut) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Shape;

    #[test]
    fn results_have_the_contracts_dtypes_and_shapes() {
        assert_eq!(ReduceOp::Sum.result_dtype(DType::Bool), DType::I64);
        assert_eq!(ReduceOp::Sum.result_dtype(DType::F16), DType::F16);
        assert_eq!(ReduceOp::Max.result_dtype(DType::U8), DType::U8);
        assert_eq!(ReduceOp::All.result_dtype(DType::F32), DType::Bool);
        let layout = |dims: &[usize]| Layout::contiguous(Shape::new(dims).unwrap());
        assert!(ReduceOp::Sum.check(&layout(&[2, 3]), &layout(&[1, 3])).is_ok());
        assert!(ReduceOp::Sum.check(&layout(&[2, 3]), &layout(&[3])).is_err());
        assert!(ReduceOp::Sum.check(&layout(&[2, 3]), &layout(&[2, 4])).is_err());
        assert!(ReduceOp::Max.check(&layout(&[2, 0]), &layout(&[2, 1])).is_err());
        assert!(ReduceOp::Max.check(&layout(&[0, 2]), &layout(&[0, 1])).is_ok());
    }
}
