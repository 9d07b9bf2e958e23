//! One convolution in tiles, and the transforms of its inputs, filters and outputs.

use std::ops::Range;

use super::{
    BLOCK, Filters, INPUT_TILE, TILE, TILES,
    tile_rows::{self, TileRow},
    transforms::{Grid, POINTS, Transforms, transforms},
};
use crate::{
    engine::{image::Image, team},
    gemm::{
        blocked,
        kernel::{Kernel, PackArgs},
        kernels,
        scratch::with_scratch,
    },
};

/// Channels of a task of a transform: a cache line, since threads that write to the same line wait for each other. That is one
/// to four vectors.
pub(super) const GROUP: usize = 16;
/// Input channels whose filters are fetched together: as they are and transposed they stay in the L1 cache.
const INPUTS: usize = 16;

/// One convolution: `x`, and the plane that is cut into tiles of outputs.
pub(super) struct Problem<'a> {
    pub kern: &'a Kernel<f32>,
    pub transforms: &'a Transforms,
    pub x: Image<f32>,
    /// Height and width of the tiled plane.
    pub size: [usize; 2],
    padding: [usize; 2],
    pub tiles: [usize; 2],
}

impl<'a> Problem<'a> {
    pub fn new(x: Image<f32>, size: [usize; 2], padding: [usize; 2]) -> Self {
        let kern = kernels::best::<f32>();
        let tiles = size.map(|extent| extent.div_ceil(TILE));
        Problem { kern, transforms: transforms(kern.lanes), x, size, padding, tiles }
    }

    pub fn count(&self) -> usize {
        self.x.n * self.tiles[0] * self.tiles[1]
    }

    /// Tiles per block, for this many input and output channels together.
    pub fn block(&self, channels: usize) -> usize {
        let tiles = (BLOCK / (POINTS * channels)).clamp(TILES.0, TILES.1);
        blocked::block_size(self.count(), tiles, 1)
    }

    /// Transforms the inputs of some tiles, in parallel. `to` says where the points of a tile and the vector of channels from `c`
    /// on go.
    ///
    /// # Safety
    /// The image is readable, and the places are this call's.
    pub unsafe fn input(&self, parts: &[TileRow], to: impl Fn(usize, usize) -> Grid<*mut f32> + Sync) {
        let lanes = self.kern.lanes;
        each_vector(parts, self.x.c, lanes, &|part, c| {
            let pixels = part.len * TILE + INPUT_TILE - TILE;
            let first = [
                (part.y * TILE) as isize - self.padding[0] as isize,
                (part.x * TILE) as isize - self.padding[1] as isize,
            ];
            with_scratch::<f32, _>(INPUT_TILE * pixels * lanes, |buffer| {
                // SAFETY: the buffer has room for all pixels; a task writes its own tiles and channels.
                unsafe {
                    for row in 0..INPUT_TILE {
                        let to = buffer.add(row * pixels * lanes);
                        let y = first[0] + row as isize;
                        tile_rows::load_pixels(self.kern, &self.x, part.n, y, first[1], pixels, c, to);
                    }
                    for tile in 0..part.len {
                        let start = buffer.add(tile * TILE * lanes).cast_const();
                        let from = Grid { start, row: pixels * lanes, column: lanes };
                        (self.transforms.input)(from, to(part.at + tile, c));
                    }
                }
            });
        });
    }

    /// Transforms the filters of at most a vector of output channels. `to` says where the points of an input channel go; those of
    /// lanes without an output become 0.
    ///
    /// # Safety
    /// The places are this call's.
    pub unsafe fn filters(
        &self,
        filters: Filters<'_, f32>,
        outputs: Range<usize>,
        inputs: Range<usize>,
        to: impl Fn(usize) -> Grid<*mut f32>,
    ) {
        let lanes = self.kern.lanes;
        let most = lanes * INPUTS * 9;
        with_scratch::<f32, _>(2 * most, |turned| {
            let copied = turned.wrapping_add(most);
            for first in inputs.clone().step_by(INPUTS) {
                let some = first..inputs.end.min(first + INPUTS);
                let steps = 9 * some.len();
                let (src, lane_stride) = match filters.dense {
                    Some(all) => (all[(outputs.start * self.x.c + first) * 9..].as_ptr(), self.x.c * 9),
                    None => {
                        let len = outputs.len() * steps;
                        // SAFETY: the second half of the scratch, which is written from the start to the end.
                        unsafe {
                            std::slice::from_raw_parts_mut(copied, len).fill(0.0);
                            (filters.copy)(outputs.clone(), some.clone(), std::slice::from_raw_parts_mut(copied, len));
                        };
                        (copied.cast_const(), steps)
                    }
                };
                // SAFETY: all taps of at most a vector of outputs and of `INPUTS` inputs; the caller's promise.
                unsafe {
                    (self.kern.pack_lanes)(&PackArgs {
                        src,
                        k: steps,
                        lanes: outputs.len(),
                        k_stride: 1,
                        lane_stride: lane_stride as isize,
                        dst: turned,
                        panel: lanes,
                        last: lanes,
                    });
                    for ci in some {
                        let start = turned.wrapping_add((ci - first) * 9 * lanes).cast_const();
                        (self.transforms.filter)(Grid { start, row: 3 * lanes, column: lanes }, to(ci));
                    }
                }
            }
        });
    }

    /// Transforms the products of a row of tiles and of the vector of output channels from `o0` on, and stores the pixels. `from`
    /// says where the points of a tile are.
    ///
    /// # Safety
    /// The places are readable, and nobody else accesses these channels of these pixels; `shift` has a value for each lane.
    pub unsafe fn output(
        &self,
        part: &TileRow,
        o0: usize,
        from: impl Fn(usize) -> Grid<*const f32>,
        shift: &[f32],
        relu: bool,
        out: &Image<f32>,
    ) {
        let lanes = self.kern.lanes;
        let pixels = part.len * TILE;
        // Transposing rows reads whole blocks of vectors.
        with_scratch::<f32, _>((TILE * pixels + lanes) * lanes, |buffer| {
            // SAFETY: the buffer has room for all pixels; the rest is the caller's promise.
            unsafe {
                for tile in 0..part.len {
                    let to = Grid { start: buffer.add(tile * TILE * lanes), row: pixels * lanes, column: lanes };
                    (self.transforms.output)(from(part.at + tile), to, shift[o0..].as_ptr(), relu);
                }
                let x0 = part.x * TILE;
                for row in 0..TILE.min(self.size[0] - part.y * TILE) {
                    let from = buffer.add(row * pixels * lanes).cast_const();
                    let y = part.y * TILE + row;
                    tile_rows::store_pixels(self.kern, out, part.n, y, x0, pixels.min(self.size[1] - x0), o0, from);
                }
            }
        });
    }
}

/// The points of a tile or filter, so far apart.
pub(super) fn points<P>(start: P, apart: usize) -> Grid<P> {
    Grid { start, row: INPUT_TILE * apart, column: apart }
}

/// Calls `transform` for each row of tiles and each vector of so many channels, in parallel: a task has the vectors of a
/// [`GROUP`].
pub(super) fn each_vector(
    parts: &[TileRow],
    channels: usize,
    lanes: usize,
    transform: &(dyn Fn(&TileRow, usize) + Sync),
) {
    let groups = channels.div_ceil(GROUP);
    team::for_each(parts.len() * groups, rayon::current_num_threads(), &|i| {
        let first = i % groups * GROUP;
        (first..channels.min(first + GROUP)).step_by(lanes).for_each(|c| transform(&parts[i / groups], c));
    });
}
