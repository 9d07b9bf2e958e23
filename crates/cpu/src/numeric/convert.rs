//! Conversion between element types, as Rust's `as` does it.

use half::{bf16, f16};

use crate::{
    engine::simd::multiversion,
    numeric::stored::{Stored, Truth},
};

/// A number of a computing type, which can become any other.
pub(crate) trait Number: Copy + PartialOrd {
    /// No number is below.
    const LOWEST: Self;
    /// No number is above.
    const HIGHEST: Self;
    fn f32(self) -> f32;
    /// As `f32`, but what is not exact is rounded to the neighbour whose last bit is 1: rounding the result
    /// again, to half precision, gives what a single rounding would (Boldo & Melquiond, "When double rounding
    /// is odd", 2005).
    fn f32_odd(self) -> f32;
    fn f64(self) -> f64;
    fn i64(self) -> i64;
    fn i32(self) -> i32;
    fn u8(self) -> u8;
    fn truth(self) -> u8;
}

macro_rules! number {
    ($($ty:ident $low:ident $high:ident |$x:ident| $odd:expr;)*) => {$(
        impl Number for $ty {
            const LOWEST: $ty = $ty::$low;
            const HIGHEST: $ty = $ty::$high;
            #[inline(always)]
            fn f32(self) -> f32 {
                self as f32
            }
            #[inline(always)]
            fn f32_odd(self) -> f32 {
                let $x = self;
                $odd
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn i64(self) -> i64 {
                self as i64
            }
            #[inline(always)]
            fn i32(self) -> i32 {
                self as i32
            }
            #[inline(always)]
            fn u8(self) -> u8 {
                self as u8
            }
            #[inline(always)]
            fn truth(self) -> u8 {
                u8::from(self != 0 as $ty)
            }
        }
    )*};
}

number! {
    f32 NEG_INFINITY INFINITY |x| x;
    f64 NEG_INFINITY INFINITY |x| round_to_odd(x);
    i64 MIN MAX |x| round_to_odd(x as f64);
    i32 MIN MAX |x| round_to_odd(f64::from(x));
    u8 MIN MAX |x| f32::from(x);
}

#[inline(always)]
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    // Towards zero first: one step back where rounding increased the magnitude.
    let truncated = if back.abs() > x.abs() { bits.wrapping_sub(1) } else { bits };
    let exact = back == x || x.is_nan();
    f32::from_bits(if exact { bits } else { truncated | 1 })
}

/// An element type that numbers are converted to.
pub(crate) trait Destination: Stored {
    /// What, when stored, is the number converted to this type.
    fn convert(value: impl Number) -> Self::Compute;
}

macro_rules! destination {
    ($($ty:ty => $method:ident;)*) => {$(
        impl Destination for $ty {
            #[inline(always)]
            fn convert(value: impl Number) -> Self::Compute {
                value.$method()
            }
        }
    )*};
}

destination! {
    f32 => f32;
    f64 => f64;
    f16 => f32_odd;
    bf16 => f32_odd;
    i64 => i64;
    i32 => i32;
    u8 => u8;
    Truth => truth;
}

multiversion! {
    /// Converts a slice.
    pub(crate) fn convert[N: Number, T: Destination]::[N, T](from: &[N], to: &mut [T::Compute]), avx512 if [false] {
        for (from, to) in from.iter().zip(to) {
            *to = T::convert(*from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_rounded_once() {
        // Around the middle of two neighbours, nearer than an `f32` can tell.
        for step in [2f64.powi(-10), 2f64.powi(-7)] {
            for (low, tie) in [(1.0, 1.0), (1.0 + step, 1.0 + 2.0 * step)] {
                for (nudge, want) in [(-1e-12, low), (0.0, tie), (1e-12, low + step)] {
                    let (x, half) = (low + step / 2.0 + nudge, step == 2f64.powi(-10));
                    for sign in [1.0, -1.0] {
                        let got = if half {
                            f16::store(f16::convert(sign * x)).to_f64()
                        } else {
                            bf16::store(bf16::convert(sign * x)).to_f64()
                        };
                        assert_eq!(got, sign * want, "{x}");
                    }
                }
            }
        }
        let inf = f64::INFINITY;
        for (x, want) in [
            (0.0, 0.0),
            (-0.0, 0.0),
            (1e300, inf),
            (-1e300, -inf),
            (65520.0, inf),
            (65_519.999_999, 65504.0),
            (5e-324, 0.0),
            (inf, inf),
        ] {
            assert_eq!(f16::store(f16::convert(x)).to_f64(), want, "{x}");
        }
        assert_eq!(bf16::store(bf16::convert(i64::MAX)).to_f64(), 2f64.powi(63));
        assert!(f16::store(f16::convert(f64::NAN)).is_nan());
    }
}
