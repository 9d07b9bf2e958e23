//! Max pooling and the positions of its maxima.

use kiln_backend::Pool2d;

use super::{
    lines::lines,
    pairs::{self, are_pairs},
    positions::{Positions, are_inside},
};
use crate::{
    engine::{
        image::Image,
        par::{self, GRAIN},
        simd::multiversion,
    },
    memory::erased::Erased,
    numeric::real::Real,
};

pub(super) fn largest_of<T: Real>(pool: &Pool2d, x: Erased<T>, out: Erased<T>, indices: Option<Positions>) {
    let (from, to) = (Image::new(&x), Image::new(&out));
    let row_major = from.strides[1] != 1 || from.c == 1;
    if row_major && are_inside(pool, &from, &to) {
        // SAFETY: checked views, of which the outputs are exclusively borrowed.
        unsafe {
            match &indices {
                None if are_pairs(pool) => pairs::max_planes(&from, &to, None),
                Some(Positions::Taps(taps)) if are_pairs(pool) => pairs::max_planes(&from, &to, Some(taps)),
                indices => max_planes(pool, &from, &to, indices.as_ref()),
            }
        }
        return;
    }
    let taps = matches!(indices, Some(Positions::Taps(_)));
    lines(pool, &from, &to, &|line, state, at| {
        let [best, seen] = state;
        best.clear();
        best.resize(line.len, -T::INFINITY);
        at.clear();
        at.resize(line.len, -1);
        line.taps(&from, pool, &to, seen, |range, seen, tap, position, step| {
            let (position, step) = if taps { (tap as i64, 0) } else { (position, step) };
            larger(seen, position, step, &mut best[range.clone()], &mut at[range]);
        });
        // SAFETY: lines are inside the output and disjoint.
        unsafe {
            line.store(&to, best);
            match &indices {
                Some(Positions::Planes(image)) => line.store(image, at),
                // -1, where there is no tap, becomes 255.
                Some(Positions::Taps(image)) => {
                    line.store(image, &at.iter().map(|&tap| tap as u8).collect::<Vec<_>>());
                }
                None => {}
            }
        }
    });
}

/// Max pooling, a plane at a time and tap by tap, where every window lies inside the input.
///
/// # Safety
/// The images are readable and writable and belong together, and [`are_inside`] is true of them.
unsafe fn max_planes<T: Real>(pool: &Pool2d, from: &Image<T>, to: &Image<T>, indices: Option<&Positions>) {
    let Pool2d::Window { kernel, stride, dilation, .. } = *pool else { return };
    let area = to.area();
    par::ranges(to.n * to.c, (GRAIN / (area * kernel[0] * kernel[1]).max(1)).max(1), |range| {
        let mut values = [vec![T::of(0.0); area], vec![T::of(0.0); area]];
        let [best, seen] = &mut values;
        let (mut starts, mut places, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        match indices {
            Some(Positions::Planes(_)) => {
                let row = |y: usize| (0..to.w).map(move |x| (y * stride[0] * from.w + x * stride[1]) as i64);
                starts.extend((0..to.h).flat_map(row));
                places.resize(area, 0);
            }
            Some(Positions::Taps(_)) => numbers.resize(area, 0),
            None => {}
        }
        for (n, c) in range.map(|i| (i / to.c, i % to.c)) {
            for tap in 0..kernel[0] * kernel[1] {
                let (down, right) = (tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
                let into = if tap == 0 { &mut *best } else { &mut *seen };
                let first = from.ptr.offset(from.at(n, c, down, right));
                // SAFETY: all windows are inside.
                unsafe { first.gather_rows(from.rows([to.h, to.w], stride), into.as_mut_ptr(), to.w) };
                match (indices, tap) {
                    (None, 0) => {}
                    (None, _) => largest(seen, best),
                    (Some(Positions::Planes(_)), 0) => places.copy_from_slice(&starts),
                    (Some(Positions::Planes(_)), _) => {
                        larger_at(seen, &starts, (down * from.w + right) as i64, best, &mut places);
                    }
                    (Some(Positions::Taps(_)), 0) => numbers.fill(0),
                    // Windows that have more taps than a byte can number have positions in the plane.
                    (Some(Positions::Taps(_)), _) => larger_tap(seen, tap as u8, best, &mut numbers),
                }
            }
            // SAFETY: planes of the outputs; tasks have different ones.
            unsafe {
                to.scatter_plane(n, c, best.as_ptr());
                match indices {
                    Some(Positions::Planes(image)) => image.scatter_plane(n, c, places.as_ptr()),
                    Some(Positions::Taps(image)) => image.scatter_plane(n, c, numbers.as_ptr()),
                    None => {}
                }
            }
        }
    });
}

multiversion! {
    fn larger[T: Real](seen: &[T], position: i64, step: i64, best: &mut [T], at: &mut [i64]), avx512 if [size_of::<T>() == 4] {
        for (i, ((&seen, best), at)) in seen.iter().zip(best).zip(at).enumerate() {
            // Only NaN is not equal to itself; the last NaN wins.
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen || *at < 0;
            *best = if take { seen } else { *best };
            *at = if take { position + i as i64 * step } else { *at };
        }
    }

    // Positions are those in `starts`, plus `offset`.
    fn larger_at[T: Real](seen: &[T], starts: &[i64], offset: i64, best: &mut [T], at: &mut [i64]), avx512 if [size_of::<T>() == 4] {
        for (((&seen, &start), best), at) in seen.iter().zip(starts).zip(best).zip(at) {
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen;
            *best = if take { seen } else { *best };
            *at = if take { start + offset } else { *at };
        }
    }

    // Of the tap with this number.
    fn larger_tap[T: Real](seen: &[T], tap: u8, best: &mut [T], at: &mut [u8]), avx512 if [size_of::<T>() == 4] {
        for ((&seen, best), at) in seen.iter().zip(best).zip(at) {
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen;
            *best = if take { seen } else { *best };
            *at = if take { tap } else { *at };
        }
    }

    fn largest[T: Real](seen: &[T], best: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&seen, best) in seen.iter().zip(best) {
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen;
            *best = if take { seen } else { *best };
        }
    }
}
