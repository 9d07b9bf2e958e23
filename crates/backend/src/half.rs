//! The Rust types of floats that are computed as `f32`: those of the rows `HALF` of the
//! [table of dtypes](crate::dtype_table).

pub use ::half::{bf16, f16};

/// An `f64` as an `f32`, rounded to odd: inexact values go to the neighbor whose last bit is 1. Rounding the result again, to
/// half precision, then equals a single rounding (Boldo & Melquiond, "When double rounding is odd", 2005). The conversions
/// from `f64` in the crate `half` read only 20 bits of the fraction, or round to the nearest `f32` first.
#[inline(always)]
#[must_use]
pub fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    // First rounds towards zero: one step back if rounding increased the magnitude.
    let truncated = if back.abs() > x.abs() { bits.wrapping_sub(1) } else { bits };
    let exact = back == x || x.is_nan();
    f32::from_bits(if exact { bits } else { truncated | 1 })
}
