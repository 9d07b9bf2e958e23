//! Sums over taps and channels as products of matrices, a block of pixels at a time.
//!
//! The product is `weights [rows, K] · seen [K, pixels]` with `K = channels * taps`. What the pixels of a block see is
//! written straight into the panels that the matrix kernels read, for one block of `K` at a time: at most a few hundred
//! kilobytes, never a whole image's, let alone a batch's.

use std::ops::Range;

use kiln_backend::Result;

use super::{
    Compute,
    frame::Frame,
    slide,
    taps::{Sight, Taps},
};
use crate::{
    engine::image::{Image, runs},
    gemm::{
        blocked::{self, PackedLanes},
        kernel::Kernel,
        parallel,
        problem::GemmProblem,
        scratch::with_scratch,
    },
};

/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 600_000;
/// Images with fewer pixels are computed several at a time.
const SMALL: usize = 128;

/// One group's weights: `rows` by `channels * taps`, and one column of biases if there are any.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a, T> {
    pub values: &'a [T],
    pub rows: usize,
    pub columns: usize,
    pub bias: bool,
}

struct Job<'a, T: 'static> {
    kern: &'a Kernel<T>,
    x: Image<T>,
    taps: &'a Taps,
    weights: Weights<'a, T>,
    relu: bool,
    out: Image<T>,
}

/// Computes one group: every pixel of `out` is the sum of what it sees of `x` through the taps, weighted.
///
/// # Safety
/// The images are readable and writable, `out`'s elements are distinct and in no other image, and they have as many
/// images.
pub(crate) unsafe fn correlate<T: Compute>(
    kern: &Kernel<T>,
    x: Image<T>,
    taps: &Taps,
    weights: Weights<'_, T>,
    relu: bool,
    out: Image<T>,
) -> Result<()> {
    let pixels = out.n * out.area();
    if pixels == 0 || weights.rows == 0 {
        return Ok(());
    }
    let frame =
        Frame::new(taps, out.w).and_then(|frame| Some((slide::rows_at_once(&frame, x.c, &weights, out.h)?, frame)));
    if let Some((tall, frame)) = frame {
        // SAFETY: the caller's promise.
        return unsafe { slide::slide(kern, x, &frame, tall, weights, relu, out) };
    }
    let job = Job { kern, x, taps, weights, relu, out };
    // Blocks end with an image, unless images are small.
    let panel = 2 * kern.lanes;
    let (span, block) = if out.area() < SMALL {
        (pixels, out.area() * (kern.nc / out.area()).max(1))
    } else {
        (out.area(), blocked::even(out.area(), kern.nc, panel))
    };
    let per_span = span.div_ceil(block);
    let blocks = per_span * (pixels / span);
    let work = pixels.saturating_mul(weights.rows).saturating_mul(weights.columns);
    let threads = if work < SERIAL { 1 } else { rayon::current_num_threads() };
    // Where there are few blocks, rows are divided too; that repeats the packing, but no sum is cut.
    let most = (weights.rows / (2 * kern.mr)).max(1);
    let parts = if blocks >= 2 * threads || threads == 1 { 1 } else { (2 * threads).div_ceil(blocks).min(most) };
    parallel::for_each(blocks * parts, threads, &|i| {
        let (b, part) = (i / parts, i % parts);
        let start = b / per_span * span;
        let range = start + b % per_span * block..start + ((b % per_span + 1) * block).min(span);
        let rows = part * weights.rows / parts..(part + 1) * weights.rows / parts;
        // SAFETY: the caller's promise; blocks and parts are disjoint.
        unsafe { job.block(range, rows) }
    });
    Ok(())
}

impl<T: Compute> Job<'_, T> {
    /// # Safety
    /// As [`correlate`], and nobody else accesses these rows of these pixels.
    unsafe fn block(&self, pixels: Range<usize>, rows: Range<usize>) {
        let (out, area) = (&self.out, self.out.area());
        let n = pixels.len();
        let runs = runs(out.h, out.w, pixels.clone());
        let sights = self.taps.sights(&self.x, &runs);
        let one_image = pixels.start / area == (pixels.end - 1) / area;
        if let Some(start) = out.ptr.direct().filter(|_| one_image && out.is_flat()) {
            let image = pixels.start / area;
            let to = start.wrapping_offset(out.at(image, rows.start, 0, 0));
            let to = to.wrapping_offset((pixels.start % area) as isize * out.step());
            // SAFETY: the caller's promise.
            return unsafe { self.product(&sights, n, rows, to, out.strides[1], out.step()) };
        }
        with_scratch::<T, _>(rows.len() * n, |stage| {
            // SAFETY: the scratch has a place for every row and pixel; the rest is the caller's promise.
            unsafe {
                self.product(&sights, n, rows.clone(), stage, n as isize, 1);
                for row in rows.clone() {
                    let mut from = stage.add((row - rows.start) * n).cast_const();
                    for run in &runs {
                        let to = out.ptr.offset(out.at(run.n, row, run.y, run.x));
                        to.scatter(from, out.strides[3], run.len);
                        from = from.add(run.len);
                    }
                }
            }
        });
    }

    /// Computes rows of `n` pixels into `c`.
    ///
    /// # Safety
    /// As [`block`](Self::block); `c` is writable for all rows and pixels, with the given strides.
    unsafe fn product(&self, sights: &[Sight], n: usize, rows: Range<usize>, c: *mut T, c_row: isize, c_lane: isize) {
        let (kern, weights) = (self.kern, &self.weights);
        let all = weights.columns;
        let problem = GemmProblem {
            rows: rows.len(),
            lanes: n,
            k: 0,
            a: weights.values[rows.start * all..].as_ptr(),
            a_row: all as isize,
            a_k: 1,
            b: core::ptr::null(),
            b_k: 0,
            b_lane: 0,
            c,
            c_row,
            c_lane,
            load_c: false,
            bias: core::ptr::null(),
            bias_on_rows: false,
            relu: self.relu,
        };
        if all == 0 {
            // SAFETY: the caller's promise for C.
            return unsafe { problem.empty() };
        }
        let width = n.next_multiple_of(kern.lanes);
        let block = blocked::even(all, kern.kc, 8).min(kern.kc);
        with_scratch::<T, _>(block * width + n, |start| {
            for k0 in (0..all).step_by(block) {
                let nk = block.min(all - k0);
                // SAFETY: the scratch holds a block of panels and one line behind them; the product reads what was
                // packed, and rows and columns of the weights that exist.
                unsafe {
                    self.pack(sights, n, k0..k0 + nk, start, start.add(block * width));
                    let part = GemmProblem {
                        k: nk,
                        a: problem.a.add(k0),
                        b: start.cast_const(),
                        load_c: k0 > 0,
                        relu: self.relu && k0 + nk == all,
                        ..problem
                    };
                    let packed = PackedLanes { start, width };
                    blocked::part::<T, T>(&part, kern, (0, rows.len()), (0, n), Some(packed));
                }
            }
        });
    }

    /// Packs rows `ks` of what the pixels see, as [`blocked::pack_lanes`] would.
    ///
    /// # Safety
    /// `to` is writable for the panels, `line` for `n` elements.
    unsafe fn pack(&self, sights: &[Sight], n: usize, ks: Range<usize>, to: *mut T, line: *mut T) {
        let (lanes, nk) = (self.kern.lanes, ks.len());
        let panel = 2 * lanes;
        let seen = self.weights.columns - usize::from(self.weights.bias);
        let taps = self.taps.len();
        for (i, k) in ks.enumerate() {
            // SAFETY: lines have `n` elements; every panel has room for `nk` rows of its width.
            unsafe {
                if k < seen {
                    self.taps.line(&self.x, k / taps, k % taps, sights, line);
                } else {
                    // The column of biases is multiplied with 1.
                    std::slice::from_raw_parts_mut(line, n).fill(T::of(1.0));
                }
                for l in (0..n).step_by(panel) {
                    let count = panel.min(n - l);
                    let width = if count <= lanes { lanes } else { panel };
                    let to = to.add(l * nk + i * width);
                    core::ptr::copy_nonoverlapping(line.add(l), to, count);
                    for j in count..width {
                        *to.add(j) = T::of(0.0);
                    }
                }
            }
        }
    }
}
