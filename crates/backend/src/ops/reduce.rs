//! Reductions: sum, mean, product, extremes, `any`, `all`, variance, `logsumexp`.

use crate::{Result, View, ViewMut};

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

/// Reductions of dimensions to one value each.
pub trait ReduceBackend {
    /// Reduces the dimensions in which `out` has extent 1 and `x` may have more; `out` has `x`'s rank.
    fn reduce(&self, op: ReduceOp, x: View, out: ViewMut) -> Result<()>;
}
