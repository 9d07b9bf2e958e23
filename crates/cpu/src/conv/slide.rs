//! Convolutions with few output channels: packing what is seen would take longer than the products. The kernels read it
//! where it lies instead, from a copy with zeros around the image.

use kiln_backend::Result;

use super::{Compute, correlate::Weights, frame::Frame};
use crate::{
    engine::image::Image,
    gemm::{
        kernel::{DirectConvArgs, Kernel},
        parallel,
        scratch::with_scratch,
    },
    memory::allocator::Scratch,
};

/// More output channels make packing worth its while.
const ROWS: usize = 64;
/// Most lanes that are computed at a time, unless one row of the output has more.
const LANES: usize = 1024;
/// Most elements that are seen at a time: half of what a second-level cache holds.
const SEEN: usize = 1 << 16;
/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 600_000;

/// Rows of the output to compute at a time, evenly; `None` if another way is better.
pub(super) fn rows_at_once<T>(
    frame: &Frame,
    channels: usize,
    weights: &Weights<'_, T>,
    height: usize,
) -> Option<usize> {
    if weights.rows > ROWS || channels == 0 || height == 0 {
        return None;
    }
    let most = (LANES / frame.width).clamp(1, height);
    let rows = height.div_ceil(height.div_ceil(most));
    let small = frame.plane(rows).checked_mul(channels)? <= SEEN;
    (small && frame.is_tall(rows, height)).then_some(rows)
}

/// As [`correlate`](super::correlate::correlate), `tall` rows of the output at a time.
///
/// # Safety
/// As there, and the frame is that of the taps and of `out`.
pub(super) unsafe fn slide<T: Compute>(
    kern: &Kernel<T>,
    x: Image<T>,
    frame: &Frame,
    tall: usize,
    weights: Weights<'_, T>,
    relu: bool,
    out: Image<T>,
) -> Result<()> {
    let steps = x.c * frame.offsets.len();
    let panel = 2 * kern.lanes;
    // Row tiles one after the other, each step by step; then the biases.
    let mut packed = Scratch::<T>::new((steps + 1) * weights.rows)?;
    let (packed, biases) = packed.values().split_at_mut(steps * weights.rows);
    let mut tiles = Vec::new();
    let mut row = 0;
    while row < weights.rows {
        let rows = kern.direct_rows.iter().copied().find(|&rows| rows <= weights.rows - row).unwrap_or(1);
        for (i, values) in weights.values[row * weights.columns..].chunks_exact(weights.columns).take(rows).enumerate()
        {
            for (k, &value) in values[..steps].iter().enumerate() {
                packed[row * steps + k * rows + i] = value;
            }
            if weights.bias {
                biases[row + i] = values[steps];
            }
        }
        tiles.push((row, rows));
        row += rows;
    }
    let (packed, biases): (&[T], &[T]) = (packed, biases);
    let plane = frame.plane(tall);
    let offsets: Vec<usize> =
        (0..x.c).flat_map(|c| frame.offsets.iter().map(move |offset| c * plane + offset)).collect();

    let work = (out.n * out.area()).saturating_mul(weights.rows).saturating_mul(steps);
    let threads = if work < SERIAL { 1 } else { rayon::current_num_threads() };
    let parts = out.h.div_ceil(tall);
    parallel::for_each(out.n * parts, threads, &|i| {
        let (n, y) = (i / parts, i % parts * tall);
        let rows = tall.min(out.h - y);
        let lanes = frame.lanes(rows);
        let ld = lanes.next_multiple_of(panel);
        // Vectors may begin at any pixel that is seen, and reach behind the last.
        let seen = x.c * plane + panel;
        with_scratch::<T, _>(seen + weights.rows * ld, |start| {
            // SAFETY: the scratch has room for what is seen, and for every row with its last vectors. A vector begins at
            // most at the last lane and reaches at most `panel` elements behind what is seen, which are 0. Images and
            // output are the caller's promise, of which this is its own part.
            unsafe {
                std::slice::from_raw_parts_mut(start.add(seen - panel), panel).fill(T::of(0.0));
                for c in 0..x.c {
                    // The last part is lower: what lies behind it is only seen by lanes that are thrown away.
                    let to = std::slice::from_raw_parts_mut(start.add(c * plane), plane);
                    to[frame.plane(rows)..].fill(T::of(0.0));
                    frame.see(&x, (n, c), (y, rows), to.as_mut_ptr());
                }
                let stage = start.add(seen);
                for &(row, rows) in &tiles {
                    for lane in (0..lanes).step_by(panel) {
                        (kern.direct_conv)(&DirectConvArgs {
                            k: steps,
                            rows,
                            a: packed[row * steps..].as_ptr(),
                            b: start.add(lane),
                            offsets: offsets.as_ptr(),
                            c: stage.add(row * ld + lane),
                            c_rs: ld,
                            bias: if weights.bias { biases[row..].as_ptr() } else { core::ptr::null() },
                            relu,
                        });
                    }
                }
                for row in 0..weights.rows {
                    for line in 0..rows {
                        let from = stage.add(row * ld + line * frame.width);
                        out.ptr.offset(out.at(n, row, y + line, 0)).scatter(from, out.strides[3], out.w);
                    }
                }
            }
        });
    });
    Ok(())
}
