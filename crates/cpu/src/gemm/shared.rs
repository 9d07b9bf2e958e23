//! Large products with many rows: all threads together pack the lane side once, and then take parts of the rows.
//!
//! Cutting such a product into a grid instead (see `split`) packs every lane once per part of the rows, so there have
//! to be few parts, and the thread that gets the last one keeps the others waiting. Here parts are small and cost
//! nothing extra. The price is one more synchronization of the threads, which smaller products would notice.

use super::{
    blocked,
    kernel::Kernel,
    pack::{PackedLanes, pack_lanes},
    parts::{WORTH, parts},
    problem::GemmProblem,
    scratch::with_scratch,
    source::{Float, Source},
};
use crate::engine::team;

/// Minimum number of tile rows for each thread.
const TILE_ROWS: usize = 8;
/// Minimum rows of a part: enough to make fetching the packed lanes into this core's cache a small share.
const MIN_ROWS: usize = 12;
/// Maximum rows of a part.
const MAX_ROWS: usize = 128;
/// Maximum number of elements packed at a time.
pub(crate) const ROOM: usize = 4 << 20;

/// Whether a product is large enough, with rows enough for several parts per thread.
pub(crate) fn suits<S, T>(p: &GemmProblem<S>, kern: &Kernel<T>) -> bool {
    let threads = rayon::current_num_threads();
    threads > 1
        && p.rows >= threads * TILE_ROWS * kern.mr
        && p.rows.saturating_mul(p.lanes).saturating_mul(p.k) >= WORTH
}

/// Computes a product, packing about `room` elements of the lane side at a time.
///
/// # Safety
/// Pointers and strides must be valid, no extent 0, S must be T, and `kern` runnable.
pub(crate) unsafe fn product<S: Source<T>, T: Float>(p: &GemmProblem<S>, kern: &Kernel<T>, room: usize) {
    let threads = rayon::current_num_threads();
    let panel = 2 * kern.lanes;
    let kb = blocked::k_block(p, kern);
    let block = blocked::block_size(p.lanes, (room / p.k).max(kern.lanes_per_block(kb)), panel);
    for l0 in (0..p.lanes).step_by(block) {
        let lanes = block.min(p.lanes - l0);
        let width = lanes.next_multiple_of(kern.lanes);
        with_scratch::<T, _>(width * p.k, |start| {
            let packed = PackedLanes { start, width, steps: kb };
            let run = blocked::block_size(lanes, lanes.div_ceil(2 * threads), panel);
            let blocks = p.k.div_ceil(kb);
            let packs = lanes.div_ceil(run) * blocks;
            let least = MIN_ROWS.div_ceil(kern.mr);
            let parts = parts(p.rows.div_ceil(kern.mr), threads, least, (MAX_ROWS / kern.mr).max(least));
            team::for_each(packs, threads, &|i| {
                let (k0, l) = (i % blocks * kb, i / blocks * run);
                let nk = kb.min(p.k - k0);
                // SAFETY: the source lies inside B; every task writes lanes and steps of its own of the scratch, which
                // outlives `for_each`. All runs but the last are whole panels, so they join without gaps.
                unsafe {
                    let from = p.b.offset(k0 as isize * p.b_k + (l0 + l) as isize * p.b_lane);
                    let to = packed.at(k0, l, nk);
                    pack_lanes(kern, from, nk, run.min(lanes - l), p.b_k, p.b_lane, to);
                }
            });
            team::for_each(parts.len(), threads, &|i| {
                let rows = (parts[i].start * kern.mr, p.rows.min(parts[i].end * kern.mr));
                if rows.0 < rows.1 {
                    // SAFETY: the caller's promise; parts have disjoint rows of C, and the lanes are packed.
                    unsafe { blocked::part(p, kern, rows, (l0, l0 + lanes), Some(packed)) }
                }
            });
        });
    }
}
