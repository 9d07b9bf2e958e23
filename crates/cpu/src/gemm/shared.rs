//! Large products with many rows: all threads together pack the lane side once, and then take parts of the rows.
//!
//! Cutting such a product into a grid instead (see `split`) packs every lane once per part of the rows, so there have
//! to be few parts, and the thread that gets the last one keeps the others waiting. Here parts are small and cost
//! nothing extra. The price is one more synchronization of the threads, which smaller products would notice.

use core::sync::atomic::{AtomicUsize, Ordering::*};

use super::{
    blocked,
    kernel::Kernel,
    pack::{PackedLanes, pack_lanes},
    problem::GemmProblem,
    scratch::with_scratch,
    source::{Float, Source},
};
use crate::engine::team;

/// Multiply-adds from which a second synchronization of the threads is cheap.
const WORTH: usize = 30_000_000;
/// Minimum number of tile rows for each thread.
const TILE_ROWS: usize = 8;
/// Minimum rows of a part: enough to make fetching the packed lanes into this core's cache a small share.
const MIN_ROWS: usize = 12;
/// Maximum rows of a part.
const MAX_ROWS: usize = 128;
/// Of the rows that are left a part is at most one of so many parts per thread.
const PARTS: usize = 2;
/// Maximum number of elements packed at a time.
pub(crate) const ROOM: usize = 4 << 20;

/// Increments the counter when dropped, also by a panic, so that no thread waits forever.
struct Count<'a>(&'a AtomicUsize);
impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}

/// The rows of each part, in whole tile rows but for the end. The parts become smaller towards the end, since threads wait for the
/// last one, and one that something else slows down has taken fewer by then.
fn parts(rows: usize, tile: usize, threads: usize) -> Vec<(usize, usize)> {
    let (all, fewest) = (rows.div_ceil(tile), MIN_ROWS.div_ceil(tile));
    let most = (MAX_ROWS / tile).max(fewest);
    let mut parts = Vec::new();
    let mut first = 0;
    while first < all {
        let left = all - first;
        let size = left.div_ceil(PARTS * threads).clamp(fewest, most).min(left);
        // What would be too small is divided among the last two.
        let size = if left > size && left - size < fewest { left.div_ceil(2) } else { size };
        parts.push((first * tile, rows.min((first + size) * tile)));
        first += size;
    }
    parts
}

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
/// Pointers and strides must be valid, `k` not 0, S must be T, and `kern` runnable.
pub(crate) unsafe fn product<S: Source<T>, T: Float>(p: &GemmProblem<S>, kern: &Kernel<T>, room: usize) {
    let threads = rayon::current_num_threads();
    let panel = 2 * kern.lanes;
    let kb = blocked::k_block(p, kern);
    let block = blocked::block_size(p.lanes, (room / p.k).max(kern.lanes_per_block()), panel);
    for l0 in (0..p.lanes).step_by(block) {
        let lanes = block.min(p.lanes - l0);
        let width = lanes.next_multiple_of(kern.lanes);
        with_scratch::<T, _>(width * p.k, |start| {
            let packed = PackedLanes { start, width };
            let run = blocked::block_size(lanes, lanes.div_ceil(2 * threads), panel);
            let runs = lanes.div_ceil(run);
            let packs = runs * p.k.div_ceil(kb);
            let parts = parts(p.rows, kern.mr, threads);
            // One queue for both: tasks are taken in order, so a thread that waits for the packing waits only for tasks
            // that other threads are already running.
            let done = AtomicUsize::new(0);
            team::for_each(packs + parts.len(), threads, &|i| {
                if i < packs {
                    let _done = Count(&done);
                    let (k0, l) = (i / runs * kb, i % runs * run);
                    let nk = kb.min(p.k - k0);
                    // SAFETY: the source lies inside B; every task writes lanes and steps of its own of the scratch,
                    // which outlives `for_each`. All runs but the last are whole panels, so they join without gaps.
                    unsafe {
                        let from = p.b.offset(k0 as isize * p.b_k + (l0 + l) as isize * p.b_lane);
                        let to = packed.at(k0, l, nk);
                        pack_lanes(kern, from, nk, run.min(lanes - l), p.b_k, p.b_lane, to);
                    }
                    return;
                }
                team::wait_until(|| done.load(Acquire) == packs);
                let rows = parts[i - packs];
                // SAFETY: the caller's promise; parts have disjoint rows of C, and the lanes are packed: the load
                // above has seen the end of every packing task.
                unsafe { blocked::part(p, kern, rows, (l0, l0 + lanes), Some(packed)) }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_rows_and_become_smaller() {
        for (rows, tile, threads) in
            [(512, 6, 2), (512, 14, 2), (2048, 6, 16), (97, 6, 2), (1, 14, 3), (24, 6, 1), (1000, 1, 4)]
        {
            let parts = parts(rows, tile, threads);
            assert_eq!((parts[0].0, parts[parts.len() - 1].1), (0, rows));
            assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0 && pair[1].0 % tile == 0), "{parts:?}");
            let size = |&(first, end): &(usize, usize)| end - first;
            assert!(parts.windows(2).all(|pair| size(&pair[0]) >= size(&pair[1])), "{parts:?}");
            assert!(parts.iter().all(|part| size(part) <= MAX_ROWS), "{parts:?}");
        }
    }
}
