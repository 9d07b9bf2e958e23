//! The vectorized loops between the products: exponentials, masks and gradients of rows of scores. Exponentials fuse
//! multiplications and additions, as the products do.

use super::compute::Compute;
#[cfg(target_arch = "x86_64")]
use crate::engine::level::{Level, level};
use crate::{engine::simd::multiversion, numeric::real::Real};

/// Independent partial sums of a row: two vectors of 16 `f32`.
const LANES: usize = 32;

/// Adds up the partial sums in an order that depends on nothing.
#[inline(always)]
fn total<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = lanes[i] + lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Replaces the scores by `exp(score - shift)`, which must be at most about 1, and returns their sum.
pub(super) fn exponentials<T: Compute>(scores: &mut [T], shift: T) -> T {
    #[inline(always)]
    fn body<T: Compute, const FMA: bool>(scores: &mut [T], shift: T) -> T {
        let mut lanes = [T::of(0.0); LANES];
        let (chunks, rest) = scores.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *x = (*x - shift).exp_nonpositive::<FMA>();
                *lane = *lane + *x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = (*x - shift).exp_nonpositive::<FMA>();
            *lane = *lane + *x;
        }
        total(lanes)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<T: Compute>(scores: &mut [T], shift: T) -> T {
        body::<T, true>(scores, shift)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn avx512<T: Compute>(scores: &mut [T], shift: T) -> T {
        body::<T, true>(scores, shift)
    }

    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: the CPU has the instructions.
        Level::Avx512 => return unsafe { avx512(scores, shift) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { avx2(scores, shift) },
        Level::Generic => {}
    }
    body::<T, false>(scores, shift)
}

multiversion! {
    /// The sum of the products of two rows.
    pub(super) fn dot[T: Real](a: &[T], b: &[T]) -> T, avx512 if [size_of::<T>() == 4] {
        let mut lanes = [T::of(0.0); LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
                *lane = *lane + a * b;
            }
        }
        for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane = *lane + a * b;
        }
        total(lanes)
    }

    pub(super) fn scale[T: Real](factor: T, row: &mut [T]), avx512 if [size_of::<T>() == 4] {
        row.iter_mut().for_each(|x| *x = *x * factor);
    }

    pub(super) fn divide[T: Real](divisor: T, row: &mut [T]), avx512 if [size_of::<T>() == 4] {
        row.iter_mut().for_each(|x| *x = *x / divisor);
    }

    pub(super) fn add[T: Real](numbers: &[T], row: &mut [T]), avx512 if [size_of::<T>() == 4] {
        row.iter_mut().zip(numbers).for_each(|(x, &number)| *x = *x + number);
    }

    /// Removes the scores of keys that are not visible.
    pub(super) fn hide[T: Real](visible: &[u8], scores: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let hidden = T::of(f64::NEG_INFINITY);
        scores.iter_mut().zip(visible).for_each(|(x, &visible)| *x = if visible == 0 { hidden } else { *x });
    }

    /// Dropout: keeps the elements whose random word is at least the threshold, scaled.
    pub(super) fn keep[T: Real](words: &[u32], threshold: u64, factor: T, row: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let Some(last_dropped) = threshold.checked_sub(1) else { return };
        let (zero, last_dropped) = (T::of(0.0), last_dropped as u32);
        for (x, &word) in row.iter_mut().zip(words) {
            let kept = *x * factor;
            *x = if word > last_dropped { kept } else { zero };
        }
    }

    /// Turns gradients of weights into those of scores: `weight * (gradient - mean)`, where `mean` is the sum of weights times
    /// gradients.
    pub(super) fn score_gradients[T: Real](weights: &[T], mean: T, gradients: &mut [T]), avx512 if [size_of::<T>() == 4] {
        gradients.iter_mut().zip(weights).for_each(|(g, &weight)| *g = weight * (*g - mean));
    }
}
