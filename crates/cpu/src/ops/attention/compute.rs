//! The types that attention is computed in.

use crate::{
    gemm::source,
    numeric::{math, real::Real},
};

/// A type that attention is computed in.
pub(super) trait Compute: Real + source::Float {
    /// The exponential of a number that is at most about 0; the smallest results may be 0. With `FMA` the CPU must have fused
    /// multiplications and additions.
    fn exp_nonpositive<const FMA: bool>(self) -> Self;
}

impl Compute for f32 {
    #[inline(always)]
    fn exp_nonpositive<const FMA: bool>(self) -> f32 {
        math::exp_nonpositive::<FMA>(self)
    }
}

impl Compute for f64 {
    #[inline(always)]
    fn exp_nonpositive<const FMA: bool>(self) -> f64 {
        self.exp()
    }
}
