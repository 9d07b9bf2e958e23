//! The blocked product of floats: blocking, packing, and the walk over tiles.
//!
//! Loop order: block of lanes (`nc`), block of `k` (`kc`), tile row, tile. The packed lanes
//! block stays in L2, and the packed rows of one tile row (about 20 KB) in L1. Because the
//! latter are packed again for every lanes block, which costs well under 1 %, there is no
//! large packed copy of A at all and no point where threads would have to wait for each other.

use super::canon::Canon;
use super::micro::{Kernel, Micro, PackLanes, Transposed};
use super::scratch::with_scratch;
use super::simd::prefetch_l2;
use super::source::{Float, Source};

/// Scratch tile for results that cannot be stored straight to C: at least `mr` rows rounded up
/// to whole vectors, and two vectors wide, for every kernel.
const TILE_ROWS: usize = 16;
const TILE_LANES: usize = 32;
/// Steps of `k` per block of a product that is nearly matrix times vector.
const GEMV_STEPS: usize = 16;
/// How far ahead the lane side is prefetched: elements along a row (or a packed panel), or
/// steps of `k` where a panel is read from B itself.
const LANES_AHEAD: isize = 256;
const STEPS_AHEAD: isize = 12;
/// Tile rows packed at once where that is useful.
const GROUP: usize = 4;

/// Splits `n` into the fewest equal parts (multiples of `unit` but for the last) of at most
/// `most`; returns the size of a part.
pub(crate) fn even(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(unit).max(unit)
}

/// Steps of `k` per block; a function of the shape alone, so that sums do not depend on how
/// the work is split.
pub(crate) fn k_block<S, T>(p: &Canon<S>, kern: &Kernel<T>) -> usize {
    if p.rows <= 4 && p.b_lane == 1 {
        // Close to a matrix-vector product: bound by reading B, and that should happen in
        // long runs along its rows instead of a few lanes from each of hundreds of rows.
        return GEMV_STEPS;
    }
    even(p.k, kern.kc, 8).min(kern.kc)
}

/// Lanes that were packed before, by [`pack_lanes`]: every block of `k` whole, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Packed<T> {
    pub start: *mut T,
    /// Elements per step of `k`: the lanes, rounded up to whole vectors.
    pub width: usize,
}

// SAFETY: a description of memory; whoever dereferences the pointer argues for that.
unsafe impl<T: Sync> Sync for Packed<T> {}

impl<T> Packed<T> {
    /// Where the panel of lane `lane` begins, in the block of `nk` steps that starts at step `k0`.
    pub fn at(&self, k0: usize, lane: usize, nk: usize) -> *mut T {
        self.start.wrapping_add(k0 * self.width + lane * nk)
    }
}

/// Computes rows `rows.0..rows.1` and lanes `lanes.0..lanes.1` of the product on this thread.
///
/// # Safety
/// The pointers and strides of `p` must be valid for the whole product, the part of C must not
/// be accessed by anyone else meanwhile, and `kern` must be runnable on this machine. If given,
/// `packed` holds exactly these lanes, and S is T.
pub(crate) unsafe fn part<S: Source<T>, T: Float>(
    p: &Canon<S>,
    kern: &Kernel<T>,
    rows: (usize, usize),
    lanes: (usize, usize),
    packed: Option<Packed<T>>,
) {
    debug_assert!(S::SAME || packed.is_none());
    let (nr, nl) = (rows.1 - rows.0, lanes.1 - lanes.0);
    // SAFETY: the part starts inside the product.
    let q = unsafe {
        Canon {
            rows: nr,
            lanes: nl,
            a: p.a.offset(rows.0 as isize * p.a_row),
            b: p.b.offset(lanes.0 as isize * p.b_lane),
            c: p.c.offset(rows.0 as isize * p.c_row + lanes.0 as isize * p.c_lane),
            bias: if p.bias.is_null() { p.bias } else { p.bias.add(if p.bias_on_rows { rows.0 } else { lanes.0 }) },
            ..*p
        }
    };
    let kb = k_block(p, kern);
    if S::SAME {
        // SAFETY: S is T, see `Source::SAME`; the rest is the caller's promise.
        unsafe { blocks(&q, kern, kb, packed, q.c.cast(), q.c_row, q.c_lane, q.bias.cast()) }
        return;
    }
    // Accumulate in T and convert once.
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
            blocks(&q, kern, kb, None, c, nl as isize, 1, bias);
            for i in 0..nr {
                for j in 0..nl {
                    *at(i, j) = S::narrow(*c.add(i * nl + j));
                }
            }
        }
    })
}

/// The loop nest. C and the bias are given separately because they may be scratch.
///
/// # Safety
/// As for [`part`]; `c` and `bias` must be valid for the shape of `p`.
#[allow(clippy::too_many_arguments)]
unsafe fn blocks<S: Source<T>, T: Float>(
    p: &Canon<S>,
    kern: &Kernel<T>,
    kb: usize,
    shared: Option<Packed<T>>,
    c: *mut T,
    c_row: isize,
    c_lane: isize,
    bias: *const T,
) {
    let width = 2 * kern.lanes;
    let tile_rows = p.rows.div_ceil(kern.mr);
    // As even as possible, so that no tile is nearly empty.
    let tile_height = p.rows.div_ceil(tile_rows);
    let tile_rows = p.rows.div_ceil(tile_height);
    // Rows that are not contiguous along k are packed for several tile rows at once: their
    // elements come a few from each cache line, and this uses more of every line.
    let group = if p.a_k == 1 { 1 } else { GROUP };
    // With one tile row every lane is used once: read it where it is.
    let direct = S::SAME && p.b_lane == 1 && shared.is_none();
    let single = tile_rows == 1;
    // A little wider blocks for gemv-like products: nothing is packed, only C has to stay near.
    let most = if direct && single { 4096 } else { kern.nc };
    let nb = even(p.lanes, most, width);
    let fuse = direct && !single && tile_rows <= FUSE_ROWS;
    let b_room = if shared.is_some() { 0 } else { kb * nb.min(p.lanes.next_multiple_of(kern.lanes)) + width };
    let a_room = group * kern.mr * kern.lda;
    with_scratch::<T, _>(a_room + b_room + TILE_ROWS * TILE_LANES, |buf| {
        // SAFETY: three disjoint regions of the scratch; every index below stays within the
        // extents of `p` or of the region it belongs to.
        unsafe {
            let pa = buf;
            let tile = buf.add(a_room);
            let own = tile.add(TILE_ROWS * TILE_LANES);
            for j0 in (0..p.lanes).step_by(nb) {
                let nl = nb.min(p.lanes - j0);
                let panels = nl.div_ceil(width);
                let mut k0 = 0;
                while k0 < p.k {
                    let nk = kb.min(p.k - k0);
                    let last = k0 + nk == p.k;
                    let b0 = p.b.offset(k0 as isize * p.b_k + j0 as isize * p.b_lane);
                    let pb = shared.map_or(own, |packed| packed.at(k0, j0, nk));
                    // Whole panels may be left to the first tile row; a ragged one is always
                    // packed here, because vector loads would run over the end of B.
                    let whole = if direct && (single || fuse) { nl / width * width } else { 0 };
                    if whole < nl && shared.is_none() {
                        let src = b0.offset(whole as isize * p.b_lane);
                        pack_lanes(kern, src, nk, nl - whole, p.b_k, p.b_lane, own.add(whole * nk));
                    }
                    for i in 0..tile_rows {
                        let r0 = i * tile_height;
                        let r1 = p.rows.min(r0 + tile_height);
                        let nr = r1 - r0;
                        let r2 = p.rows.min(r0 + group * tile_height);
                        if i % group == 0 {
                            let a0 = p.a.offset(r0 as isize * p.a_row + k0 as isize * p.a_k);
                            pack_rows(kern, a0, r2 - r0, tile_height, nk, p.a_row, p.a_k, pa);
                        }
                        let pa = pa.add(i % group * tile_height * nk);
                        // The next rows come from far away; fetch them during these tiles.
                        let mut ahead = Ahead::new(p, r1, p.rows.min(r1 + tile_height), k0, nk, panels);
                        for j in (0..nl).step_by(width) {
                            ahead.some();
                            let w = (nl - j).min(width);
                            let nv = if w <= kern.lanes { 1 } else { 2 };
                            let unpacked = j < whole && (i == 0 || single);
                            let to = c.offset(r0 as isize * c_row + (j0 + j) as isize * c_lane);
                            let row_bias = !bias.is_null() && p.bias_on_rows;
                            let straight = c_lane == 1 && !row_bias;
                            let bias = match () {
                                _ if bias.is_null() || !last => core::ptr::null(),
                                _ if p.bias_on_rows => bias.add(r0),
                                _ => bias.add(j0 + j),
                            };
                            let load_c = p.load_c || k0 > 0;
                            let relu = p.relu && last;
                            let mut m = Micro {
                                k: nk,
                                rows: nr,
                                nv,
                                a: pa,
                                a_kmajor: p.a_k != 1,
                                b: pb.add(j * nk),
                                b_rs: (nv * kern.lanes) as isize,
                                b_ahead: LANES_AHEAD,
                                b_copy: core::ptr::null_mut(),
                                c: to,
                                c_rs: c_row,
                                cols: w,
                                load_c,
                                bias,
                                relu,
                            };
                            if unpacked {
                                // `direct` holds, so S is T.
                                m.b = b0.add(j).cast();
                                m.b_rs = p.b_k;
                                m.b_ahead = if nk <= GEMV_STEPS { LANES_AHEAD } else { STEPS_AHEAD * p.b_k };
                                m.b_copy = if single { core::ptr::null_mut() } else { own.add(j * nk) };
                            }
                            if straight {
                                (kern.micro)(&m);
                                continue;
                            }
                            m.c = tile;
                            m.c_rs = TILE_LANES as isize;
                            m.cols = nv * kern.lanes;
                            (m.load_c, m.bias, m.relu) = (false, core::ptr::null(), false);
                            (kern.micro)(&m);
                            let t = Transposed {
                                tile,
                                ld: TILE_LANES,
                                rows: nr,
                                cols: w,
                                c: to,
                                c_cs: c_lane,
                                load_c,
                                bias,
                                relu,
                            };
                            if c_row == 1 && (bias.is_null() || p.bias_on_rows) {
                                (kern.store_transposed)(&t);
                            } else {
                                store_scattered(&t, c_row, p.bias_on_rows);
                            }
                        }
                    }
                    k0 += nk;
                }
            }
        }
    })
}

/// Prefetches the rows of the next tile row, a share at every tile of this one.
struct Ahead<S> {
    /// Next line to fetch, and how many lines are left of its row.
    next: *const S,
    left: usize,
    /// Lines per row, elements from its end to the start of the next, and rows left.
    length: usize,
    skip: isize,
    rows: usize,
    /// Lines per tile.
    share: usize,
}

impl<S: Copy> Ahead<S> {
    /// Elements of a cache line.
    const LINE: usize = 64 / size_of::<S>();

    fn new(p: &Canon<S>, r0: usize, r1: usize, k0: usize, nk: usize, tiles: usize) -> Self {
        // Only rows that are contiguous; others are packed several tile rows at a time.
        let rows = if p.a_k == 1 { r1 - r0 } else { 0 };
        let next = p.a.wrapping_offset(r0 as isize * p.a_row + k0 as isize * p.a_k);
        let lines = nk.div_ceil(Self::LINE);
        let skip = p.a_row - (lines * Self::LINE) as isize;
        Ahead { next, left: lines, length: lines, skip, rows, share: (rows * lines).div_ceil(tiles) }
    }

    #[inline]
    fn some(&mut self) {
        for _ in 0..self.share {
            if self.rows == 0 {
                return;
            }
            prefetch_l2(self.next);
            self.next = self.next.wrapping_add(Self::LINE);
            self.left -= 1;
            if self.left == 0 {
                self.next = self.next.wrapping_offset(self.skip);
                self.left = self.length;
                self.rows -= 1;
            }
        }
    }
}

/// Above this many tile rows, packing is too small a share to be worth fusing, and reading B
/// along its rows (as separate packing does) is kinder to the TLB.
const FUSE_ROWS: usize = 12;

/// Packs `lanes x nk` elements of the lane side into panels two vectors wide (the last one
/// vector, if that suffices), one after the other.
///
/// # Safety
/// The source must be readable in that extent, and `dst` writable for `lanes`, rounded up to
/// whole vectors, times `nk` elements.
pub(crate) unsafe fn pack_lanes<S: Source<T>, T: Float>(
    kern: &Kernel<T>,
    src: *const S,
    nk: usize,
    lanes: usize,
    k_stride: isize,
    lane_stride: isize,
    dst: *mut T,
) {
    let panel = 2 * kern.lanes;
    let tail = (lanes - 1) % panel + 1;
    let last = if tail <= kern.lanes { kern.lanes } else { panel };
    // SAFETY: all accesses stay within the extents the caller promised.
    unsafe {
        if S::SAME && (lane_stride == 1 || k_stride == 1) {
            let p = PackLanes { src: src.cast(), k: nk, lanes, k_stride, lane_stride, dst, panel, last };
            return (kern.pack_lanes)(&p);
        }
        for l in (0..lanes).step_by(panel) {
            let n = panel.min(lanes - l);
            let w = if l + panel < lanes { panel } else { last };
            let s = src.offset(l as isize * lane_stride);
            let d = dst.add(l * nk);
            if k_stride == 1 {
                // Convert runs along k, then transpose with the fast kernel.
                with_scratch::<T, _>(n * nk, |stage| {
                    for j in 0..n {
                        S::widen_run(s.offset(j as isize * lane_stride), nk, stage.add(j * nk));
                    }
                    let lane_stride = nk as isize;
                    (kern.pack_lanes)(&PackLanes {
                        src: stage,
                        k: nk,
                        lanes: n,
                        k_stride: 1,
                        lane_stride,
                        dst: d,
                        panel,
                        last: w,
                    });
                });
                continue;
            }
            for k in 0..nk {
                let (s, d) = (s.offset(k as isize * k_stride), d.add(k * w));
                if lane_stride == 1 {
                    S::widen_run(s, n, d);
                } else {
                    for j in 0..n {
                        *d.add(j) = (*s.offset(j as isize * lane_stride)).widen();
                    }
                }
                for j in n..w {
                    *d.add(j) = T::ZERO;
                }
            }
        }
    }
}

/// Packs `rows` rows, for tiles of `height` rows. If they are contiguous along `k` they are
/// copied as they are, `lda` apart; otherwise every tile becomes k-major, and the tiles follow
/// each other without gaps.
///
/// # Safety
/// The source must be readable for `rows x nk`, and `dst` writable for `rows * lda` elements.
#[allow(clippy::too_many_arguments)]
unsafe fn pack_rows<S: Source<T>, T: Float>(
    kern: &Kernel<T>,
    src: *const S,
    rows: usize,
    height: usize,
    nk: usize,
    row_stride: isize,
    k_stride: isize,
    dst: *mut T,
) {
    // SAFETY: all accesses stay within the extents the caller promised.
    unsafe {
        if k_stride == 1 {
            for i in 0..rows {
                S::widen_run(src.offset(i as isize * row_stride), nk, dst.add(i * kern.lda));
            }
            return;
        }
        if row_stride == 1 && S::SAME {
            let last = (rows - 1) % height + 1;
            return (kern.pack_lanes)(&PackLanes {
                src: src.cast(),
                k: nk,
                lanes: rows,
                k_stride,
                lane_stride: 1,
                dst,
                panel: height,
                last,
            });
        }
        for r in (0..rows).step_by(height) {
            let n = height.min(rows - r);
            for k in 0..nk {
                let s = src.offset(r as isize * row_stride + k as isize * k_stride);
                let d = dst.add(r * nk + k * n);
                if row_stride == 1 {
                    S::widen_run(s, n, d);
                } else {
                    for i in 0..n {
                        *d.add(i) = (*s.offset(i as isize * row_stride)).widen();
                    }
                }
            }
        }
    }
}

/// Moves a finished tile to a C with any strides.
///
/// # Safety
/// As for [`Transposed`], with element (row, col) of C at `row * c_rs + col * c_cs`.
unsafe fn store_scattered<T: Float>(t: &Transposed<T>, c_rs: isize, bias_on_rows: bool) {
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
