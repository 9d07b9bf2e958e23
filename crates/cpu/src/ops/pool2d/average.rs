//! Average pooling: sums of lines of windows, and what they are divided by.

use std::ops::Range;

use kiln_backend::{Pool2d, PoolDivisor};

use super::lines::lines;
use crate::{
    engine::{image::Image, simd::multiversion},
    memory::erased::Erased,
    numeric::real::Real,
};

pub(super) fn average_of<T: Real>(pool: &Pool2d, divisor: PoolDivisor, x: Erased<T>, out: Erased<T>) {
    let (from, to) = (Image::new(&x), Image::new(&out));
    lines(pool, &from, &to, &|line, state, _| {
        let [sums, seen] = state;
        sums.clear();
        sums.resize(line.len, T::of(0.0));
        line.taps(&from, pool, &to, seen, |range, seen, _, _, _| add(seen, &mut sums[range]));
        let dy = window(pool, divisor, 0, line.y, from.h, to.h);
        for (i, sum) in sums.iter_mut().enumerate() {
            let ox = if line.along_channels { line.x } else { i };
            let dx = window(pool, divisor, 1, ox, from.w, to.w);
            *sum = *sum / T::of(divided_by(divisor, dy.1, dx.1));
        }
        // SAFETY: lines are inside the output and disjoint.
        unsafe { line.store(&to, sums) };
    });
}

/// The part of a window that is inside the input along one axis, and the window's size as the divisor counts it.
pub(super) fn window(
    pool: &Pool2d,
    divisor: PoolDivisor,
    axis: usize,
    o: usize,
    input: usize,
    output: usize,
) -> (Range<usize>, usize) {
    let (range, _) = pool.window(axis, o, input, output);
    let clip = |at: isize| (at.max(0) as usize).min(input);
    let inside = clip(range.start)..clip(range.end).max(clip(range.start));
    let padded = match *pool {
        Pool2d::Window { padding, .. } => range.end.min((input + padding[axis]) as isize) - range.start,
        Pool2d::Adaptive => inside.len() as isize,
    };
    let size = if divisor == PoolDivisor::WithPadding { padded.max(0) as usize } else { inside.len() };
    (inside, size)
}

pub(super) fn divided_by(divisor: PoolDivisor, tall: usize, wide: usize) -> f64 {
    match divisor {
        PoolDivisor::Fixed(number) => number as f64,
        // A window with no element at all has the sum 0.
        PoolDivisor::WithPadding | PoolDivisor::Inside => (tall * wide).max(1) as f64,
    }
}

multiversion! {
    fn add[T: Real](seen: &[T], sums: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&seen, sum) in seen.iter().zip(sums) {
            *sum = *sum + seen;
        }
    }
}
