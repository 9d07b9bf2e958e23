//! Transcendental functions of `f32` that vectorize: no branches, no tables, no calls.
//!
//! Accuracy is within 2 units in the last place (tested against `f64`). They use only additions, multiplications,
//! divisions and bit patterns, never a fused multiply-add, so that every instruction set gives the same bits. The
//! polynomials are minimax fits for these ranges; the range reductions are those of Cody and Waite, "Software Manual
//! for the Elementary Functions" (1980).

/// `ln 2` in two parts, the first with so few bits that small multiples of it are exact.
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `c[0] + c[1] x + c[2] x^2 + …`
#[inline(always)]
fn polynomial<const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + c[i];
    }
    sum
}

#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Beyond these bounds the result is infinity or zero, as it is at them. (NaN passes.)
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };
    // e^x = 2^k e^r with k = round(x / ln 2): adding 1.5 * 2^23 leaves k in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let k = shifted - ROUND;
    let bits = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = x - k * LN2_HIGH - k * LN2_LOW;
    let p = polynomial(r, [0.499_999_94, 0.166_665_15, 0.041_668_456, 0.008_369_419, 0.001_381_314_5]);
    let e = 1.0 + (r + r * r * p);
    // 2^k in two steps: it may be outside of the range of normal numbers.
    let half = bits >> 1;
    e * power_of_two(half) * power_of_two(bits.wrapping_sub(half))
}

/// `exp(x)` of a number that is at most about 0, as after the largest one of several was subtracted; below -87, where results
/// begin to lose digits, it is 0. NaN is NaN. With `FMA` the CPU must have fused multiplications and additions.
#[inline(always)]
pub(crate) fn exp_nonpositive<const FMA: bool>(x: f32) -> f32 {
    let fused = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    // As `exp`, of which only the power of two is always a normal number here.
    const ROUND: f32 = 12_582_912.0;
    let shifted = fused(x, std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let bits = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = fused(k, -LN2_LOW, fused(k, -LN2_HIGH, x));
    let mut p = 0.001_381_314_5;
    for c in [0.008_369_419, 0.041_668_456, 0.166_665_15, 0.499_999_94] {
        p = fused(p, r, c);
    }
    let e = 1.0 + fused(r * r, p, r);
    let result = e * power_of_two(bits);
    if x < -87.0 { 0.0 } else { result }
}

#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) as u32) << 23)
}

#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3F35_04F3;
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    // x = 2^e (1 + f) with 1 + f between sqrt(1/2) and sqrt(2).
    let bits = scaled.to_bits().wrapping_sub(SQRT_HALF);
    let e = ((bits as i32) >> 23) as f32 - if tiny { 23.0 } else { 0.0 };
    let f = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(SQRT_HALF)) - 1.0;
    let p = polynomial(
        f,
        [
            0.333_333_13,
            -0.250_000_1,
            0.200_021_19,
            -0.166_679_96,
            0.142_195_52,
            -0.124_055_89,
            0.118_881_63,
            -0.116_756_51,
            0.067_466_386,
        ],
    );
    let square = f * f;
    let tail = f * square * p + e * LN2_LOW - 0.5 * square;
    let result = (f + tail) + e * LN2_HIGH;
    // Infinity and NaN are their own logarithms.
    let result = if x < f32::INFINITY { result } else { x };
    let result = if x == 0.0 { f32::NEG_INFINITY } else { result };
    if x < 0.0 { f32::NAN } else { result }
}

#[inline(always)]
pub(crate) fn ln_1p(x: f32) -> f32 {
    let u = 1.0 + x;
    // The rounding error of the sum, to first order.
    let lost = (x - (u - 1.0)) / u;
    let lost = if u > 0.0 && u < f32::INFINITY { lost } else { 0.0 };
    // -0.0 is its own logarithm here.
    if x == 0.0 { x } else { ln(u) + lost }
}

#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = polynomial(z, [-0.333_333_3, 0.133_332_1, -0.053_947_203, 0.021_702_97, -0.008_182_677, 0.002_147_539_8]);
    let small = x + x * (z * p);
    let t = x.abs();
    let large = 1.0 - 2.0 / (exp(t + t) + 1.0);
    if t < 0.625 { small } else { large.copysign(x) }
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let t = x.abs();
    let p = polynomial(
        x * x,
        [0.128_379_17, -0.376_126_35, 0.112_837_33, -0.026_861_584, 0.005_206_747_4, -0.000_821_110_4, 8.675_392e-5],
    );
    let small = x + x * p;
    // ln(erfc(t)); from 4 on the result is 1.
    let t = if t > 4.0 { 4.0 } else { t };
    let q = polynomial(
        t,
        [
            0.000_162_024_73,
            -1.129_453_2,
            -0.633_473_46,
            -0.108_139_03,
            0.025_027_143,
            -0.004_135_645,
            0.000_427_083,
            -2.045_136e-5,
        ],
    );
    let large = 1.0 - exp(q);
    if t < 0.875 { small } else { large.copysign(x) }
}

/// The distribution function of the standard normal distribution, and `exp(-x² / 2)`. The tail beyond `|x|` is a multiple of the
/// latter: the factor is a polynomial in `t / (1 + t)` over `1 + t`, where `t` is `0.29 |x|`, one from 0 to infinity (the form of
/// Hastings, "Approximations for Digital Computers", 1955). Above 0 the result is as accurate as the functions above; tails lose
/// the digits that the square loses by rounding.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let t = x.abs() * 0.29;
    // From about 13 on the exponential is 0.
    let t = if t > 4.0 { 4.0 } else { t };
    let u = 1.0 / (1.0 + t);
    let factor = polynomial(
        t * u,
        [0.5, -0.875_662_4, 0.721_316_93, -0.161_613_52, -0.138_209_36, 0.029_198_108, 0.077_231_854, -0.036_726_47],
    );
    let e = exp_nonpositive::<false>(x * x * -0.5);
    let tail = e * (factor * u);
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error in units in the last place over floats spread evenly over all bit patterns.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, within: impl Fn(f32) -> bool) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for bits in (0..u32::MAX).step_by(2503) {
            let x = f32::from_bits(bits);
            if !within(x) {
                continue;
            }
            let (got, want) = (f(x), exact(f64::from(x)));
            if want.is_nan() {
                assert!(got.is_nan(), "{x:e}: {got}");
                continue;
            }
            let rounded = want as f32;
            if rounded.is_infinite() || got.is_infinite() {
                assert_eq!(got, rounded, "{x:e}");
                continue;
            }
            let ulp = f64::from(rounded.abs().max(f32::MIN_POSITIVE)) * 2f64.powi(-23);
            // The unit of the power of two below.
            let ulp = 2f64.powi((ulp.log2()).floor() as i32).max(2f64.powi(-149));
            let error = (f64::from(got) - want).abs() / ulp;
            if error > worst.0 {
                worst = (error, x);
            }
        }
        worst
    }

    #[test]
    fn functions_are_accurate() {
        let all = |_: f32| true;
        for (name, worst) in [
            ("exp", worst(exp, f64::exp, all)),
            ("ln", worst(ln, f64::ln, all)),
            ("ln_1p", worst(ln_1p, f64::ln_1p, all)),
            ("tanh", worst(tanh, f64::tanh, all)),
            ("erf", worst(erf, libm::erf, all)),
            (
                "exp_nonpositive",
                worst(exp_nonpositive::<false>, f64::exp, |x| (-87.0..=0.0).contains(&x) || x.is_nan()),
            ),
            ("exp_nonpositive, fused", worst(exp_nonpositive::<true>, f64::exp, |x| (-87.0..=0.0).contains(&x))),
            ("sigmoid", worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |x| x > -87.0 || x.is_nan())),
        ] {
            println!("{name}: {worst:?}");
            assert!(worst.0 <= 2.0, "{name}: {worst:?} ulp");
        }
    }

    #[test]
    fn the_normal_distribution_is_accurate() {
        let exact = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let upper = worst(|x| normal(x).0, exact, |x| x >= 0.0 || x.is_nan());
        let exponential = worst(|x| normal(x).1, |x| (-0.5 * x * x).exp(), |x| x.abs() < 1.0);
        println!("{upper:?}, {exponential:?}");
        assert!(upper.0 <= 2.0 && exponential.0 <= 2.0, "{upper:?}, {exponential:?} ulp");
        for i in 0..1_300_000 {
            let x = i as f32 * -1e-5;
            let (got, square) = (normal(x), f64::from(x).powi(2));
            for (got, want) in [(got.0, exact(f64::from(x))), (got.1, (-0.5 * square).exp())] {
                let error = (f64::from(got) / want - 1.0).abs();
                assert!(error < (1.0 + square / 4.0) * 3.2e-7, "{x}: {got}, not {want}");
            }
        }
        let inf = f32::INFINITY;
        assert_eq!(
            (normal(inf), normal(-inf), normal(-14.0).0, normal(0.0)),
            ((1.0, 0.0), (0.0, 0.0), 0.0, (0.5, 1.0))
        );
        assert!(normal(f32::NAN).0.is_nan() && normal(f32::NAN).1.is_nan());
    }

    #[test]
    fn special_values() {
        let inf = f32::INFINITY;
        assert_eq!((exp(inf), exp(-inf), exp(0.0), exp(-200.0)), (inf, 0.0, 1.0, 0.0));
        let below = [-inf, -1e9, -87.1].map(|x| (exp_nonpositive::<false>(x), exp_nonpositive::<true>(x)));
        assert_eq!((below, exp_nonpositive::<false>(0.0)), ([(0.0, 0.0); 3], 1.0));
        assert!(exp_nonpositive::<true>(f32::NAN).is_nan());
        assert_eq!((ln(0.0), ln(-0.0), ln(inf), ln(1.0)), (-inf, -inf, inf, 0.0));
        assert_eq!((ln_1p(-1.0), ln_1p(inf), ln_1p(0.0)), (-inf, inf, 0.0));
        assert!(ln(-1.0).is_nan() && ln_1p(-2.0).is_nan() && ln_1p(-0.0).is_sign_negative());
        assert_eq!((tanh(inf), tanh(-inf), erf(inf), erf(-9.0)), (1.0, -1.0, 1.0, -1.0));
        assert_eq!((sigmoid(-inf), sigmoid(inf)), (0.0, 1.0));
        for f in [exp, ln, ln_1p, tanh, erf, sigmoid] {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
