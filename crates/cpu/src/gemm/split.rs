//! Divides products among threads. The division never touches `k`, so it cannot change results.

use super::canon::{Batch, Canon};
use super::micro::Kernel;
use super::source::{Float, Source};
use super::{dots, drive, ints, parallel};

/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 200_000;
/// Multiply-adds per part: enough to make the hand-over of a part negligible, and several
/// parts per thread, because cores are rarely equally free.
const PART: usize = 1_500_000;

/// A product cut into `rows x lanes` parts.
struct Grid {
    row_size: usize,
    lane_size: usize,
    row_parts: usize,
    lane_parts: usize,
}

impl Grid {
    /// Cuts each product of a batch so that together they give about `want` parts.
    fn new<S>(p: &Canon<S>, want: usize, row_unit: usize, lane_unit: usize) -> Grid {
        // Lanes first: cutting those duplicates only the cheap packing, that of the rows.
        let lane_parts = want.min(p.lanes.div_ceil(2 * lane_unit)).max(1);
        let lane_size = drive::even(p.lanes, p.lanes.div_ceil(lane_parts), lane_unit);
        let lane_parts = p.lanes.div_ceil(lane_size);
        let row_parts = want.div_ceil(lane_parts).min(p.rows.div_ceil(row_unit)).max(1);
        let row_size = p.rows.div_ceil(row_parts);
        Grid { row_size, lane_size, row_parts: p.rows.div_ceil(row_size), lane_parts }
    }

    fn part<S>(&self, p: &Canon<S>, i: usize) -> ((usize, usize), (usize, usize)) {
        let (r, l) = (i % self.row_parts * self.row_size, i / self.row_parts * self.lane_size);
        ((r, (r + self.row_size).min(p.rows)), (l, (l + self.lane_size).min(p.lanes)))
    }
}

/// Runs `each` for all parts of all products, in parallel if there is enough to do.
fn run<S: Copy + Send + Sync>(
    p: &Canon<S>,
    batch: &Batch<'_>,
    cost: usize,
    units: (usize, usize),
    each: &(dyn Fn(usize, (usize, usize), (usize, usize)) + Sync),
) {
    let work = p.rows.saturating_mul(p.lanes).saturating_mul(p.k.max(1)).saturating_mul(cost);
    let all = work.saturating_mul(batch.count);
    let threads = if all < SERIAL { 1 } else { rayon::current_num_threads() };
    let want = if threads == 1 { 1 } else { (all / PART).clamp(threads, 4 * threads) };
    let grid = Grid::new(p, want.div_ceil(batch.count), units.0, units.1);
    let per = grid.row_parts * grid.lane_parts;
    let parts = per * batch.count;
    // Many tiny products are handed out in groups.
    let group = if threads == 1 { parts } else { parts.div_ceil(16 * threads).max(1) };
    parallel::for_each(parts.div_ceil(group), threads, &|g| {
        for i in g * group..((g + 1) * group).min(parts) {
            let (rows, lanes) = grid.part(p, i % per);
            each(i / per, rows, lanes);
        }
    });
}

/// # Safety
/// Pointers and strides must be valid for every product, and `kern` runnable.
pub(crate) unsafe fn floats<S: Source<T>, T: Float>(p: Canon<S>, batch: Batch<'_>, kern: &Kernel<T>) {
    if p.k == 0 {
        for i in 0..batch.count {
            // SAFETY: the caller's promise.
            unsafe { p.nth(&batch, i).empty() }
        }
        return;
    }
    if S::SAME && dots::suits(&p) {
        // SAFETY: S is T, so this is a cast of a type to itself.
        let p: Canon<T> = unsafe { core::mem::transmute_copy(&p) };
        run(&p, &batch, 1, (32, 32), &|i, rows, lanes| {
            // SAFETY: the caller's promise; parts and products have disjoint C.
            unsafe { dots::part(&p.nth(&batch, i), kern, rows, lanes) }
        });
        return;
    }
    let swapped = p.swapped();
    let swap = swapped.cost(kern) < p.cost(kern);
    let q = if swap { swapped } else { p };
    run(&q, &batch, 1, (4 * kern.mr, kern.lanes), &|i, rows, lanes| {
        // SAFETY: as above.
        unsafe {
            let q = p.nth(&batch, i);
            let q = if swap { q.swapped() } else { q };
            // Half floats need room for a part in f32: take it in pieces that fit the cache.
            let (nr, nl) = if S::SAME { (usize::MAX, usize::MAX) } else { (512, 256) };
            let mut l = lanes.0;
            while l < lanes.1 {
                let l1 = lanes.1.min(l.saturating_add(nl));
                let mut r = rows.0;
                while r < rows.1 {
                    let r1 = rows.1.min(r.saturating_add(nr));
                    drive::part(&q, kern, (r, r1), (l, l1));
                    r = r1;
                }
                l = l1;
            }
        }
    });
}

/// # Safety
/// Pointers and strides must be valid for every product.
pub(crate) unsafe fn ints<T: ints::Int>(p: Canon<T>, batch: Batch<'_>) {
    if p.k == 0 {
        for i in 0..batch.count {
            // SAFETY: the caller's promise.
            unsafe { p.nth(&batch, i).empty() }
        }
        return;
    }
    run(&p, &batch, 8, (4, 128), &|i, rows, lanes| {
        // SAFETY: the caller's promise; parts and products have disjoint C.
        unsafe { T::part(&p.nth(&batch, i), rows, lanes) }
    });
}
