//! The interface of the register kernels for the blocked product and the convolutions: the kernels of one element type
//! on one instruction set, and their arguments. [`kernels`](super::kernels) has the instances.

use super::prefetch::LINE;
use crate::engine::cache::l2;

/// Arguments of the tile kernel, which computes a `rows x (vectors * L)` tile of C in registers (`L` lanes a vector).
pub(crate) struct TileArgs<T> {
    /// Steps of `k`; any number.
    pub k: usize,
    /// Rows of the tile, `1..=height`.
    pub rows: usize,
    /// Rows that are computed, one of [`Kernel::heights`]; those from `rows` on are not stored.
    pub height: usize,
    /// Vectors per row of the tile, 1 or 2.
    pub vectors: usize,
    /// Rows of A, `height` of them: element (row, k) at `k * height + row` if `a_kmajor`, otherwise at `row * a_row + k`.
    pub a: *const T,
    pub a_kmajor: bool,
    pub a_row: isize,
    /// Rows to be fetched into L2 meanwhile, and the bytes from one to the next: at every step a line of the next row, and
    /// after as many rows as a line has elements the next line of them. Where half as many rows are more than the tile has, only
    /// these, at every second step. Any address is fine. Not if `a_kmajor`.
    pub a_next: *const u8,
    pub a_next_row: isize,
    /// B: `vectors * L` readable elements per step, steps `b_rs` apart.
    pub b: *const T,
    pub b_rs: isize,
    /// How many elements ahead B is prefetched.
    pub b_ahead: isize,
    /// If not null, B is also copied here, `vectors * L` elements per step, which packs it for the tiles below this
    /// one. Supported only if [`Kernel::copies`], for two vectors and more than half of `Kernel::mr` rows.
    pub b_copy: *mut T,
    /// Tile of C; lanes are contiguous, rows `c_rs` apart, the first `cols` lanes are stored.
    pub c: *mut T,
    pub c_rs: isize,
    pub cols: usize,
    /// Whether to add to the contents of C or overwrite them.
    pub load_c: bool,
    /// Null, or a value to add per lane (`cols` readable elements), or with `bias_on_rows` per row (`rows` of them).
    pub bias: *const T,
    pub bias_on_rows: bool,
    pub relu: bool,
}

/// Arguments of the kernel that stores a finished tile transposed: to a C whose columns are contiguous.
pub(crate) struct TransposedTile<T> {
    /// The tile, rows `ld` apart; readable up to a multiple of `L` rows and of `Q` columns.
    pub tile: *const T,
    pub ld: usize,
    pub rows: usize,
    pub cols: usize,
    /// Element (row, col) goes to `c + row + col * c_cs`.
    pub c: *mut T,
    pub c_cs: isize,
    pub load_c: bool,
    /// Null, or a value to add per row of the tile.
    pub bias: *const T,
    pub relu: bool,
}

/// Arguments of the kernel that packs lanes into panels.
pub(crate) struct PackArgs<T> {
    /// Element (k, lane) at `src + k * k_stride + lane * lane_stride`; one of the two strides is 1.
    pub src: *const T,
    pub k: usize,
    pub lanes: usize,
    pub k_stride: isize,
    pub lane_stride: isize,
    /// Panels are `panel` lanes wide, the last one `last`. Element (k, j) of the panel that starts at lane `l` goes to
    /// `dst + l * self.k + k * width + j`. Lanes of the last panel that do not exist become 0.
    pub dst: *mut T,
    pub panel: usize,
    pub last: usize,
}

/// Arguments of the dot-product kernel: a `rows x cols` block (each at most 4) of dot products of vectors that consist of
/// `runs` contiguous pieces of length `k`.
pub(crate) struct DotArgs<T> {
    pub k: usize,
    pub runs: usize,
    pub rows: usize,
    pub cols: usize,
    /// The first piece of each vector; the next ones are `a_step` and `b_step` apart. All four are readable: those past
    /// `rows` and `cols` repeat one of the others.
    pub a: [*const T; 4],
    pub a_step: usize,
    pub b: [*const T; 4],
    pub b_step: usize,
    pub out: [[T; 4]; 4],
}

/// Arguments of the direct convolution kernel: a tile of output channels by pixels, from a padded input that is read in
/// place. Step `k` (a channel and a tap) of all pixels begins at `b + offsets[k]`.
pub(crate) struct DirectConvArgs<T> {
    pub k: usize,
    /// Output channels, one of [`Kernel::direct_rows`].
    pub rows: usize,
    /// Packed weights: element (row, k) at `k * rows + row`.
    pub a: *const T,
    /// Two vectors must be readable at every step.
    pub b: *const T,
    pub offsets: *const usize,
    /// Two vectors of every row are written, rows `c_rs` apart.
    pub c: *mut T,
    pub c_rs: usize,
    /// Null, or a value to add per row.
    pub bias: *const T,
    pub relu: bool,
}

/// Code and block sizes for one element type on one instruction set.
pub(crate) struct Kernel<T> {
    /// Used in messages of tests.
    #[cfg_attr(not(test), allow(dead_code))]
    pub name: &'static str,
    /// Maximum number of rows in a tile: the last of `heights`.
    pub mr: usize,
    /// Numbers of rows for which tile code exists, ascending from 1.
    pub heights: &'static [usize],
    /// Lanes of a vector; a tile is two vectors wide.
    pub lanes: usize,
    /// Maximum steps of `k` per block: the packed rows of a tile (`mr x kc`) take about two thirds of L1.
    pub kc: usize,
    /// As `kc`, if rows are contiguous along `k`. Longer blocks load and store C less often. The rows of a tile then come from L2
    /// again for each tile, like its lanes, which is no slower where they are few: 6 x 16 take 88 bytes per step of 6 cycles or
    /// more.
    pub long_kc: usize,
    /// Row stride of at most `kc` steps of packed rows that are not k-major: slightly more than `kc`, and an odd multiple of one
    /// or two cache lines, so that rows do not map to the same L1 sets.
    pub lda: usize,
    /// Maximum lanes per block: the packed lanes (`kc x nc`) take about half of a usual L2.
    pub nc: usize,
    /// Up to how many a larger L2 is used for, see [`lanes_per_block`](Kernel::lanes_per_block).
    pub most_nc: usize,
    /// Whether there is tile code for rows that are not k-major.
    pub row_major: bool,
    /// Whether there is tile code that packs B as it reads it.
    pub copies: bool,
    pub tile: unsafe fn(&TileArgs<T>),
    pub store_transposed: unsafe fn(&TransposedTile<T>),
    pub pack_lanes: unsafe fn(&PackArgs<T>),
    pub dots: unsafe fn(&mut DotArgs<T>),
    /// Numbers of output channels for which direct convolution code exists, largest first; the last is 1.
    pub direct_rows: &'static [usize],
    pub direct_conv: unsafe fn(&DirectConvArgs<T>),
}

impl<T> Kernel<T> {
    /// Maximum lanes per block of a product with `steps` steps: as many as take half of this machine's L2, in whole tiles, from
    /// `nc` to `most_nc`, or fewer with more than `kc` steps. Results do not depend on it.
    pub(crate) fn lanes_per_block(&self, steps: usize) -> usize {
        let (tile, steps) = (2 * self.lanes, steps.max(self.kc));
        let whole = |lanes: usize| (lanes / tile).max(1) * tile;
        let [least, most] = [self.nc, self.most_nc].map(|lanes| whole(lanes * self.kc / steps));
        whole(l2().bytes / 2 / (steps * size_of::<T>())).clamp(least, most)
    }

    /// Row stride of packed rows of `steps` steps that are not k-major.
    pub(crate) fn packed_row(&self, steps: usize) -> usize {
        let line = LINE / size_of::<T>();
        if steps <= self.lda { self.lda } else { (steps.div_ceil(line) | 1) * line }
    }

    /// The number of rows to compute for a tile of `rows` rows, at most `mr`.
    pub(crate) fn height(&self, rows: usize) -> usize {
        self.heights.iter().copied().find(|&height| height >= rows).unwrap_or(self.mr)
    }
}
