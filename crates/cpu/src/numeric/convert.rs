//! Conversion of numbers to element types, with the semantics of Rust's `as`.

use crate::{
    engine::simd::multiversion,
    numeric::{
        number::Number,
        stored::{Stored, Truth},
    },
};

/// An element type that numbers are converted to.
pub(crate) trait Destination: Stored {
    /// The value that, when stored, is the number converted to this type.
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

macro_rules! destinations {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        destination! { $($f => $f;)* $(kiln_backend::half::$h => f32_odd;)* $($i => $i;)* Truth => truth; }
    };
}
kiln_backend::dtype_table!(destinations);

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
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn half_precision_is_rounded_once() {
        // Around the midpoint of two neighbors, closer than an `f32` can resolve.
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
