//! Normally distributed numbers (Box & Muller, 1958), with the same bits on every device.
//!
//! Two uniform draws `a` and `b` give two normal ones: `r cos(2 pi b)` and `r sin(2 pi b)` with
//! `r = sqrt(-2 ln a)`. In 32 bits the draws are consecutive words of a block (words 0 and 1 give elements 0
//! and 1, words 2 and 3 elements 2 and 3); in 64 bits they are the two halves of a block. `a` is in `(0, 1]`
//! and `b` in `[0, 1)`, both with as many bits as the significand.
//!
//! The logarithm, sine and cosine are written out here (and in [`math`]) in additions, multiplications, divisions and
//! square roots, each rounded once and none fused, so that another device gets the same numbers by following them line
//! by line.

use crate::{
    engine::simd::multiversion,
    numeric::{math, real::Real},
};

/// The loop that turns blocks into normal numbers: four per block for `f32`, two for `f64`.
pub(crate) fn kernel<T: BoxMuller>(mean: f64, std: f64) -> impl Fn(&[[u32; 4]], &mut [T]) + Sync {
    let (mean, std) = (T::of(mean), T::of(std));
    move |blocks, out| normals(blocks, mean, std, out)
}

/// A type with the pieces of the transform.
pub(crate) trait BoxMuller: Real {
    /// Pairs of uniform draws per block.
    const PAIRS: usize;
    /// Draw `a` in `(0, 1]` and draw `b` in `[0, 1)` of a pair.
    fn uniform(block: &[u32; 4], pair: usize) -> (Self, Self);
    /// The natural logarithm of a number in `(0, 1]`.
    fn log(self) -> Self;
    /// Sine and cosine of an angle in [-pi / 4, pi / 4].
    fn sin_cos_octant(self) -> (Self, Self);
}

impl BoxMuller for f32 {
    const PAIRS: usize = 2;

    #[inline(always)]
    fn uniform(block: &[u32; 4], pair: usize) -> (f32, f32) {
        const UNIT: f32 = 1.0 / (1 << 24) as f32;
        let (a, b) = (block[2 * pair] >> 8, block[2 * pair + 1] >> 8);
        ((a + 1) as i32 as f32 * UNIT, b as i32 as f32 * UNIT)
    }

    #[inline(always)]
    fn log(self) -> f32 {
        math::ln(self)
    }

    #[inline(always)]
    fn sin_cos_octant(self) -> (f32, f32) {
        // Taylor series; the first terms left out are below 2^-25.
        let z = self * self;
        let sin = ((z * (1.0 / 362_880.0) - 1.0 / 5_040.0) * z + 1.0 / 120.0) * z - 1.0 / 6.0;
        let cos = ((z * (1.0 / 40_320.0) - 1.0 / 720.0) * z + 1.0 / 24.0) * z - 0.5;
        (self + self * z * sin, 1.0 + z * cos)
    }
}

impl BoxMuller for f64 {
    const PAIRS: usize = 1;

    #[inline(always)]
    fn uniform(block: &[u32; 4], _: usize) -> (f64, f64) {
        const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
        let word = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32) >> 11;
        let (a, b) = (word(block[0], block[1]), word(block[2], block[3]));
        ((a + 1) as i64 as f64 * UNIT, b as i64 as f64 * UNIT)
    }

    #[inline(always)]
    fn log(self) -> f64 {
        const SQRT_HALF: u64 = 0x3FE6_A09E_667F_3BCD;
        // `ln 2` in two parts, the first with 33 bits, so that its small multiples are exact.
        const LN2_HIGH: f64 = 0.693_147_180_369_123_8;
        const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
        // self = 2^e m with m between sqrt(1/2) and sqrt(2); ln m = 2 artanh(s) with s = (m - 1) / (m + 1).
        let bits = self.to_bits().wrapping_sub(SQRT_HALF);
        let e = ((bits as i64) >> 52) as i32 as f64;
        let m = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF).wrapping_add(SQRT_HALF));
        let f = m - 1.0;
        let s = f / (2.0 + f);
        let z = s * s;
        let mut p = 1.0 / 23.0;
        for k in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
            p = p * z + 1.0 / k;
        }
        e * LN2_HIGH + (2.0 * s + (2.0 * s * (z * p) + e * LN2_LOW))
    }

    #[inline(always)]
    fn sin_cos_octant(self) -> (f64, f64) {
        let z = self * self;
        // Taylor series: term by term 1 - z / (k (k - 1)) * (…), innermost first.
        let (mut sin, mut cos) = (1.0, 1.0);
        for k in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
            sin = 1.0 - z * (1.0 / (k * (k - 1.0))) * sin;
            cos = 1.0 - z * (1.0 / ((k - 1.0) * (k - 2.0))) * cos;
        }
        (self * sin, cos)
    }
}

/// Cosine and sine of the fraction `b`, in `[0, 1)`, of a full turn.
#[inline(always)]
fn turn<T: BoxMuller>(b: T) -> (T, T) {
    // The nearest quarter turn, and the exact remainder of at most an eighth of a turn either way.
    let quarter = (b * T::of(4.0) + T::of(0.5)).floor();
    let (sin, cos) = ((b - quarter * T::of(0.25)) * T::of(std::f64::consts::TAU)).sin_cos_octant();
    let (zero, one, two, three) = (T::of(0.0), T::of(1.0), T::of(2.0), T::of(3.0));
    let odd = quarter == one || quarter == three;
    let (c, s) = if odd { (zero - sin, cos) } else { (cos, sin) };
    if quarter == two || quarter == three { (zero - c, zero - s) } else { (c, s) }
}

multiversion! {
    fn normals[T: BoxMuller](blocks: &[[u32; 4]], mean: T, std: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (block, out) in blocks.iter().zip(out.chunks_exact_mut(2 * T::PAIRS)) {
            for pair in 0..T::PAIRS {
                let (a, b) = T::uniform(block, pair);
                let radius = (T::of(-2.0) * a.log()).sqrt();
                let (cos, sin) = turn(b);
                out[2 * pair] = mean + std * (radius * cos);
                out[2 * pair + 1] = mean + std * (radius * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_accurate() {
        for i in 0..20_000 {
            let b = f64::from(i) / 20_000.0;
            let (cos, sin) = turn(b);
            assert!((cos - (b * std::f64::consts::TAU).cos()).abs() < 1e-15, "{b}");
            assert!((sin - (b * std::f64::consts::TAU).sin()).abs() < 1e-15, "{b}");
            let (cos, sin) = turn(b as f32);
            let b = f64::from(b as f32);
            assert!((f64::from(cos) - (b * std::f64::consts::TAU).cos()).abs() < 1.5e-7, "{b}");
            assert!((f64::from(sin) - (b * std::f64::consts::TAU).sin()).abs() < 1.5e-7, "{b}");
            let a = (f64::from(i) + 1.0) / 20_000.0;
            assert!((BoxMuller::log(a) - a.ln()).abs() <= a.ln().abs() * 4e-16, "{a}");
        }
        assert!((BoxMuller::log(2f64.powi(-53)) + 53.0 * std::f64::consts::LN_2).abs() < 1e-14);
        assert_eq!((BoxMuller::log(1.0f64), BoxMuller::log(1.0f32)), (0.0, 0.0));
    }

    #[test]
    fn extreme_words_are_finite() {
        for block in [[0; 4], [u32::MAX; 4], [0, u32::MAX, u32::MAX, 0]] {
            let (mut single, mut double) = ([0f32; 4], [0f64; 2]);
            kernel::<f32>(0.0, 1.0)(&[block], &mut single);
            kernel::<f64>(0.0, 1.0)(&[block], &mut double);
            assert!(single.iter().all(|v| v.abs() < 5.8) && double.iter().all(|v| v.abs() < 8.6), "{single:?}");
        }
    }

    #[test]
    fn moments() {
        let n = 200_000;
        let mut blocks = vec![[0; 4]; n / 4];
        crate::numeric::philox::words(kiln_backend::RandomState { seed: 5, offset: 0 }, 0, &mut blocks);
        let mut values = vec![0f32; n];
        kernel::<f32>(1.0, 2.0)(&blocks, &mut values);
        let z: Vec<f64> = values.iter().map(|&v| (f64::from(v) - 1.0) / 2.0).collect();
        let moment = |k: i32| z.iter().map(|v| v.powi(k)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.01, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 0.03 && (moment(4) - 3.0).abs() < 0.06, "{} {}", moment(3), moment(4));
        // Neighbors, which come from one pair, are uncorrelated.
        let product = z.chunks(2).map(|p| p[0] * p[1]).sum::<f64>() / (n / 2) as f64;
        assert!(product.abs() < 0.01, "{product}");
    }
}
