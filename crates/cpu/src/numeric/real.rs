//! The real types that formulas are computed in, `f32` (also for half precision) and `f64`, and the functions and
//! constants of the formulas in the tables of element-wise operations.

use std::ops::{Add, Div, Mul, Neg, Rem, Sub};

use crate::numeric::{math, number::Number, stored::Stored};

/// The floating-point element types: those computed in a real type.
pub(crate) trait Float: Stored<Compute: Real> {}
impl<T: Stored<Compute: Real>> Float for T {}

/// The types that kernels compute in. Methods are named like those of Rust's floats; code must be generic over `Real`,
/// or the inherent methods would be called instead. All are `inline(always)`, so that they are compiled for the
/// instruction set of the loop that calls them.
pub(crate) trait Real:
    Stored<Compute = Self>
    + Number
    + Default
    + PartialOrd
    + std::fmt::Debug
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Rem<Output = Self>
{
    const INFINITY: Self;
    /// The nearest value.
    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;
    fn from_usize(value: usize) -> Self;
    fn from_u32(value: u32) -> Self;
    fn abs(self) -> Self;
    fn sqrt(self) -> Self;
    fn exp(self) -> Self;
    fn exp2(self) -> Self;
    fn exp_m1(self) -> Self;
    fn ln(self) -> Self;
    fn log2(self) -> Self;
    fn log10(self) -> Self;
    fn ln_1p(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tan(self) -> Self;
    fn asin(self) -> Self;
    fn acos(self) -> Self;
    fn atan(self) -> Self;
    fn asinh(self) -> Self;
    fn acosh(self) -> Self;
    fn atanh(self) -> Self;
    fn sinh(self) -> Self;
    fn cosh(self) -> Self;
    fn tanh(self) -> Self;
    fn sigmoid(self) -> Self;
    fn erf(self) -> Self;
    fn erfc(self) -> Self;
    /// `log(|gamma(x)|)`
    fn lgamma(self) -> Self;
    /// `Φ(x)`, the distribution function of the standard normal distribution, and `exp(-x² / 2)`.
    fn normal(self) -> (Self, Self);
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn trunc(self) -> Self;
    fn round_ties_even(self) -> Self;
    fn powf(self, exponent: Self) -> Self;
    fn atan2(self, x: Self) -> Self;
    /// The number or 0, without a branch and without a choice, which LLVM may make a branch of.
    fn only_if(self, keep: bool) -> Self;

    /// -1, 0 or 1; 0 of NaN, as in PyTorch.
    #[inline(always)]
    fn sign(self) -> Self {
        let zero = Self::of(0.0);
        if self > zero {
            Self::of(1.0)
        } else if self < zero {
            Self::of(-1.0)
        } else {
            zero
        }
    }

    /// `ln(1 + exp(x))`; the exponential's argument is never positive, so it cannot overflow.
    #[inline(always)]
    fn softplus(self) -> Self {
        let zero = Self::of(0.0);
        (if self > zero { self } else { zero }) + (-self.abs()).exp().ln_1p()
    }

    /// The larger one; NaN if either is.
    #[inline(always)]
    #[allow(clippy::eq_op)] // only NaN differs from itself
    fn maximum(self, other: Self) -> Self {
        if self > other || self != self { self } else { other }
    }

    /// The smaller one; NaN if either is.
    #[inline(always)]
    #[allow(clippy::eq_op)] // only NaN differs from itself
    fn minimum(self, other: Self) -> Self {
        if self < other || self != self { self } else { other }
    }

    /// C's remainder: exact, with the sign of the dividend.
    #[inline(always)]
    fn fmod(self, divisor: Self) -> Self {
        self % divisor
    }

    /// Python's remainder: exact, with the sign of the divisor.
    #[inline(always)]
    fn remainder(self, divisor: Self) -> Self {
        let (zero, rest) = (Self::of(0.0), self % divisor);
        if rest != zero && (rest < zero) != (divisor < zero) { rest + divisor } else { rest }
    }

    /// Python's `//`: the quotient that goes with the remainder.
    #[inline(always)]
    fn floor_divide(self, divisor: Self) -> Self {
        let (zero, one) = (Self::of(0.0), Self::of(1.0));
        if divisor == zero {
            return self / divisor;
        }
        let rest = self % divisor;
        let exact = (self - rest) / divisor;
        let exact = if rest != zero && (rest < zero) != (divisor < zero) { exact - one } else { exact };
        if exact == zero {
            // With the sign of the quotient.
            return zero * (self / divisor);
        }
        let below = exact.floor();
        if exact - below > Self::of(0.5) { below + one } else { below }
    }

    /// `x * Φ(x)`
    #[inline(always)]
    fn gelu(self) -> Self {
        self * self.normal().0
    }

    /// The derivative of `gelu`.
    #[inline(always)]
    fn gelu_slope(self) -> Self {
        let (distribution, exponential) = self.normal();
        distribution + self * Self::of(functions::FRAC_1_SQRT_2PI) * exponential
    }

    /// `x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`
    #[inline(always)]
    fn gelu_tanh(self) -> Self {
        Self::of(0.5) * self * (Self::of(1.0) + gelu_inner(self).tanh())
    }

    /// The derivative of `gelu_tanh`.
    #[inline(always)]
    fn gelu_tanh_slope(self) -> Self {
        let (half, one) = (Self::of(0.5), Self::of(1.0));
        let tanh = gelu_inner(self).tanh();
        let inner_slope = Self::of(GELU_SCALE) * (one + Self::of(3.0 * GELU_CUBE) * self * self);
        half * (one + tanh) + half * self * (one - tanh * tanh) * inner_slope
    }
}

/// The functions and constants that the tables' formulas use, under their C names (kernels/real.cuh has the same),
/// but for those of [`special`](super::special).
pub(crate) mod functions {
    use super::Real;

    pub(crate) use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LN_2, LN_10};
    pub(crate) const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;
    /// SELU's scale, and the scale times alpha.
    pub(crate) const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
    pub(crate) const SELU_SLOPE: f64 = 1.758_099_340_847_376_6;

    macro_rules! functions {
        ($($name:ident($($x:ident),*) => $method:ident;)*) => {$(
            #[inline(always)]
            pub(crate) fn $name<T: Real>($($x: T),*) -> T {
                T::$method($($x),*)
            }
        )*};
    }

    functions! {
        abs(x) => abs;
        sign(x) => sign;
        sqrt(x) => sqrt;
        exp(x) => exp;
        exp2(x) => exp2;
        expm1(x) => exp_m1;
        log(x) => ln;
        log2(x) => log2;
        log10(x) => log10;
        log1p(x) => ln_1p;
        sin(x) => sin;
        cos(x) => cos;
        tan(x) => tan;
        asin(x) => asin;
        acos(x) => acos;
        atan(x) => atan;
        asinh(x) => asinh;
        acosh(x) => acosh;
        atanh(x) => atanh;
        sinh(x) => sinh;
        cosh(x) => cosh;
        tanh(x) => tanh;
        sigmoid(x) => sigmoid;
        softplus(x) => softplus;
        gelu(x) => gelu;
        gelu_slope(x) => gelu_slope;
        gelu_tanh(x) => gelu_tanh;
        gelu_tanh_slope(x) => gelu_tanh_slope;
        erf(x) => erf;
        erfc(x) => erfc;
        lgamma(x) => lgamma;
        floor(x) => floor;
        ceil(x) => ceil;
        trunc(x) => trunc;
        rint(x) => round_ties_even;
        pow(a, b) => powf;
        atan2(a, b) => atan2;
        maximum(a, b) => maximum;
        minimum(a, b) => minimum;
        fmod(a, b) => fmod;
        remainder(a, b) => remainder;
        floor_divide(a, b) => floor_divide;
    }

    /// `condition ? a : b`
    #[inline(always)]
    pub(crate) fn select<T: Real>(condition: bool, a: T, b: T) -> T {
        if condition { a } else { b }
    }
}

const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
const GELU_CUBE: f64 = 0.044_715;

#[inline(always)]
fn gelu_inner<T: Real>(x: T) -> T {
    T::of(GELU_SCALE) * (x + T::of(GELU_CUBE) * x * x * x)
}

macro_rules! real {
    ($ty:ident ($bits:ident): std [$($std:ident)*] own [$($own:ident => $f:path;)*] normal $normal:path) => {
        impl Real for $ty {
            const INFINITY: $ty = $ty::INFINITY;
            #[inline(always)]
            fn of(value: f64) -> $ty {
                value as $ty
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn from_usize(value: usize) -> $ty {
                value as $ty
            }
            #[inline(always)]
            fn from_u32(value: u32) -> $ty {
                value as $ty
            }
            #[inline(always)]
            fn powf(self, exponent: $ty) -> $ty {
                $ty::powf(self, exponent)
            }
            #[inline(always)]
            fn atan2(self, x: $ty) -> $ty {
                $ty::atan2(self, x)
            }
            #[inline(always)]
            fn only_if(self, keep: bool) -> $ty {
                $ty::from_bits(self.to_bits() & $bits::from(keep).wrapping_neg())
            }
            $(
                #[inline(always)]
                fn $std(self) -> $ty {
                    $ty::$std(self)
                }
            )*
            #[inline(always)]
            fn normal(self) -> ($ty, $ty) {
                $normal(self)
            }
            $(
                #[inline(always)]
                fn $own(self) -> $ty {
                    $f(self)
                }
            )*
        }
    };
}

real! {
    f32 (u32): std [abs sqrt exp2 exp_m1 log2 log10 sin cos tan asin acos atan sinh cosh floor ceil trunc round_ties_even]
    own [exp => math::exp; ln => math::ln; ln_1p => math::ln_1p; tanh => math::tanh; sigmoid => math::sigmoid; erf => math::erf;
         asinh => libm::asinhf; acosh => libm::acoshf; atanh => libm::atanhf; erfc => libm::erfcf; lgamma => libm::lgammaf;]
    normal math::normal
}

real! {
    f64 (u64): std [abs sqrt exp exp2 exp_m1 ln log2 log10 ln_1p sin cos tan asin acos atan sinh cosh tanh floor ceil trunc round_ties_even]
    own [sigmoid => sigmoid; erf => libm::erf; asinh => libm::asinh; acosh => libm::acosh; atanh => libm::atanh;
         erfc => libm::erfc; lgamma => libm::lgamma;]
    normal normal
}

#[inline(always)]
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[inline(always)]
fn normal(x: f64) -> (f64, f64) {
    (0.5 * libm::erfc(-x * functions::FRAC_1_SQRT_2), (-0.5 * x * x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-14
    }

    #[test]
    fn formulas() {
        fn check<T: Real>() {
            let (nan, one) = (T::of(f64::NAN), T::of(1.0));
            let is_nan = |v: T| v.to_f64().is_nan();
            assert!(nan.sign() == T::of(0.0) && T::of(-0.0).sign() == T::of(0.0) && T::of(-3.0).sign() == T::of(-1.0));
            assert!(is_nan(nan.maximum(one)) && is_nan(one.maximum(nan)) && is_nan(one.minimum(nan)));
            assert_eq!(one.maximum(T::of(2.0)), T::of(2.0));
            assert_eq!(T::of(1000.0).softplus(), T::of(1000.0));
            assert_eq!(T::of(-1000.0).softplus(), T::of(0.0));
            assert!(is_nan(nan.softplus()));
            let (inf, zero) = (T::INFINITY, T::of(0.0));
            for (a, b, fmod, remainder, floor_divide) in [
                (-7.5, 2.0, -1.5, 0.5, -4.0),
                (7.5, -2.0, 1.5, -0.5, -4.0),
                (5.0, f64::INFINITY, 5.0, 5.0, 0.0),
                (-5.0, f64::INFINITY, -5.0, f64::INFINITY, -1.0),
                (-6.0, 2.0, 0.0, 0.0, -3.0),
            ] {
                let (x, y) = (T::of(a), T::of(b));
                assert_eq!(x.fmod(y), T::of(fmod), "fmod({a}, {b})");
                assert_eq!(x.remainder(y), T::of(remainder), "remainder({a}, {b})");
                assert_eq!(x.floor_divide(y), T::of(floor_divide), "floor_divide({a}, {b})");
            }
            assert!(T::of(1e8).remainder(T::of(3.0)) == one && T::of(3e9).remainder(T::of(7.0)) == T::of(4.0));
            assert!(is_nan(one.remainder(zero)) && is_nan(inf.remainder(one)) && one.floor_divide(zero) == inf);
        }
        check::<f32>();
        check::<f64>();
        assert_eq!((1.0f64.remainder(0.1), 1.0f64.floor_divide(0.1)), (0.099_999_999_999_999_95, 9.0));
        assert_eq!((1.0f32.remainder(0.1), 1.0f32.floor_divide(0.1)), (0.099_999_99, 9.0));
        assert!(near(Real::softplus(0.5f64), 0.5f64.exp().ln_1p()));
        assert!(near(Real::erf(0.5f64), 0.520_499_877_813_046_5));
        let slope = (Real::gelu_tanh(0.7 + 1e-6) - Real::gelu_tanh(0.7 - 1e-6)) / 2e-6;
        assert!((slope - Real::gelu_tanh_slope(0.7f64)).abs() < 1e-9);
    }
}
