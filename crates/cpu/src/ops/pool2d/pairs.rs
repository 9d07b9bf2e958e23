//! Max pooling by windows of two by two that do not overlap, as LeNet and VGG16 have it: all four taps in one pass,
//! forward and backward.

use kiln_backend::Pool2d;

use crate::{
    engine::{
        image::Image,
        par::{self, GRAIN},
        simd::multiversion,
    },
    numeric::real::Real,
};

/// Whether the windows are these.
pub(super) fn are_pairs(pool: &Pool2d) -> bool {
    *pool == Pool2d::Window { kernel: [2, 2], stride: [2, 2], padding: [0, 0], dilation: [1, 1] }
}

/// Max pooling of row-major images, a plane at a time, and the numbers of the maxima's taps.
///
/// # Safety
/// The images are readable and writable, have the same channels, and all windows lie inside the input.
pub(super) unsafe fn max_planes<T: Real>(from: &Image<T>, to: &Image<T>, taps: Option<&Image<u8>>) {
    let area = to.area();
    par::ranges(to.n * to.c, (GRAIN / (area * 4).max(1)).max(1), |range| {
        let (mut plane, mut best, mut staged, mut numbers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (n, c) in range.map(|i| (i / to.c, i % to.c)) {
            // SAFETY: a plane of the input, and planes of the outputs, of which tasks have different ones.
            unsafe {
                let plane = from.plane(n, c, &mut plane);
                to.fill_plane(n, c, &mut best, |best| match taps {
                    Some(taps) => taps.fill_plane(n, c, &mut staged, |at| {
                        largest_of_pairs(plane, from.w, best, at, to.w);
                    }),
                    None => {
                        numbers.resize(area, 0);
                        largest_of_pairs(plane, from.w, best, &mut numbers, to.w);
                    }
                });
            }
        }
    });
}

multiversion! {
    // Windows of a plane with rows of `width` elements, `columns` in a row.
    fn largest_of_pairs[T: Real](plane: &[T], width: usize, best: &mut [T], at: &mut [u8], columns: usize), avx512 if [size_of::<T>() == 4] {
        let windows = best.chunks_exact_mut(columns).zip(at.chunks_exact_mut(columns));
        for (rows, (best, at)) in plane.chunks_exact(2 * width).zip(windows) {
            let (top, bottom) = rows.split_at(width);
            let pairs = top.chunks_exact(2).zip(bottom.chunks_exact(2));
            for ((top, bottom), (best, at)) in pairs.zip(best.iter_mut().zip(at)) {
                let (mut largest, mut tap) = (top[0], 0);
                for (number, seen) in [(1, top[1]), (2, bottom[0]), (3, bottom[1])] {
                    // Only NaN is not equal to itself; the last NaN wins.
                    #[allow(clippy::eq_op)]
                    let take = seen > largest || seen != seen;
                    largest = if take { seen } else { largest };
                    tap = if take { number } else { tap };
                }
                (*best, *at) = (largest, tap);
            }
        }
    }

    // The gradient of a plane whose windows' gradients and taps are given. What is in no window keeps its value. One row at a
    // time, and not for AVX-512: LLVM would take instructions that scatter.
    pub(super) fn spread[T: Real](grad: &[T], at: &[u8], columns: usize, plane: &mut [T], width: usize), avx512 if [false] {
        let windows = grad.chunks_exact(columns).zip(at.chunks_exact(columns));
        for (rows, (grad, at)) in plane.chunks_exact_mut(2 * width).zip(windows) {
            for (row, left) in rows.chunks_exact_mut(width).zip([0, 2]) {
                for (pair, (&grad, &tap)) in row.chunks_exact_mut(2).zip(grad.iter().zip(at)) {
                    (pair[0], pair[1]) = (grad.only_if(tap == left), grad.only_if(tap == left + 1));
                }
            }
        }
    }
}
