//! Blocked floating-point products: cutting a product into blocks, and the walk over tiles. [`pack`](super::pack) packs
//! the blocks.
//!
//! Loop order: block of lanes (`nc`), block of `k` (`kc`), tile row, tile. The packed block of B stays in L2, and the
//! packed rows of one tile row (about 20 KB) in L1, unless blocks are long ([`Kernel::long_kc`]). The rows are packed again
//! for every block of lanes; in return there is no large packed copy of A, and threads never have to wait for each other. If
//! all lanes were packed beforehand, it is block of `k`, group of tile rows, block of lanes, tile row, tile: the rows are
//! packed once, and a group is used for all lanes.
//! Rows that lie well for L1 are not packed but read where they are.

use super::{
    kernel::{Kernel, TileArgs, TransposedTile},
    pack::{PackedLanes, Rows, is_kmajor, pack_lanes, pack_rows},
    prefetch::LINE,
    problem::GemmProblem,
    scratch::with_scratch,
    source::{Float, Source},
};

/// Size of the scratch tile for results that cannot be stored directly to C: at least `mr` rows rounded up to whole
/// vectors, and two vectors wide, for every kernel.
const TILE_ROWS: usize = 16;
const TILE_LANES: usize = 32;
/// Steps of `k` per block of a product that is nearly matrix times vector.
const GEMV_STEPS: usize = 16;
/// How far ahead B is prefetched: elements along a row (or a packed panel), or steps of `k` where a panel is read from B
/// itself.
pub(crate) const LANES_AHEAD: isize = 256;
const STEPS_AHEAD: isize = 12;
/// Rows that are packed together if rows are not contiguous along `k`: a step of `k` holds one element of each, side by
/// side in memory, and the next step is often a page away. With few rows, what they wait for is lines and TLB entries of
/// which they use a little. Also if they are used for several blocks of packed lanes, each of which is fetched for them.
const GROUP_ROWS: usize = 96;
/// Elements of A below which packing it takes no longer than the question whether it is needed.
const FEW: usize = 2048;
/// Sets of the first-level cache of most processors, of 8 or 12 lines each.
const SETS: usize = 64;
/// Above this many tile rows, packing B is too small a share to be worth fusing with the first tile row, and reading B
/// along its rows (as separate packing does) is kinder to the TLB.
const FUSE_ROWS: usize = 12;

/// Whether tiles of up to `height` rows are read where they are, in blocks of `k_block` steps: contiguous along `k`, and spread
/// over the sets of L1 about as evenly as packed rows are, since they are read once for every two vectors of lanes.
pub(crate) fn rows_in_place<S: Source<T>, T: Float>(
    p: &GemmProblem<S>,
    kern: &Kernel<T>,
    k_block: usize,
    height: usize,
) -> bool {
    if !S::SAME || p.a_k != 1 || !kern.row_major || p.rows.saturating_mul(p.k) < FEW {
        return false;
    }
    let (height, lines) = (height.min(kern.mr), (k_block.min(p.k) * size_of::<T>()).div_ceil(LINE));
    let row_bytes = p.a_row.wrapping_mul(size_of::<T>() as isize);
    let set = |row: usize| (row as isize).wrapping_mul(row_bytes).rem_euclid((SETS * LINE) as isize) as usize / LINE;
    let rows_in = |at: usize| (0..height).filter(|&row| (at + SETS - set(row)) % SETS < lines).count();
    let evenly = (height * lines).div_ceil(SETS);
    (0..height).all(|row| rows_in(set(row)) <= evenly + 1)
}

/// Cuts `n` into the fewest equal blocks of at most `most`; returns their size, a multiple of `unit`.
pub(crate) fn block_size(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(unit).max(unit)
}

/// Steps of `k` per block; a function of the shape alone, so that sums do not depend on how the work is split.
pub(crate) fn k_block<S, T>(p: &GemmProblem<S>, kern: &Kernel<T>) -> usize {
    if p.rows <= 4 && p.b_lane == 1 {
        // Close to a matrix-vector product: limited by reading B, which is fastest in long runs along its rows rather
        // than a few lanes from each of hundreds of rows.
        return GEMV_STEPS;
    }
    // Few rows read the lanes where they are, where a step is often a page.
    let lanes_in_place = p.b_lane == 1 && p.rows <= FUSE_ROWS * kern.mr;
    block_of_steps(p.k, if is_kmajor(kern, p.a_k) || lanes_in_place { kern.kc } else { kern.long_kc })
}

/// Steps of a block of `k` steps, of which at most `most` are in one.
pub(crate) fn block_of_steps(k: usize, most: usize) -> usize {
    block_size(k, most, 8).min(most)
}

/// Computes rows `rows.0..rows.1` and lanes `lanes.0..lanes.1` of the product on this thread.
///
/// # Safety
/// The pointers and strides of `p` must be valid for the whole product, the part of C must not be accessed by anyone else
/// meanwhile, and `kern` must be runnable on this machine. If given, `packed` holds exactly these lanes, and S is T.
pub(crate) unsafe fn part<S: Source<T>, T: Float>(
    p: &GemmProblem<S>,
    kern: &Kernel<T>,
    rows: (usize, usize),
    lanes: (usize, usize),
    packed: Option<PackedLanes<T>>,
) {
    debug_assert!(S::SAME || packed.is_none());
    let (nr, nl) = (rows.1 - rows.0, lanes.1 - lanes.0);
    // SAFETY: the part starts inside the product.
    let q = unsafe {
        GemmProblem {
            rows: nr,
            lanes: nl,
            a: p.a.offset(rows.0 as isize * p.a_row),
            b: p.b.offset(lanes.0 as isize * p.b_lane),
            c: p.c.offset(rows.0 as isize * p.c_row + lanes.0 as isize * p.c_lane),
            bias: if p.bias.is_null() { p.bias } else { p.bias.add(if p.bias_on_rows { rows.0 } else { lanes.0 }) },
            ..*p
        }
    };
    let kb = packed.map_or_else(|| k_block(p, kern), |packed| packed.steps);
    if S::SAME {
        let out = Output { c: q.c.cast(), row: q.c_row, lane: q.c_lane, bias: q.bias.cast() };
        // SAFETY: S is T, see `Source::SAME`; the rest is the caller's promise.
        unsafe { blocks(&q, kern, kb, packed, out) }
        return;
    }
    // Sum in T and convert once.
    let bias_len = if p.bias.is_null() {
        0
    } else if p.bias_on_rows {
        nr
    } else {
        nl
    };
    with_scratch::<T, _>(nr * nl + bias_len, |c| {
        // SAFETY: the scratch has nr * nl + bias_len elements; `q` is valid by contract.
        unsafe {
            let bias = if bias_len == 0 { core::ptr::null_mut() } else { c.add(nr * nl) };
            for i in 0..bias_len {
                *bias.add(i) = (*q.bias.add(i)).widen();
            }
            let at = |i: usize, j: usize| q.c.offset(i as isize * q.c_row + j as isize * q.c_lane);
            if q.load_c {
                for i in 0..nr {
                    for j in 0..nl {
                        *c.add(i * nl + j) = (*at(i, j)).widen();
                    }
                }
            }
            blocks(&q, kern, kb, None, Output { c, row: nl as isize, lane: 1, bias });
            for i in 0..nr {
                for j in 0..nl {
                    *at(i, j) = S::narrow(*c.add(i * nl + j));
                }
            }
        }
    })
}

/// C and the bias in the compute type: those of the problem, or scratch.
#[derive(Clone, Copy)]
struct Output<T> {
    c: *mut T,
    row: isize,
    lane: isize,
    bias: *const T,
}

/// How a product is cut into blocks and tiles.
struct Plan {
    /// Lanes of a tile.
    width: usize,
    /// Rows of a tile, and the resulting number of tile rows.
    height: usize,
    tile_rows: usize,
    /// Tile rows whose A is packed together.
    group: usize,
    /// Steps of `k` and lanes of a block.
    k_block: usize,
    lane_block: usize,
    /// There is one tile row, so every lane is used once: whole panels are read in place.
    in_place: bool,
    /// The first tile row packs whole panels as it reads them.
    fuse: bool,
    /// Tile rows of full height are read where they are, one at a time.
    rows_in_place: bool,
}

impl Plan {
    fn new<S: Source<T>, T: Float>(p: &GemmProblem<S>, kern: &Kernel<T>, k_block: usize, is_packed: bool) -> Plan {
        let width = 2 * kern.lanes;
        // As even as possible, so that no tile is nearly empty.
        let height = kern.height(p.rows.div_ceil(p.rows.div_ceil(kern.mr)));
        let tile_rows = p.rows.div_ceil(height);
        let direct = S::SAME && p.b_lane == 1 && !is_packed;
        let in_place = direct && tile_rows == 1;
        // If nothing is packed, only C has to stay in cache.
        let most = if in_place { 4096 } else { kern.lanes_per_block(k_block) };
        let rows_in_place = rows_in_place(p, kern, k_block, height);
        let several = is_packed && p.lanes > most;
        let group = if p.a_k == 1 && (rows_in_place || !several) { 1 } else { (GROUP_ROWS / height).max(1) };
        Plan {
            width,
            height,
            tile_rows,
            group: tile_rows.div_ceil(tile_rows.div_ceil(group)),
            k_block,
            lane_block: block_size(p.lanes, most, width),
            in_place,
            rows_in_place,
            fuse: direct && kern.copies && tile_rows > 1 && tile_rows <= FUSE_ROWS,
        }
    }
}

/// The loop nest.
///
/// # Safety
/// As for [`part`]; the output must be valid for the shape of `p`.
unsafe fn blocks<S: Source<T>, T: Float>(
    p: &GemmProblem<S>,
    kern: &Kernel<T>,
    k_block: usize,
    shared: Option<PackedLanes<T>>,
    out: Output<T>,
) {
    let plan = Plan::new(p, kern, k_block, shared.is_some());
    let a_room = plan.group * plan.height * kern.packed_row(k_block);
    let lanes = plan.lane_block.min(p.lanes.next_multiple_of(kern.lanes));
    let b_room = if shared.is_some() { 0 } else { k_block * lanes + plan.width };
    with_scratch::<T, _>(a_room + b_room + TILE_ROWS * TILE_LANES, |start| {
        // Three disjoint regions of the scratch.
        let tile = start.wrapping_add(a_room);
        let own = tile.wrapping_add(TILE_ROWS * TILE_LANES);
        let block = |lane0: usize, k0: usize| {
            let lanes = plan.lane_block.min(p.lanes - lane0);
            let steps = plan.k_block.min(p.k - k0);
            let b = shared.map_or(own, |packed| packed.at(k0, lane0, steps));
            Block { p, kern, plan: &plan, out, lane0, lanes, k0, steps, a: start, b, tile }
        };
        let lanes = || (0..p.lanes).step_by(plan.lane_block);
        let groups = || (0..plan.tile_rows).step_by(plan.group);
        let ks = || (0..p.k).step_by(plan.k_block);
        // SAFETY: blocks lie inside the product; the rest is the caller's promise.
        unsafe {
            if shared.is_none() {
                for (lane0, k0) in lanes().flat_map(|lane0| ks().map(move |k0| (lane0, k0))) {
                    let block = block(lane0, k0);
                    let unpacked = block.pack_lanes();
                    for i in groups() {
                        block.pack_rows(i);
                        block.group(i, if i == 0 || plan.in_place { unpacked } else { 0 });
                    }
                }
                return;
            }
            for (k0, i) in ks().flat_map(|k0| groups().map(move |i| (k0, i))) {
                block(0, k0).pack_rows(i);
                lanes().for_each(|lane0| block(lane0, k0).group(i, 0));
            }
        }
    })
}

/// One block of lanes and steps of `k`, for all rows.
struct Block<'a, S, T> {
    p: &'a GemmProblem<S>,
    kern: &'a Kernel<T>,
    plan: &'a Plan,
    out: Output<T>,
    lane0: usize,
    lanes: usize,
    k0: usize,
    steps: usize,
    /// Room for packed rows, for packed lanes (or the lanes, if they were already packed), and for a tile.
    a: *mut T,
    b: *mut T,
    tile: *mut T,
}

impl<S: Source<T>, T: Float> Block<'_, S, T> {
    /// Packs the lanes, but for those that the products of the first tile row read where they are; returns how many these are.
    ///
    /// # Safety
    /// As for [`blocks`].
    unsafe fn pack_lanes(&self) -> usize {
        let Block { p, kern, plan, .. } = *self;
        // Whole panels may be left to the first tile row; a ragged one is always packed here, because vector loads would read
        // past the end of B.
        let unpacked = if plan.in_place || plan.fuse { self.lanes / plan.width * plan.width } else { 0 };
        if unpacked < self.lanes {
            // SAFETY: the lanes that are left, and their place.
            unsafe {
                let src = self.unpacked_lanes().offset(unpacked as isize * p.b_lane);
                let to = self.b.add(unpacked * self.steps);
                pack_lanes(kern, src, self.steps, self.lanes - unpacked, p.b_k, p.b_lane, to);
            };
        }
        unpacked
    }

    /// The block of B itself.
    fn unpacked_lanes(&self) -> *const S {
        let p = self.p;
        p.b.wrapping_offset(self.k0 as isize * p.b_k + self.lane0 as isize * p.b_lane)
    }

    /// Packs the rows of the group that begins with tile row `i`.
    ///
    /// # Safety
    /// As for [`blocks`].
    unsafe fn pack_rows(&self, i: usize) {
        let Block { p, kern, plan, .. } = *self;
        let first = i * plan.height;
        // Of a tile row that lacks rows, those that do not exist cannot be read.
        if plan.rows_in_place && first + plan.height <= p.rows {
            return;
        }
        // SAFETY: rows that exist, and the place of a group.
        unsafe {
            let rows = Rows {
                start: p.a.offset(first as isize * p.a_row + self.k0 as isize * p.a_k),
                count: p.rows.min(first + plan.group * plan.height) - first,
                steps: self.steps,
                row_stride: p.a_row,
                k_stride: p.a_k,
            };
            pack_rows(kern, rows, plan.height, self.a);
        }
    }

    /// Computes the group of tile rows that begins with tile row `first`; its first tile row as [`tile_row`](Block::tile_row) has
    /// it, the others from packed lanes.
    ///
    /// # Safety
    /// As for [`blocks`]; the rows are packed, and all lanes but the first `unpacked`.
    unsafe fn group(&self, first: usize, unpacked: usize) {
        let plan = self.plan;
        for i in first..plan.tile_rows.min(first + plan.group) {
            // SAFETY: the caller's promise; the first tile row has packed what was not.
            unsafe { self.tile_row(i, if i == first || plan.in_place { unpacked } else { 0 }) }
        }
    }

    /// Computes tile row `i`. The first `unpacked` lanes are read from the block of B itself, and packed on the way if the plan
    /// says so.
    ///
    /// # Safety
    /// As for [`group`](Block::group).
    unsafe fn tile_row(&self, i: usize, unpacked: usize) {
        let Block { p, kern, plan, out, steps, .. } = *self;
        let b = self.unpacked_lanes();
        let a_kmajor = is_kmajor(kern, p.a_k);
        let first = i * plan.height;
        let rows = plan.height.min(p.rows - first);
        let last = self.k0 + steps == p.k;
        let width = plan.width;
        // The rows of the next tile row are not in cache yet, unless they are packed several tile rows at a time; the first tile
        // of this one fetches them.
        let next = p.a.wrapping_offset((first + rows) as isize * p.a_row + self.k0 as isize * p.a_k);
        let (a, a_row) = if plan.rows_in_place && rows == plan.height {
            (p.a.wrapping_offset(first as isize * p.a_row + self.k0 as isize).cast(), p.a_row)
        } else {
            let row = kern.packed_row(steps);
            let at = i % plan.group * plan.height * if a_kmajor { steps } else { row };
            (self.a.wrapping_add(at).cast_const(), row as isize)
        };
        for lane in (0..self.lanes).step_by(width) {
            let cols = (self.lanes - lane).min(width);
            let vectors = if cols <= kern.lanes { 1 } else { 2 };
            let at = first as isize * out.row + (self.lane0 + lane) as isize * out.lane;
            let mut args = TileArgs {
                k: steps,
                rows,
                height: kern.height(rows),
                vectors,
                a,
                a_kmajor,
                a_row,
                a_next: if lane == 0 { next.cast() } else { self.a.cast_const().cast() },
                a_next_row: if lane == 0 { p.a_row * size_of::<S>() as isize } else { 0 },
                b: self.b.wrapping_add(lane * steps),
                b_rs: (vectors * kern.lanes) as isize,
                b_ahead: LANES_AHEAD,
                b_copy: core::ptr::null_mut(),
                c: out.c.wrapping_offset(at),
                c_rs: out.row,
                cols,
                load_c: p.load_c || self.k0 > 0,
                bias: match () {
                    _ if out.bias.is_null() || !last => core::ptr::null(),
                    _ if p.bias_on_rows => out.bias.wrapping_add(first),
                    _ => out.bias.wrapping_add(self.lane0 + lane),
                },
                bias_on_rows: p.bias_on_rows,
                relu: p.relu && last,
            };
            if lane < unpacked {
                // S is T: `Plan` requires it.
                args.b = b.wrapping_add(lane).cast();
                args.b_rs = p.b_k;
                args.b_ahead = if steps <= GEMV_STEPS { LANES_AHEAD } else { STEPS_AHEAD * p.b_k };
                if plan.fuse {
                    args.b_copy = self.b.wrapping_add(lane * steps);
                }
            }
            // SAFETY: the tile and everything that it reads lie inside the product or what was packed.
            unsafe { if out.lane == 1 { (kern.tile)(&args) } else { self.tile_by_way_of_scratch(args) } }
        }
    }

    /// Computes a tile in the scratch tile and stores it from there, if its lanes are not contiguous in C.
    ///
    /// # Safety
    /// As for the tile kernel, but for the strides of C, which are those of the output.
    unsafe fn tile_by_way_of_scratch(&self, args: TileArgs<T>) {
        let TileArgs { rows, cols, c, load_c, bias, relu, .. } = args;
        let (tile, c_cs) = (self.tile, self.out.lane);
        // SAFETY: the scratch tile has room for every tile; the rest is the caller's promise.
        unsafe {
            (self.kern.tile)(&TileArgs {
                c: tile,
                c_rs: TILE_LANES as isize,
                cols: args.vectors * self.kern.lanes,
                load_c: false,
                bias: core::ptr::null(),
                relu: false,
                ..args
            });
            let t = TransposedTile { tile, ld: TILE_LANES, rows, cols, c, c_cs, load_c, bias, relu };
            if self.out.row == 1 && (bias.is_null() || self.p.bias_on_rows) {
                (self.kern.store_transposed)(&t);
            } else {
                store_scattered(&t, self.out.row, self.p.bias_on_rows);
            }
        }
    }
}

/// Moves a finished tile to a C with any strides.
///
/// # Safety
/// As for [`TransposedTile`], with element (row, col) of C at `row * c_rs + col * c_cs`.
unsafe fn store_scattered<T: Float>(t: &TransposedTile<T>, c_rs: isize, bias_on_rows: bool) {
    for i in 0..t.rows {
        for j in 0..t.cols {
            // SAFETY: the indices stay within the tile, C and the bias.
            unsafe {
                let c = t.c.offset(i as isize * c_rs + j as isize * t.c_cs);
                let mut x = *t.tile.add(i * t.ld + j);
                if t.load_c {
                    x = (*c).plus(x);
                }
                if !t.bias.is_null() {
                    x = x.plus(*t.bias.add(if bias_on_rows { i } else { j }));
                }
                if t.relu && x < T::ZERO {
                    x = T::ZERO;
                }
                *c = x;
            }
        }
    }
}
