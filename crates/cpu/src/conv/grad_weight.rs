//! Convolution backward with respect to the weight, as a GEMM over blocks of pixels.
//!
//! The product is `grad [O, pixels] · im2col [K, pixels]ᵀ`. It is divided among threads by input channels and, if there
//! are few of them, also into a fixed number of pixel ranges, whose sums are added in order. The division depends only
//! on shapes, so results do not depend on the number of threads.

use std::ops::Range;

use kiln_backend::Result;

use super::{compute::Compute, padded_input::PaddedInput, taps::Taps};
use crate::{
    engine::{
        image::{Image, image_runs, pixel_runs},
        par::Shared,
        team,
    },
    gemm::{
        blocked,
        kernel::{DotArgs, Kernel},
        problem::GemmProblem,
        scratch::with_scratch,
    },
    memory::allocator::Scratch,
};

/// Target number of tasks.
const TASKS: usize = 8;
/// Below this many multiply-adds, one task does it all.
const SERIAL: usize = 600_000;
/// Pixels per block.
const PIXELS: usize = 512;
/// Maximum number of output channels, and of pixels in a padded plane that is not cut into bands, for [`add_images`].
const MAX_ROWS: usize = 64;
const MAX_PLANE: usize = 4096;
/// Target number of pixels of a band: eight of them fit into L1. Maximum number of elements of a band's padded channel.
const BAND: usize = 1024;
const MAX_CHANNEL: usize = 1 << 15;

/// Computes one group's gradient and passes it to `store` row by row: the index of the output channel, and `[input
/// channels * taps]`.
///
/// # Safety
/// The images are readable, there are as many in `grad` as in `x`, and `taps` are those of the forward convolution.
pub(crate) unsafe fn grad_weight<T: Compute>(
    kern: &Kernel<T>,
    grad: Image<T>,
    x: Image<T>,
    taps: &Taps,
    store: &(dyn Fn(usize, &[T]) + Sync),
) -> Result<()> {
    let (rows, columns) = (grad.c, x.c * taps.len());
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let pixels = grad.n * grad.area();
    let work = pixels.saturating_mul(rows).saturating_mul(columns);
    let tasks = if work < SERIAL { 1 } else { TASKS };
    let channels = (kern.nc / taps.len()).clamp(1, x.c);
    let cuts = x.c.div_ceil(channels);
    // Blocks of pixels end with an image, unless images are small.
    let area = grad.area().max(1);
    let bands = if pixels == 0 || rows > MAX_ROWS { None } else { Bands::new(taps, grad.h, grad.w) };
    let (span, block) = if let Some(bands) = &bands {
        if bands.tall < grad.h { (area, bands.tall * grad.w) } else { (pixels, area * bands.images) }
    } else if area < PIXELS {
        (pixels, area * (PIXELS / area))
    } else {
        (area, blocked::block_size(area, PIXELS, 8))
    };
    let per_span = span.div_ceil(block.max(1));
    let blocks = if pixels == 0 { 0 } else { per_span * (pixels / span) };
    let ranges = tasks.div_ceil(cuts).min(blocks).max(1);
    let size = rows * columns;
    let mut sums = Scratch::<T>::new(size.saturating_mul(ranges))?;
    let sums = sums.values();
    let parts = Shared::new(sums);
    let threads = if tasks == 1 { 1 } else { rayon::current_num_threads() };
    team::for_each(cuts * ranges, threads, &|i| {
        let (range, cut) = (i / cuts, i % cuts);
        let cs = cut * x.c / cuts..(cut + 1) * x.c / cuts;
        // SAFETY: a task writes its own columns of its own part, and nothing else reads or writes them.
        let to = unsafe { parts.start().add(range * size + cs.start * taps.len()) };
        let mut fresh = true;
        for b in range * blocks / ranges..(range + 1) * blocks / ranges {
            let start = b / per_span * span;
            let pixels = start + b % per_span * block..start + ((b % per_span + 1) * block).min(span);
            // SAFETY: the caller's promise; `to` is this task's.
            unsafe {
                match &bands {
                    Some(bands) => add_images(kern, &grad, &x, bands, pixels, cs.clone(), to, columns, !fresh),
                    None => add_block(kern, &grad, &x, taps, pixels, cs.clone(), to, columns, !fresh),
                }
            }
            fresh = false;
        }
        if fresh {
            for row in 0..rows {
                // SAFETY: as above.
                unsafe {
                    std::slice::from_raw_parts_mut(to.add(row * columns), cs.len() * taps.len()).fill(T::of(0.0));
                };
            }
        }
    });
    let sums: &[T] = sums;
    team::for_each(rows, threads, &|row| {
        if ranges == 1 {
            return store(row, &sums[row * columns..(row + 1) * columns]);
        }
        let mut total = sums[row * columns..(row + 1) * columns].to_vec();
        for part in 1..ranges {
            let from = &sums[part * size + row * columns..][..columns];
            total.iter_mut().zip(from).for_each(|(total, &value)| *total = *total + value);
        }
        store(row, &total);
    });
    Ok(())
}

/// Adds the contribution of a block of pixels.
///
/// # Safety
/// As [`grad_weight`]; `to` is writable for the channels' columns of every row.
#[allow(clippy::too_many_arguments)]
unsafe fn add_block<T: Compute>(
    kern: &Kernel<T>,
    grad: &Image<T>,
    x: &Image<T>,
    taps: &Taps,
    pixels: Range<usize>,
    channels: Range<usize>,
    to: *mut T,
    columns: usize,
    accumulate: bool,
) {
    let (n, rows, lanes, area) = (pixels.len(), grad.c, channels.len() * taps.len(), grad.area());
    let runs = pixel_runs(grad.h, grad.w, pixels.clone());
    let input_runs = taps.input_runs(x, &runs);
    let one_image = pixels.start / area == (pixels.end - 1) / area;
    let in_place = grad.ptr.direct().filter(|_| one_image && grad.is_flat());
    with_scratch::<T, _>(lanes * n + if in_place.is_some() { 0 } else { rows * n }, |inputs| {
        // SAFETY: the scratch has a line for every lane, and one for every row if they are staged; the rest is the
        // caller's promise.
        unsafe {
            for lane in 0..lanes {
                taps.gather_tap(
                    x,
                    channels.start + lane / taps.len(),
                    lane % taps.len(),
                    &input_runs,
                    inputs.add(lane * n),
                );
            }
            let (a, a_row, a_k) = if let Some(start) = in_place {
                let first = start.offset(grad.at(pixels.start / area, 0, 0, 0));
                let first = first.offset((pixels.start % area) as isize * grad.step()).cast_const();
                (first, grad.strides[1], grad.step())
            } else {
                let stage = inputs.add(lanes * n);
                // Rows of an image that follow each other are one run.
                let runs = if grad.is_flat() { image_runs(area, grad.w, pixels.clone()) } else { runs };
                let step = if grad.is_flat() { grad.step() } else { grad.strides[3] };
                for row in 0..rows {
                    let mut to = stage.add(row * n);
                    for run in &runs {
                        grad.ptr.offset(grad.at(run.n, row, run.y, run.x)).gather(step, run.len, to);
                        to = to.add(run.len);
                    }
                }
                (stage.cast_const(), n as isize, 1)
            };
            let problem = GemmProblem {
                rows,
                lanes,
                k: n,
                a,
                a_row,
                a_k,
                b: inputs.cast_const(),
                b_k: 1,
                b_lane: n as isize,
                c: to,
                c_row: columns as isize,
                c_lane: 1,
                load_c: accumulate,
                bias: core::ptr::null(),
                bias_on_rows: false,
                relu: false,
            };
            blocked::part::<T, T>(&problem, kern, (0, rows), (0, lanes), None);
        }
    });
}

/// How images are cut for [`add_images`].
struct Bands {
    padded: PaddedInput,
    /// Rows of the gradient in a band.
    tall: usize,
    /// Images computed at a time, if a band is a whole image.
    images: usize,
    /// The distance of each tap, in a channel for a band.
    offsets: Vec<usize>,
}

impl Bands {
    /// `None` if the padded copy does not pay off.
    fn new(taps: &Taps, height: usize, width: usize) -> Option<Bands> {
        let padded = PaddedInput::new(taps, width)?;
        let most = if padded.lanes(height) <= MAX_PLANE { height } else { (BAND / padded.width).max(1) };
        let tall = height.div_ceil(height.div_ceil(most));
        let fits = padded.is_tall(tall, height) && padded.channel(tall) <= MAX_CHANNEL;
        let images = (2 * PIXELS / padded.lanes(tall)).max(1);
        fits.then(|| Bands { tall, images, offsets: padded.offsets(tall), padded })
    }
}

/// Adds the contribution of whole images, or of a band of one, as dot products of planes: those of the gradient, with zeros in
/// the surplus columns, and those of the padded input, shifted for each tap.
///
/// # Safety
/// As [`add_block`]; `bands` are those of the taps and of `grad`, and `pixels` whole bands.
#[allow(clippy::too_many_arguments)]
unsafe fn add_images<T: Compute>(
    kern: &Kernel<T>,
    grad: &Image<T>,
    x: &Image<T>,
    bands: &Bands,
    pixels: Range<usize>,
    channels: Range<usize>,
    to: *mut T,
    columns: usize,
    accumulate: bool,
) {
    let Bands { padded, tall, offsets, .. } = bands;
    let images = pixels.start / grad.area()..pixels.end.div_ceil(grad.area());
    // Of each image these rows; all of them if there are several images.
    let first = pixels.start % grad.area() / grad.w;
    let high = (pixels.len() / grad.w).min(grad.h);
    let (n, taps, lanes) = (images.len(), offsets.len(), channels.len() * offsets.len());
    let (area, plane) = (padded.lanes(high), padded.channel(*tall));
    with_scratch::<T, _>(n * (grad.c * area + channels.len() * plane), |inputs| {
        // Blocks of 4, 2 or 1, for which there are kernels.
        let size = |left: usize| if left >= 4 { 4 } else { left.min(2) };
        // SAFETY: the scratch has a plane for every image and channel of both. The last tap of the last pixel reads the last
        // element of a plane, so all accesses are inside. Images and `to` are the caller's promise.
        unsafe {
            let stage = inputs.add(n * channels.len() * plane);
            for (i, image) in images.clone().enumerate() {
                for (j, c) in channels.clone().enumerate() {
                    padded.copy_padded(x, (image, c), (first, high), *tall, inputs.add((j * n + i) * plane));
                }
                for row in 0..grad.c {
                    let to = stage.add((row * n + i) * area);
                    // A single fill, since the gaps are only a few elements per row.
                    std::slice::from_raw_parts_mut(to, area).fill(T::of(0.0));
                    let from = grad.ptr.offset(grad.at(image, row, first, 0));
                    from.gather_rows(grad.rows([high, grad.w], [1, 1]), to, padded.width);
                }
            }
            let plane_of = |lane: usize| {
                let (c, tap) = (lane / taps, lane % taps);
                inputs.wrapping_add(c * n * plane + offsets[tap]).cast_const()
            };
            let mut row = 0;
            while row < grad.c {
                let rows = size(grad.c - row);
                let mut lane = 0;
                while lane < lanes {
                    let cols = size(lanes - lane);
                    let mut dots = DotArgs {
                        k: area,
                        runs: n,
                        rows,
                        cols,
                        a: core::array::from_fn(|i| stage.add((row + i.min(rows - 1)) * n * area).cast_const()),
                        a_step: area,
                        b: core::array::from_fn(|j| plane_of(lane + j.min(cols - 1))),
                        b_step: plane,
                        out: [[T::of(0.0); 4]; 4],
                    };
                    (kern.dots)(&mut dots);
                    for (i, sums) in dots.out.iter().enumerate().take(rows) {
                        for (j, &sum) in sums.iter().enumerate().take(cols) {
                            let to = to.add((row + i) * columns + lane + j);
                            *to = if accumulate { *to + sum } else { sum };
                        }
                    }
                    lane += cols;
                }
                row += rows;
            }
        }
    });
}
