//! Convolution as an implicit GEMM: a matrix product whose right operand, the im2col matrix, exists only block by
//! block.
//!
//! The product is `weights [rows, K] · im2col [K, pixels]` with `K = channels * taps`. The inputs that a block of pixels
//! reads are written straight into the panels that the matrix kernels read, one block of `K` at a time: a few hundred
//! kilobytes at most, not the im2col matrix of an image, let alone of a batch. Only a few small images have fewer blocks than
//! there are threads; then all threads pack a whole block together, and divide the rows of its product.

use std::ops::Range;

use kiln_backend::Result;

use super::{
    compute::Compute,
    taps::{InputRun, Taps},
    weights::Weights,
};
use crate::{
    engine::{
        image::{Image, pixel_runs},
        par::Shared,
        team,
    },
    gemm::{blocked, kernel::Kernel, pack::PackedLanes, problem::GemmProblem, scratch::with_scratch, shared},
    memory::{allocator::Scratch, erased::copy_row},
};

/// Below this many multiply-adds, waking another thread costs more than it saves.
const SERIAL: usize = 600_000;
/// Images with fewer output pixels are computed several at a time.
const SMALL_IMAGE: usize = 128;

struct Job<'a, T: 'static> {
    kern: &'a Kernel<T>,
    x: Image<T>,
    taps: &'a Taps,
    weights: Weights<'a, T>,
    relu: bool,
    out: Image<T>,
}

/// Convolves the channels of one group.
///
/// # Safety
/// As [`convolve`](super::convolve).
pub(super) unsafe fn implicit_gemm<T: Compute>(
    kern: &Kernel<T>,
    x: Image<T>,
    taps: &Taps,
    weights: Weights<'_, T>,
    relu: bool,
    out: Image<T>,
) -> Result<()> {
    let pixels = out.n * out.area();
    let job = Job { kern, x, taps, weights, relu, out };
    // Blocks end with an image, unless images are small.
    let panel = 2 * kern.lanes;
    let (span, block) = if out.area() < SMALL_IMAGE {
        (pixels, out.area() * (kern.nc / out.area()).max(1))
    } else {
        (out.area(), blocked::block_size(out.area(), kern.nc, panel))
    };
    let per_span = span.div_ceil(block);
    let blocks = per_span * (pixels / span);
    let work = pixels.saturating_mul(weights.rows).saturating_mul(weights.columns);
    let threads = if work < SERIAL { 1 } else { rayon::current_num_threads() };
    let range = |b: usize| {
        let start = b / per_span * span;
        start + b % per_span * block..start + ((b % per_span + 1) * block).min(span)
    };
    let room = block.next_multiple_of(kern.lanes).saturating_mul(weights.columns);
    if blocks < 2 * threads && threads > 1 && weights.rows >= 2 * kern.mr && (1..=shared::ROOM).contains(&room) {
        let mut panels = Scratch::<T>::new(room)?;
        for b in 0..blocks {
            // SAFETY: the caller's promise.
            unsafe { job.shared_block(range(b), threads, &Shared::new(panels.values())) }
        }
        return Ok(());
    }
    team::for_each(blocks, threads, &|b| {
        // SAFETY: the caller's promise; blocks are disjoint.
        unsafe { job.block(range(b), 0..job.weights.rows, None) }
    });
    Ok(())
}

impl<T: Compute> Job<'_, T> {
    /// Computes a block of pixels with several threads, which pack its panels to `panels`.
    ///
    /// # Safety
    /// As [`implicit_gemm`], and nobody else accesses these pixels; there is room for the panels of all columns.
    unsafe fn shared_block(&self, pixels: Range<usize>, threads: usize, panels: &Shared<'_, T>) {
        let (kern, rows, columns, n) = (self.kern, self.weights.rows, self.weights.columns, pixels.len());
        let packed =
            PackedLanes { start: panels.start(), width: n.next_multiple_of(kern.lanes), steps: self.k_block() };
        let input_runs = self.taps.input_runs(&self.x, &pixel_runs(self.out.h, self.out.w, pixels.clone()));
        let block = packed.steps;
        let chunk = columns.div_ceil(4 * threads).min(block);
        let chunks = block.div_ceil(chunk);
        team::for_each(columns.div_ceil(block) * chunks, threads, &|i| {
            let k0 = i / chunks * block;
            let steps = k0..columns.min(k0 + block);
            let first = k0 + i % chunks * chunk;
            let ks = first.min(steps.end)..steps.end.min(first + chunk);
            with_scratch::<T, _>(n, |line| {
                // SAFETY: the line has a place for every pixel, the panels for all steps, which are divided among tasks.
                unsafe { self.pack(&input_runs, n, ks, steps.clone(), packed.at(k0, 0, steps.len()), line) }
            });
        });
        // Even parts of whole tiles.
        let tiles = rows.div_ceil(kern.mr);
        let parts = tiles.min(2 * threads);
        let row = |part: usize| (part * tiles / parts * kern.mr).min(rows);
        team::for_each(parts, threads, &|i| {
            // SAFETY: the caller's promise; parts have disjoint rows, and the panels are packed.
            unsafe { self.block(pixels.clone(), row(i)..row(i + 1), Some(packed)) }
        });
    }

    /// Steps of `k` that are packed at a time.
    fn k_block(&self) -> usize {
        blocked::block_of_steps(self.weights.columns, self.kern.kc)
    }

    /// Computes rows of a block of pixels. `packed`: its panels, of all columns, if they were packed already.
    ///
    /// # Safety
    /// As [`implicit_gemm`], and nobody else accesses these rows of these pixels.
    unsafe fn block(&self, pixels: Range<usize>, rows: Range<usize>, packed: Option<PackedLanes<T>>) {
        let (out, area) = (&self.out, self.out.area());
        let n = pixels.len();
        let runs = pixel_runs(out.h, out.w, pixels.clone());
        let input_runs = self.taps.input_runs(&self.x, &runs);
        let one_image = pixels.start / area == (pixels.end - 1) / area;
        if let Some(start) = out.ptr.direct().filter(|_| one_image && out.is_flat()) {
            let image = pixels.start / area;
            let to = start.wrapping_offset(out.at(image, rows.start, 0, 0));
            let to = to.wrapping_offset((pixels.start % area) as isize * out.step());
            // SAFETY: the caller's promise.
            return unsafe { self.product(&input_runs, n, rows, packed, to, out.strides[1], out.step()) };
        }
        with_scratch::<T, _>(rows.len() * n, |stage| {
            // SAFETY: the scratch has a place for every row and pixel; the rest is the caller's promise.
            unsafe {
                self.product(&input_runs, n, rows.clone(), packed, stage, n as isize, 1);
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
    #[allow(clippy::too_many_arguments)]
    unsafe fn product(
        &self,
        input_runs: &[InputRun],
        n: usize,
        rows: Range<usize>,
        packed: Option<PackedLanes<T>>,
        c: *mut T,
        c_row: isize,
        c_lane: isize,
    ) {
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
            bias: weights.bias.map_or(core::ptr::null(), |bias| bias[rows.start..].as_ptr()),
            bias_on_rows: true,
            relu: self.relu,
        };
        if all == 0 {
            // SAFETY: the caller's promise for C.
            return unsafe { problem.empty() };
        }
        if packed.is_some() {
            let problem = GemmProblem { k: all, ..problem };
            // SAFETY: the product reads what was packed, in the same blocks, and rows of the weights that exist.
            return unsafe { blocked::part::<T, T>(&problem, kern, (0, rows.len()), (0, n), packed) };
        }
        let width = n.next_multiple_of(kern.lanes);
        let block = self.k_block();
        with_scratch::<T, _>(block * width + n, |start| {
            for k0 in (0..all).step_by(block) {
                let nk = block.min(all - k0);
                let steps = k0..k0 + nk;
                // SAFETY: the scratch holds a block of panels and one line after them; the product reads what was
                // packed, and rows and columns of the weights that exist.
                unsafe {
                    self.pack(input_runs, n, steps.clone(), steps, start, start.add(block * width));
                    let part = GemmProblem {
                        k: nk,
                        a: problem.a.add(k0),
                        b: start.cast_const(),
                        load_c: k0 > 0,
                        bias: if k0 + nk == all { problem.bias } else { core::ptr::null() },
                        relu: self.relu && k0 + nk == all,
                        ..problem
                    };
                    let packed = PackedLanes { start, width, steps: block };
                    blocked::part::<T, T>(&part, kern, (0, rows.len()), (0, n), Some(packed));
                }
            }
        });
    }

    /// Packs rows `ks` of the im2col matrix of a block of pixels, in the layout of
    /// [`pack_lanes`](crate::gemm::pack::pack_lanes). `to` is the start of the panels of the rows `steps`.
    ///
    /// # Safety
    /// The panels are writable, and `line` for `n` elements.
    unsafe fn pack(
        &self,
        input_runs: &[InputRun],
        n: usize,
        ks: Range<usize>,
        steps: Range<usize>,
        to: *mut T,
        line: *mut T,
    ) {
        let (lanes, nk) = (self.kern.lanes, steps.len());
        let panel = 2 * lanes;
        let taps = self.taps.len();
        for k in ks {
            let i = k - steps.start;
            // SAFETY: lines have `n` elements; every panel has room for `nk` rows of its width.
            unsafe {
                self.taps.gather_tap(&self.x, k / taps, k % taps, input_runs, line);
                for l in (0..n).step_by(panel) {
                    let count = panel.min(n - l);
                    let width = if count <= lanes { lanes } else { panel };
                    let to = to.add(l * nk + i * width);
                    copy_row(line.add(l), to, count);
                    for j in count..width {
                        *to.add(j) = T::of(0.0);
                    }
                }
            }
        }
    }
}
