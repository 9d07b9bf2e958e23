//! Direct convolution, for few output channels, where packing an im2col matrix would take longer than the products. The
//! kernels instead read a zero-padded copy of the image, in which every tap is a constant offset.

use kiln_backend::Result;

use super::{compute::Compute, padded_input::PaddedInput, weights::Weights};
use crate::{
    engine::{image::Image, team},
    gemm::{
        kernel::{DirectConvArgs, Kernel},
        scratch::with_scratch,
    },
    memory::allocator::Scratch,
};

/// With more output channels, packing pays off.
const MAX_OUTPUT_CHANNELS: usize = 64;
/// With at most so many, it is packing that takes the time.
const FEW_CHANNELS: usize = 4;
/// Maximum number of output pixels computed at a time, unless one row has more.
const MAX_LANES: usize = 1024;
/// Maximum number of elements of the padded input at a time: half of an L2 cache.
const MAX_INPUT: usize = 1 << 16;
/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 600_000;

/// How many rows of the output to compute at a time; `None` if direct convolution does not pay off.
pub(super) fn rows_at_once<T>(
    padded: &PaddedInput,
    channels: usize,
    weights: &Weights<'_, T>,
    height: usize,
) -> Option<usize> {
    if weights.rows > MAX_OUTPUT_CHANNELS || channels == 0 || height == 0 {
        return None;
    }
    let most = (MAX_LANES / padded.width).clamp(1, height);
    let fits = |most: usize| {
        let rows = height.div_ceil(height.div_ceil(most));
        let small = padded.channel(rows).checked_mul(channels)? <= MAX_INPUT;
        (small && padded.is_tall(rows, height)).then_some(rows)
    };
    // Packing for a few output channels takes so long that fewer rows at a time are better.
    fits(most).or_else(|| if weights.rows <= FEW_CHANNELS { (1..most).rev().find_map(fits) } else { None })
}

/// Convolves the channels of one group, `tall` rows of the output at a time.
///
/// # Safety
/// As [`convolve`](super::convolve), and `padded` is that of the taps and of `out`.
pub(super) unsafe fn direct_conv<T: Compute>(
    kern: &Kernel<T>,
    x: Image<T>,
    padded: &PaddedInput,
    tall: usize,
    weights: Weights<'_, T>,
    relu: bool,
    out: Image<T>,
) -> Result<()> {
    let taps = padded.offsets(tall);
    let steps = x.c * taps.len();
    let panel = 2 * kern.lanes;
    // The weights of each tile of output channels in turn, k-major.
    let mut packed = Scratch::<T>::new(steps * weights.rows)?;
    let packed = packed.values();
    let mut tiles = Vec::new();
    let mut row = 0;
    while row < weights.rows {
        let rows = kern.direct_rows.iter().copied().find(|&rows| rows <= weights.rows - row).unwrap_or(1);
        for (i, values) in weights.values[row * weights.columns..].chunks_exact(weights.columns).take(rows).enumerate()
        {
            for (k, &value) in values.iter().enumerate() {
                packed[row * steps + k * rows + i] = value;
            }
        }
        tiles.push((row, rows));
        row += rows;
    }
    let packed: &[T] = packed;
    let channel = padded.channel(tall);
    let offsets: Vec<usize> = (0..x.c).flat_map(|c| taps.iter().map(move |tap| c * channel + tap)).collect();

    let work = (out.n * out.area()).saturating_mul(weights.rows).saturating_mul(steps);
    let threads = if work < SERIAL { 1 } else { rayon::current_num_threads() };
    let parts = out.h.div_ceil(tall);
    team::for_each(out.n * parts, threads, &|i| {
        let (n, y) = (i / parts, i % parts * tall);
        let rows = tall.min(out.h - y);
        let lanes = padded.lanes(rows);
        let ld = lanes.next_multiple_of(panel);
        // The last vectors extend past the last element.
        let inputs = x.c * channel + panel;
        with_scratch::<T, _>(inputs + weights.rows * ld, |start| {
            // SAFETY: the scratch has room for the padded input and for every row with its last vectors. A vector
            // begins at most at the last lane and extends at most `panel` elements past the input, which are 0. For
            // images and output the caller's promise holds, of which this is a part.
            unsafe {
                std::slice::from_raw_parts_mut(start.add(inputs - panel), panel).fill(T::of(0.0));
                for c in 0..x.c {
                    // The last part has fewer rows; only surplus lanes read past them.
                    padded.copy_padded(&x, (n, c), (y, rows), tall, start.add(c * channel));
                }
                let stage = start.add(inputs);
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
                            bias: weights.bias.map_or(core::ptr::null(), |bias| bias[row..].as_ptr()),
                            relu,
                        });
                    }
                }
                for row in 0..weights.rows {
                    let to = out.ptr.offset(out.at(n, row, y, 0));
                    to.scatter_rows(out.rows([rows, out.w], [1, 1]), stage.add(row * ld), padded.width);
                }
            }
        });
    });
    Ok(())
}
