//! Special functions of the tables' formulas: derivatives of the logarithm of the gamma function, the inverse of the error
//! function, modified Bessel functions. kernels/special.cuh has the same in C++.

use std::f64::consts::PI;

use crate::numeric::real::Real;

/// `c[0] + c[1] x + c[2] x^2 + …`
#[inline(always)]
fn polynomial<T: Real, const N: usize>(x: T, c: [f64; N]) -> T {
    let mut sum = T::of(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = sum * x + T::of(c[i]);
    }
    sum
}

/// The derivative of `log(gamma(x))`: infinite at 0 with the sign of `-x`, NaN at the negative integers.
pub(crate) fn digamma<T: Real>(x: T) -> T {
    let (zero, one) = (T::of(0.0), T::of(1.0));
    if x == zero {
        return -one / x;
    }
    if x < zero {
        // By reflection. The distance to the nearest integer is exact, and only it matters for the tangent.
        let part = x - x.round_ties_even();
        if part == zero {
            return T::of(f64::NAN);
        }
        return digamma_of_positive(one - x) - T::of(PI) / (T::of(PI) * part).tan();
    }
    digamma_of_positive(x)
}

/// By the recurrence to 10 or more, and the asymptotic series there.
fn digamma_of_positive<T: Real>(x: T) -> T {
    let (mut x, mut sum, one) = (x, T::of(0.0), T::of(1.0));
    while x < T::of(10.0) {
        sum = sum + one / x;
        x = x + one;
    }
    let z = one / (x * x);
    // Bernoulli numbers B(2k) / 2k.
    let series =
        polynomial(z, [1.0 / 12.0, -1.0 / 120.0, 1.0 / 252.0, -1.0 / 240.0, 1.0 / 132.0, -691.0 / 32760.0, 1.0 / 12.0]);
    x.ln() - T::of(0.5) / x - z * series - sum
}

/// The derivative of order `n` of [`digamma`] at `x`; the order is rounded down, and gives NaN if it is negative.
pub(crate) fn polygamma<T: Real>(x: T, n: T) -> T {
    let (zero, one) = (T::of(0.0), T::of(1.0));
    let n = n.floor();
    if n == zero {
        return digamma(x);
    }
    // Beyond this order the factorial is infinite in every type.
    let last = T::of(171.0);
    if n < zero || is_nan(n) {
        return T::of(f64::NAN);
    }
    let (mut factorial, mut k) = (one, T::of(2.0));
    while k <= n && k <= last {
        factorial = factorial * k;
        k = k + one;
    }
    let is_odd = n - T::of(2.0) * (n * T::of(0.5)).floor() == one;
    let value = factorial * zeta(n + one, x, is_odd);
    if is_odd { value } else { -value }
}

#[allow(clippy::eq_op)] // only NaN differs from itself
fn is_nan<T: Real>(x: T) -> bool {
    x != x
}

/// Hurwitz's zeta function: the sum of `(q + k)^-s` over all integers `k` from 0 on, of an integer `s` of at least 2. It
/// is infinite where a term is.
fn zeta<T: Real>(s: T, q: T, s_is_even: bool) -> T {
    let (zero, one) = (T::of(0.0), T::of(1.0));
    if q > zero || is_nan(q) {
        return zeta_of_positive(s, q);
    }
    let below = q.floor();
    if q == below {
        return T::INFINITY;
    }
    // The terms with negative bases are those of `1 - part`, `2 - part` and so on to `-q`, up to their sign.
    let part = q - below;
    let negative = zeta_of_positive(s, one - part) - zeta_of_positive(s, one - q);
    let positive = zeta_of_positive(s, part);
    if s_is_even { positive + negative } else { positive - negative }
}

/// The first terms, and the formula of Euler and Maclaurin for the rest.
fn zeta_of_positive<T: Real>(s: T, q: T) -> T {
    let one = T::of(1.0);
    // The series converges the slower the larger `s` is.
    let from = T::of(10.0) + T::of(0.5) * if s < T::of(172.0) { s } else { T::of(172.0) };
    let (mut sum, mut a) = (T::of(0.0), q);
    while a < from {
        sum = sum + a.powf(-s);
        a = a + one;
    }
    // Bernoulli numbers B(2k) / (2k)!.
    let numbers = [
        1.0 / 12.0,
        -1.0 / 720.0,
        1.0 / 30_240.0,
        -1.0 / 1_209_600.0,
        1.0 / 47_900_160.0,
        -691.0 / 1_307_674_368_000.0,
        1.0 / 74_724_249_600.0,
    ];
    // Divided by `a` step by step: `a^-s` may underflow before the integral does.
    let integral = a.powf(one - s);
    let mut factor = integral / a;
    sum = sum + integral / (s - one) + T::of(0.5) * factor;
    let mut k = T::of(0.0);
    for number in numbers {
        factor = factor * (s + k) / a;
        sum = sum + T::of(number) * factor;
        factor = factor * (s + k + one) / a;
        k = k + T::of(2.0);
    }
    sum
}

/// The inverse of the error function: infinite at -1 and 1, NaN beyond.
pub(crate) fn erfinv<T: Real>(x: T) -> T {
    let (half, one) = (T::of(0.5), T::of(1.0));
    let size = x.abs();
    if size == one {
        return x * T::INFINITY;
    }
    T::of(std::f64::consts::FRAC_1_SQRT_2) * normal_quantile(half * x, half * (one - size))
}

/// The quantile of the standard normal distribution at the probability `q + 1/2`; `tail` is that of the nearer tail.
/// Wichura, "Algorithm AS 241: the percentage points of the normal distribution" (1988), with its coefficients.
fn normal_quantile<T: Real>(q: T, tail: T) -> T {
    if q.abs() <= T::of(0.425) {
        let r = T::of(0.180_625) - q * q;
        let above = polynomial(
            r,
            [
                3.387_132_872_796_366_5,
                133.141_667_891_784_38,
                1_971.590_950_306_551_3,
                13_731.693_765_509_46,
                45_921.953_931_549_87,
                67_265.770_927_008_7,
                33_430.575_583_588_13,
                2_509.080_928_730_122_7,
            ],
        );
        let below = polynomial(
            r,
            [
                1.0,
                42.313_330_701_600_91,
                687.187_007_492_057_9,
                5_394.196_021_424_751,
                21_213.794_301_586_597,
                39_307.895_800_092_71,
                28_729.085_735_721_943,
                5_226.495_278_852_854,
            ],
        );
        return q * above / below;
    }
    let r = (-tail.ln()).sqrt();
    let size = if r <= T::of(5.0) {
        let r = r - T::of(1.6);
        let above = polynomial(
            r,
            [
                1.423_437_110_749_683_5,
                4.630_337_846_156_546,
                5.769_497_221_460_691,
                3.647_848_324_763_204_5,
                1.270_458_252_452_368_4,
                0.241_780_725_177_450_6,
                0.022_723_844_989_269_184,
                7.745_450_142_783_414e-4,
            ],
        );
        let below = polynomial(
            r,
            [
                1.0,
                2.053_191_626_637_759,
                1.676_384_830_183_803_8,
                0.689_767_334_985_1,
                0.148_103_976_427_480_08,
                0.015_198_666_563_616_457,
                5.475_938_084_995_345e-4,
                1.050_750_071_644_416_9e-9,
            ],
        );
        above / below
    } else {
        let r = r - T::of(5.0);
        let above = polynomial(
            r,
            [
                6.657_904_643_501_103,
                5.463_784_911_164_114,
                1.784_826_539_917_291_3,
                0.296_560_571_828_504_87,
                0.026_532_189_526_576_124,
                0.001_242_660_947_388_078_4,
                2.711_555_568_743_487_6e-5,
                2.010_334_399_292_288_1e-7,
            ],
        );
        let below = polynomial(
            r,
            [
                1.0,
                0.599_832_206_555_888,
                0.136_929_880_922_735_8,
                0.014_875_361_290_850_615,
                7.868_691_311_456_133e-4,
                1.846_318_317_510_054_8e-5,
                1.421_511_758_316_446e-7,
                2.044_263_103_389_939_8e-15,
            ],
        );
        above / below
    };
    if q < T::of(0.0) { -size } else { size }
}

/// The modified Bessel function of the first kind, of order 0.
pub(crate) fn i0<T: Real>(x: T) -> T {
    bessel(x.abs(), T::of(0.0))
}

/// The modified Bessel function of the first kind, of order 1.
pub(crate) fn i1<T: Real>(x: T) -> T {
    let value = bessel(x.abs(), T::of(1.0));
    if x < T::of(0.0) { -value } else { value }
}

/// The modified Bessel function of the first kind, of order 0 or 1 and a positive number: by its power series below 20, by
/// the asymptotic one from there on (Abramowitz and Stegun 9.6.10, 9.7.1).
fn bessel<T: Real>(x: T, order: T) -> T {
    let (half, one) = (T::of(0.5), T::of(1.0));
    if x < T::of(20.0) {
        let quarter = half * x * half * x;
        let first = if order == T::of(0.0) { one } else { half * x };
        return sum_of(first, |k| quarter / (k * (k + order)));
    }
    if x == T::INFINITY {
        return x;
    }
    let square = T::of(4.0) * order * order;
    let sum = sum_of(one, |k| {
        let odd = k + k - one;
        (odd * odd - square) / (T::of(8.0) * k * x)
    });
    // The exponential in two factors: it overflows before the result does.
    let root = (half * x).exp();
    root * (sum / (T::of((2.0 * PI).sqrt()) * x.sqrt())) * root
}

/// The sum of a series by its first term and the ratio of term `k` to the one before, up to the term that changes nothing,
/// or the 50th.
#[inline(always)]
fn sum_of<T: Real>(first: T, ratio: impl Fn(T) -> T) -> T {
    let (mut sum, mut term, mut k) = (first, first, T::of(1.0));
    while k < T::of(50.0) {
        term = term * ratio(k);
        let next = sum + term;
        if next == sum {
            break;
        }
        sum = next;
        k = k + T::of(1.0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks `f64`, and `f32` at the same numbers.
    macro_rules! check {
        ($($f:ident($($x:expr),*) = $want:expr;)*) => {$({
            let (got, want): (f64, f64) = ($f($($x),*), $want);
            assert!((got - want).abs() <= 4e-15 * want.abs().max(1.0), "{}: {got:e}, not {want:e}", stringify!($f($($x),*)));
            let got = f64::from($f($($x as f32),*));
            assert!((got - want).abs() <= 2e-6 * want.abs().max(1.0), "{} of f32: {got:e}, not {want:e}", stringify!($f($($x),*)));
        })*};
    }

    /// Known values: Euler's constant, Catalan's, those of the zeta function, tables of Abramowitz and Stegun.
    #[test]
    fn values() {
        check! {
            digamma(1.0) = -0.577_215_664_901_532_9;
            digamma(0.5) = -1.963_510_026_021_423_5;
            digamma(-0.5) = 0.036_489_973_978_576_52;
            digamma(100.0) = 4.600_161_852_738_087;
            polygamma(1.0, 1.0) = PI * PI / 6.0;
            polygamma(0.5, 1.0) = PI * PI / 2.0;
            polygamma(-0.5, 1.0) = PI * PI / 2.0 + 4.0;
            polygamma(-1.5, 1.0) = PI * PI / 2.0 + 4.0 + 4.0 / 9.0;
            polygamma(0.25, 1.0) = PI * PI + 8.0 * 0.915_965_594_177_219;
            polygamma(1.0, 2.0) = -2.404_113_806_319_188_6;
            polygamma(-0.5, 2.0) = -0.828_796_644_234_319_7;
            polygamma(0.5, 3.0) = PI * PI * PI * PI;
            polygamma(1.0, 0.0) = -0.577_215_664_901_532_9;
            erfinv(0.5) = 0.476_936_276_204_469_9;
            erfinv(-0.25) = -0.225_312_055_012_178_1;
            i0(1.0) = 1.266_065_877_752_008_4;
            i0(-2.0) = 2.279_585_302_336_067;
            i1(1.0) = 0.565_159_103_992_485;
            i1(-2.0) = -1.590_636_854_637_329;
            i0(50.0) = 2.932_553_783_849_336_3e20;
            i1(50.0) = 2.903_078_590_103_557e20;
        }
    }

    /// Where the methods meet, and at the ends of the ranges.
    #[test]
    fn edges() {
        fn check<T: Real>(eps: f64) {
            let (inf, nan) = (T::INFINITY, T::of(f64::NAN));
            let of = |x: f64| T::of(x);
            assert!(digamma(of(0.0)) == -inf && digamma(of(-0.0)) == inf && digamma(inf) == inf);
            assert!(is_nan(digamma(of(-3.0))) && is_nan(digamma(nan)) && is_nan(digamma(-inf)));
            assert!(polygamma(of(0.0), of(1.0)) == inf && polygamma(of(-2.0), of(3.0)) == inf);
            assert!(is_nan(polygamma(of(1.0), of(-1.0))) && is_nan(polygamma(nan, of(1.0))));
            assert_eq!(polygamma(of(1.5), of(1.9)), polygamma(of(1.5), of(1.0)));
            // As 1 / x where x is large; a sum term by term would not end.
            let far = of(-8_388_607.5);
            assert!((polygamma(far, of(1.0)).to_f64() - PI * PI).abs() < 1e-5 && polygamma(inf, of(1.0)) == of(0.0));
            assert!((polygamma(of(1e30), of(1.0)).to_f64() / 1e-30 - 1.0).abs() < 1e-6);
            assert!(
                erfinv(of(1.0)) == inf && erfinv(of(-1.0)) == -inf && is_nan(erfinv(of(1.5))) && is_nan(erfinv(nan))
            );
            assert!(i0(inf) == inf && i1(-inf) == -inf && is_nan(i0(nan)) && is_nan(i1(nan)) && i0(of(0.0)) == of(1.0));
            // The recurrences, across all seams.
            let near = |a: T, b: T, what: &str| {
                let (a, b) = (a.to_f64(), b.to_f64());
                assert!((a - b).abs() <= eps * b.abs().max(1e-3), "{what}: {a:e}, not {b:e}");
            };
            for i in 1..400 {
                let x = of(f64::from(i) * 0.071);
                let one = of(1.0);
                near(digamma(x + one), digamma(x) + one / x, "digamma");
                near(polygamma(x, one), polygamma(x + one, one) + one / (x * x), "trigamma");
                near(
                    polygamma(-x, one) + polygamma(x + one, one),
                    {
                        let sine = (of(PI) * (x - x.round_ties_even())).sin();
                        of(PI * PI) / (sine * sine)
                    },
                    "the reflection",
                );
                let size = of(f64::from(i) / 401.0);
                near(Real::erf(erfinv(size)), size, "erf(erfinv)");
            }
        }
        check::<f32>(2e-5);
        check::<f64>(2e-12);
    }

    /// The series meet at 20, and end before the largest numbers do.
    #[test]
    fn bessel_functions_are_smooth_and_do_not_overflow_early() {
        for order in [0.0, 1.0] {
            let (below, at) = (20.0f64.next_down(), 20.0);
            assert!((bessel(below, order) / bessel(at, order) - 1.0).abs() < 1e-14);
        }
        assert!(i0(f64::MAX) == f64::INFINITY && i1(f32::MIN) == f32::NEG_INFINITY);
        assert!(i0(713.0f64).is_finite() && i0(91.0f32).is_finite());
        // Their Wronskian-like identity: the derivative of i0 is i1.
        for i in 1..300 {
            let (x, h) = (f64::from(i) * 0.1, 1e-5);
            let slope = (i0(x + h) - i0(x - h)) / (2.0 * h);
            assert!((slope / i1(x) - 1.0).abs() < 1e-8, "{x}");
        }
    }

    /// The ends of the tails, against the error function's complement.
    #[test]
    fn tails_of_the_inverse_error_function() {
        for k in 1..50 {
            let x = 1.0 - 2f64.powi(-k);
            let t = erfinv(x);
            assert!((libm::erfc(t) * 2f64.powi(k) - 1.0).abs() < 1e-13 * (1.0 + t * t), "{k}");
        }
    }
}
