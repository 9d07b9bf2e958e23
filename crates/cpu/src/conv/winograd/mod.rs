//! Convolution with 3×3 kernels and stride 1 by Winograd's F(4×4, 3×3): a quarter of the multiplications.
//!
//! Works on a block of tiles at a time: transforms the tiles of the input, computes a matrix product `[tiles, C] · [C,
//! O]` for each of the 36 points, and transforms the results back. Threads synchronize between these steps and between
//! blocks, so that the transformed weights are read once per block, by all threads together. Where the tiles are few
//! (`few_tiles`), it is the outputs that threads divide. The gradient of the input is the same with rotated kernels; that of
//! the weight sums products over tiles. In `f32` the error is about ten times that of the plain sum, some 1e-5 of the
//! largest element; `f64` is not computed this way.
//!
//! * `problem`: a convolution in tiles, and the transforms of its inputs, filters and outputs
//! * `transforms`: the arithmetic of the transforms, for a vector of channels
//! * `tile_rows`: rows of tiles, and moving pixels to and from images of any layout

mod few_tiles;
mod problem;
mod tile_rows;
mod transforms;

use std::ops::Range;

use kiln_backend::{Conv2d, Result};

use self::{
    problem::{GROUP, Problem, each_vector, points},
    tile_rows::tile_rows,
    transforms::{Grid, POINTS},
};
use crate::{
    engine::{image::Image, par::Shared, team},
    gemm::{blocked, kernels, pack::PackedLanes, problem::GemmProblem, scratch::with_scratch},
    memory::allocator::Scratch,
};

/// Writes the 3×3 filters of some output and input channels: an output's one after the other.
type CopyFilters<'a, T> = &'a (dyn Fn(Range<usize>, Range<usize>, &mut [T]) + Sync);

/// The 3×3 filters of a convolution, one for each output and input channel.
#[derive(Clone, Copy)]
pub(crate) struct Filters<'a, T> {
    /// All of them, if they follow each other as `copy` writes them.
    pub dense: Option<&'a [T]>,
    pub copy: CopyFilters<'a, T>,
}

/// Outputs of a tile along one axis, and the inputs that they read.
const TILE: usize = 4;
const INPUT_TILE: usize = 6;
/// Minimum number of channels on either side, and of tiles: below it, the transforms cost more than they save.
const CHANNELS: usize = 16;
const FEWEST_TILES: usize = 4;
const FEWEST_TILES_OF_GRADIENT: usize = 48;
/// Up to how many tiles are few, and with at least so many output channels: a task has some of them.
const FEW: [(usize, usize); 2] = [(48, 1), (200, 128)];
/// Target size of a block in transformed inputs and outputs, and its minimum and maximum number of tiles.
const BLOCK: usize = 1_500_000;
const TILES: (usize, usize) = (128, 512);

/// Whether to compute a convolution this way, from `c` to `o` channels of a group, with an output of `n` images.
pub(crate) fn suits(rule: &Conv2d, kernel: [usize; 2], channels: [usize; 2], out: [usize; 3]) -> bool {
    // With few tiles the kernels' code for rows that are not k-major is used, which the portable one lacks.
    let fewest = if kernels::best::<f32>().row_major { FEWEST_TILES } else { FEWEST_TILES_OF_GRADIENT };
    has_tiles(fewest, rule, kernel, channels, out)
}

/// Whether to compute the gradient of the weight this way.
pub(crate) fn suits_grad_weight(rule: &Conv2d, kernel: [usize; 2], channels: [usize; 2], out: [usize; 3]) -> bool {
    has_tiles(FEWEST_TILES_OF_GRADIENT, rule, kernel, channels, out)
}

fn has_tiles(fewest: usize, rule: &Conv2d, kernel: [usize; 2], [c, o]: [usize; 2], [n, h, wide]: [usize; 3]) -> bool {
    let plain =
        rule.stride == [1, 1] && rule.dilation == [1, 1] && kernel == [3, 3] && rule.padding.iter().all(|&p| p <= 2);
    let tiles = n * h.div_ceil(TILE) * wide.div_ceil(TILE);
    // Tiles at the edges are partly empty.
    let filled = 4 * n * h * wide >= 2 * tiles * TILE * TILE;
    plain && filled && tiles >= fewest && c >= CHANNELS && o >= CHANNELS
}

/// Computes one group.
///
/// # Safety
/// The images are readable and writable, as many, `out`'s elements are distinct and in no other image, and its size is the
/// convolution's.
pub(crate) unsafe fn forward(
    x: Image<f32>,
    padding: [usize; 2],
    filters: Filters<'_, f32>,
    bias: Option<&[f32]>,
    relu: bool,
    out: Image<f32>,
) -> Result<()> {
    let p = Problem::new(x, [out.h, out.w], padding);
    let (kern, lanes) = (p.kern, p.kern.lanes);
    let (c, o) = (x.c, out.c);
    let mut shift = vec![0f32; o.next_multiple_of(lanes)];
    if let Some(bias) = bias {
        shift[..o].copy_from_slice(&bias[..o]);
    }
    if kern.row_major && FEW.iter().any(|&(tiles, outputs)| p.count() <= tiles && o >= outputs) {
        // SAFETY: the caller's promise.
        return unsafe { few_tiles::forward(&p, filters, &shift, relu, out) };
    }
    // Rows of v and m are whole groups; the products' rows end with a vector.
    let [cp, width] = [c, o].map(|channels| channels.next_multiple_of(GROUP));
    let op = o.next_multiple_of(lanes);
    let block = p.block(cp + width);
    let mut u = Scratch::<f32>::new(POINTS * c * op)?;
    let mut v = Scratch::<f32>::new(POINTS * block * cp)?;
    let mut m = Scratch::<f32>::new(POINTS * block * width)?;
    let (u, v, m) = (Shared::new(u.values()), Shared::new(v.values()), Shared::new(m.values()));
    let threads = rayon::current_num_threads();
    let kb = blocked::block_of_steps(c, kern.kc);
    // Packs the weights into the panels that the matrix kernels read.
    team::for_each(op.div_ceil(GROUP), threads, &|group| {
        for o0 in (group * GROUP..op.min((group + 1) * GROUP)).step_by(lanes) {
            let panel = o0 / (2 * lanes) * (2 * lanes);
            let wide = if panel + lanes < op { 2 * lanes } else { lanes };
            let to = |ci: usize| {
                let k0 = ci / kb * kb;
                let nk = kb.min(c - k0);
                let at = k0 * op + panel * nk + (ci - k0) * wide + (o0 - panel);
                points(u.start().wrapping_add(at), c * op)
            };
            // SAFETY: every vector has its own lanes of the panels, which have room for all channels.
            unsafe { p.filters(filters, o0..o.min(o0 + lanes), 0..c, to) };
        }
    });
    for start in (0..p.count()).step_by(block) {
        let tiles = block.min(p.count() - start);
        let parts = tile_rows(p.tiles, start..start + tiles);
        // SAFETY: the caller's promise; the steps follow each other, and tasks of one write different places.
        unsafe { p.input(&parts, |tile, c| points(v.start().wrapping_add(tile * cp + c), block * cp)) };
        // Points are divided further if there are few tiles for many channels.
        let halves = if tiles >= 8 * kern.mr { 2 } else { 1 };
        team::for_each(POINTS * halves, threads, &|i| {
            let (point, half) = (i / halves, i % halves);
            let rows = (half * tiles / halves, (half + 1) * tiles / halves);
            // SAFETY: offsets of a point are inside its arrays; tasks write different rows of different points.
            unsafe {
                let packed = PackedLanes { start: u.start().add(point * c * op), width: op, steps: kb };
                let problem = GemmProblem {
                    rows: tiles,
                    lanes: op,
                    k: c,
                    a: v.start().add(point * block * cp).cast_const(),
                    a_row: cp as isize,
                    a_k: 1,
                    b: packed.start.cast_const(),
                    b_k: 0,
                    b_lane: 0,
                    c: m.start().add(point * block * width),
                    c_row: width as isize,
                    c_lane: 1,
                    load_c: false,
                    bias: core::ptr::null(),
                    bias_on_rows: false,
                    relu: false,
                };
                blocked::part::<f32, f32>(&problem, kern, rows, (0, op), Some(packed));
            }
        });
        each_vector(&parts, o, lanes, &|part, o0| {
            let from = |tile: usize| points(m.start().wrapping_add(tile * width + o0).cast_const(), block * width);
            // SAFETY: all products are there; tasks write different pixels and channels.
            unsafe { p.output(part, o0, from, &shift, relu, &out) };
        });
    }
    Ok(())
}

/// Computes one group's gradient of the weight, and passes the nine taps of each output and input channel to `store`.
///
/// # Safety
/// The images are readable, as many, and `grad` has the size of the convolution's output.
pub(crate) unsafe fn grad_weight(
    grad: Image<f32>,
    x: Image<f32>,
    padding: [usize; 2],
    store: &(dyn Fn(usize, usize, &[f32; 9]) + Sync),
) -> Result<()> {
    let p = Problem::new(x, [grad.h, grad.w], padding);
    let (kern, lanes) = (p.kern, p.kern.lanes);
    let (c, o) = (x.c, grad.c);
    let [cp, width] = [c, o].map(|channels| channels.next_multiple_of(GROUP));
    let op = o.next_multiple_of(lanes);
    let block = p.block(cp + width);
    let mut sums = Scratch::<f32>::new(POINTS * c * op)?;
    let mut v = Scratch::<f32>::new(POINTS * block * cp)?;
    let mut m = Scratch::<f32>::new(POINTS * block * width)?;
    let (sums, v, m) = (Shared::new(sums.values()), Shared::new(v.values()), Shared::new(m.values()));
    let threads = rayon::current_num_threads();
    for start in (0..p.count()).step_by(block) {
        let tiles = block.min(p.count() - start);
        let parts = tile_rows(p.tiles, start..start + tiles);
        // SAFETY: as in `forward`.
        unsafe { p.input(&parts, |tile, c| points(v.start().wrapping_add(tile * cp + c), block * cp)) };
        each_vector(&parts, o, lanes, &|part, o0| {
            let pixels = part.len * TILE;
            with_scratch::<f32, _>(TILE * pixels * lanes, |pixels_buffer| {
                // SAFETY: as in `Problem::input`.
                unsafe {
                    for row in 0..TILE {
                        let (y, x) = ((part.y * TILE + row) as isize, (part.x * TILE) as isize);
                        tile_rows::load_pixels(
                            kern,
                            &grad,
                            part.n,
                            y,
                            x,
                            pixels,
                            o0,
                            pixels_buffer.add(row * pixels * lanes),
                        );
                    }
                    for tile in 0..part.len {
                        let from = Grid {
                            start: pixels_buffer.add(tile * TILE * lanes).cast_const(),
                            row: pixels * lanes,
                            column: lanes,
                        };
                        let (start, column) = (m.start().add((part.at + tile) * width + o0), block * width);
                        (p.transforms.gradient)(from, Grid { start, row: INPUT_TILE * column, column });
                    }
                }
            });
        });
        let halves = if c >= 8 * kern.mr { 2 } else { 1 };
        team::for_each(POINTS * halves, threads, &|i| {
            let (point, half) = (i / halves, i % halves);
            let problem = GemmProblem {
                rows: c,
                lanes: op,
                k: tiles,
                a: v.start().wrapping_add(point * block * cp).cast_const(),
                a_row: 1,
                a_k: cp as isize,
                b: m.start().wrapping_add(point * block * width).cast_const(),
                b_k: width as isize,
                b_lane: 1,
                c: sums.start().wrapping_add(point * c * op),
                c_row: op as isize,
                c_lane: 1,
                load_c: start > 0,
                bias: core::ptr::null(),
                bias_on_rows: false,
                relu: false,
            };
            // SAFETY: offsets of a point are inside its arrays; tasks write different rows of different points.
            unsafe {
                blocked::part::<f32, f32>(&problem, kern, (half * c / halves, (half + 1) * c / halves), (0, op), None);
            };
        });
    }
    team::for_each(op / lanes, threads, &|group| {
        let o0 = group * lanes;
        let mut to = [0f32; 9 * 16];
        for ci in 0..c {
            let from = Grid {
                start: sums.start().wrapping_add(ci * op + o0).cast_const(),
                row: INPUT_TILE * c * op,
                column: c * op,
            };
            // SAFETY: the sums of all points are there; the taps of a vector of channels fit.
            unsafe { (p.transforms.taps)(from, Grid { start: to.as_mut_ptr(), row: 3 * lanes, column: lanes }) };
            for lane in 0..lanes.min(o - o0) {
                store(o0 + lane, ci, &std::array::from_fn(|tap| to[tap * lanes + lane]));
            }
        }
    });
    Ok(())
}
