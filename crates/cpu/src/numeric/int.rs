//! The integer types, and the functions of the integer formulas in the tables of element-wise operations. Arithmetic
//! wraps, as PyTorch's does.

use std::ops::{BitAnd, BitOr, BitXor};

use crate::numeric::stored::Stored;

/// The operations of integer kernels.
pub(crate) trait Int:
    Stored<Compute = Self> + Ord + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self>
{
    const ZERO: Self;
    fn of(value: i64) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    /// Power by repeated squaring; `None` for a negative exponent.
    fn pow(self, exponent: Self) -> Option<Self>;
    /// Python's `%`: the sign is that of the divisor; `None` for a divisor of 0.
    fn remainder(self, divisor: Self) -> Option<Self>;
    /// C's `%`: the sign is that of the dividend; `None` for a divisor of 0.
    fn fmod(self, divisor: Self) -> Option<Self>;
    /// The quotient, rounded down; `None` for a divisor of 0.
    fn floor_divide(self, divisor: Self) -> Option<Self>;
    /// The quotient, rounded towards 0; `None` for a divisor of 0.
    fn trunc_divide(self, divisor: Self) -> Option<Self>;
    /// The greatest common divisor, not negative.
    fn gcd(self, other: Self) -> Self;
    /// The least common multiple, not negative; 0 where one is 0.
    fn lcm(self, other: Self) -> Self;
    /// Shifts left; 0 if `by` is negative or at least the number of bits.
    fn shift_left(self, by: Self) -> Self;
    /// Shifts right and fills with the sign bit; all sign bits if `by` is negative or at least the number of bits.
    fn shift_right(self, by: Self) -> Self;
}

/// The absolute value.
fn size(x: impl Into<i128>) -> u64 {
    x.into().unsigned_abs() as u64
}

/// Euclid's algorithm.
fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

macro_rules! int {
    ($($ty:ident)*) => {$(
        impl Int for $ty {
            const ZERO: $ty = 0;
            #[inline(always)]
            fn of(value: i64) -> $ty {
                value as $ty
            }
            #[inline(always)]
            fn add(self, other: $ty) -> $ty {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: $ty) -> $ty {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: $ty) -> $ty {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn neg(self) -> $ty {
                self.wrapping_neg()
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // for unsigned types
            fn abs(self) -> $ty {
                if self < 0 { self.wrapping_neg() } else { self }
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // for unsigned types
            fn sign(self) -> $ty {
                <$ty>::from(self > 0).wrapping_sub(<$ty>::from(self < 0))
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // for unsigned types
            fn pow(self, exponent: $ty) -> Option<$ty> {
                if exponent < 0 {
                    return None;
                }
                let (mut base, mut left, mut result) = (self, exponent, 1 as $ty);
                while left > 0 {
                    if left & 1 == 1 {
                        result = result.wrapping_mul(base);
                    }
                    base = base.wrapping_mul(base);
                    left >>= 1;
                }
                Some(result)
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // for unsigned types
            fn remainder(self, divisor: $ty) -> Option<$ty> {
                if divisor == 0 {
                    return None;
                }
                // Wrapping, because the smallest number divided by -1 overflows (its remainder is 0).
                let rest = self.wrapping_rem(divisor);
                Some(if rest != 0 && (rest < 0) != (divisor < 0) { rest + divisor } else { rest })
            }
            #[inline(always)]
            fn fmod(self, divisor: $ty) -> Option<$ty> {
                (divisor != 0).then(|| self.wrapping_rem(divisor))
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // for unsigned types
            fn floor_divide(self, divisor: $ty) -> Option<$ty> {
                let below = self.fmod(divisor)? != 0 && (self < 0) != (divisor < 0);
                Some(self.wrapping_div(divisor) - <$ty>::from(below))
            }
            #[inline(always)]
            fn trunc_divide(self, divisor: $ty) -> Option<$ty> {
                (divisor != 0).then(|| self.wrapping_div(divisor))
            }
            #[inline(always)]
            fn gcd(self, other: $ty) -> $ty {
                gcd(size(self), size(other)) as $ty
            }
            #[inline(always)]
            fn lcm(self, other: $ty) -> $ty {
                let (a, b) = (size(self), size(other));
                Int::abs((a / gcd(a, b).max(1)).wrapping_mul(b) as $ty)
            }
            #[inline(always)]
            fn shift_left(self, by: $ty) -> $ty {
                u32::try_from(by).ok().and_then(|by| self.checked_shl(by)).unwrap_or(0)
            }
            #[inline(always)]
            #[allow(unused_comparisons)] // for unsigned types
            fn shift_right(self, by: $ty) -> $ty {
                let signs = if self < 0 { !0 } else { 0 };
                u32::try_from(by).ok().and_then(|by| self.checked_shr(by)).unwrap_or(signs)
            }
        }
    )*};
}

macro_rules! int_rows {
    (()
        $(FLOAT($($float_rest:tt)*))*
        $(HALF($($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        int!($($i)*);
    };
}
kiln_backend::dtype_table!(int_rows);

/// The functions that formulas of the tables use (kernels/integer.cuh has the same).
pub(crate) mod functions {
    use super::Int;

    macro_rules! functions {
        ($($name:ident($($x:ident),*) => $method:ident;)*) => {$(
            #[inline(always)]
            pub(crate) fn $name<T: Int>($($x: T),*) -> T {
                T::$method($($x),*)
            }
        )*};
    }

    functions! {
        add(a, b) => add;
        sub(a, b) => sub;
        mul(a, b) => mul;
        neg(x) => neg;
        abs(x) => abs;
        sign(x) => sign;
        maximum(a, b) => max;
        minimum(a, b) => min;
        gcd(a, b) => gcd;
        lcm(a, b) => lcm;
        shift_left(a, b) => shift_left;
        shift_right(a, b) => shift_right;
    }

    /// Functions that are not defined for all operands: where undefined, they return 0 and set `undefined`.
    macro_rules! partial {
        ($($name:ident)*) => {$(
            #[inline(always)]
            pub(crate) fn $name<T: Int>(a: T, b: T, undefined: &mut bool) -> T {
                or_zero(T::$name(a, b), undefined)
            }
        )*};
    }
    partial! { pow remainder fmod floor_divide trunc_divide }

    #[inline(always)]
    fn or_zero<T: Int>(value: Option<T>, undefined: &mut bool) -> T {
        value.unwrap_or_else(|| {
            *undefined = true;
            T::ZERO
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainder_and_power() {
        let cases = [(7i64, 3, 1), (-7, 3, 2), (7, -3, -2), (-7, -3, -1), (i64::MIN, -1, 0), (6, -3, 0)];
        for (a, b, want) in cases {
            assert_eq!(a.remainder(b), Some(want), "{a} % {b}");
        }
        assert_eq!((1i32.remainder(0), 9u8.remainder(4)), (None, Some(1)));
        for (a, b, fmod, floor, trunc) in [
            (7i64, 3, 1, 2, 2),
            (-7, 3, -1, -3, -2),
            (7, -3, 1, -3, -2),
            (-7, -3, -1, 2, 2),
            (i64::MIN, -1, 0, i64::MIN, i64::MIN),
        ] {
            let got = (a.fmod(b), a.floor_divide(b), a.trunc_divide(b));
            assert_eq!(got, (Some(fmod), Some(floor), Some(trunc)), "{a}, {b}");
        }
        assert_eq!((1i32.fmod(0), 1i32.floor_divide(0), 1u8.trunc_divide(0)), (None, None, None));
        for (x, by, left, right) in
            [(5i64, 1, 10, 2), (-7, 1, -14, -4), (-7, 63, i64::MIN, -1), (5, 64, 0, 0), (-5, -1, 0, -1)]
        {
            assert_eq!((x.shift_left(by), x.shift_right(by)), (left, right), "{x} by {by}");
        }
        for (a, b, gcd, lcm) in
            [(12i64, -18, 6, 36), (0, -5, 5, 0), (0, 0, 0, 0), (i64::MIN, 6, 2, i64::MIN), (-7, 7, 7, 7)]
        {
            assert_eq!((a.gcd(b), a.lcm(b)), (gcd, lcm), "{a} and {b}");
        }
        assert_eq!((200u8.gcd(75), 200u8.lcm(75), i32::MIN.gcd(0)), (25, 88, i32::MIN));
        assert_eq!((200u8.shift_left(1), 200u8.shift_right(7), 200u8.shift_right(8)), (144, 1, 0));
        assert_eq!(
            (Int::pow(3i64, 4), Int::pow(2i32, 32), Int::pow(2i64, -1), Int::pow(0u8, 0)),
            (Some(81), Some(0), None, Some(1))
        );
    }
}
