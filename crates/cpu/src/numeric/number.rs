//! Numbers of a computing type, and conversion among these.

/// A number of a computing type, which can become any other.
pub(crate) trait Number: Copy + PartialOrd {
    /// No number is below.
    const LOWEST: Self;
    /// No number is above.
    const HIGHEST: Self;
    fn f32(self) -> f32;
    /// As `f32`, but what is not exact is rounded to the neighbor whose last bit is 1: rounding the result
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
