//! Divides products among threads. The division never touches `k`, so it cannot change results.

use super::kernel::Kernel;
use super::problem::{Batch, GemmProblem};
use super::source::{Float, Source};
use super::{blocked, dots, ints, own_lanes, shared};
use crate::engine::team;

/// Multiply-adds below which waking another thread costs more than it saves.
const SERIAL: usize = 600_000;
/// Multiply-adds per part: enough to make handing out a part negligible, with several parts per thread, since cores are
/// rarely equally loaded.
const PART: usize = 4_000_000;

/// Minimum sizes of a part, and the vector size that its lanes are counted in.
struct Unit {
    rows: usize,
    lanes: usize,
    vector: usize,
}

/// A product cut into `row_parts x lane_parts` parts.
struct Grid {
    row_parts: usize,
    lane_parts: usize,
    /// Number of vectors of lanes, and lanes per vector.
    vectors: usize,
    vector: usize,
}

impl Grid {
    /// Cuts a product into about `want` parts.
    fn new<S>(p: &GemmProblem<S>, want: usize, unit: &Unit) -> Grid {
        // Every row is packed once per part of the lanes, and every lane once per part of the rows: of the grids with
        // enough parts, choose the one that packs least. Rows count double, because they are gathered a few at a time.
        let (most_rows, most_lanes) = ((p.rows / unit.rows).max(1), (p.lanes / unit.lanes).max(1));
        let grid = |lane_parts: usize| (want.div_ceil(lane_parts).min(most_rows), lane_parts);
        let (row_parts, lane_parts) = (1..=want.min(most_lanes))
            .map(grid)
            .min_by_key(|&(r, l)| (want.saturating_sub(r * l), 2 * p.rows * l + p.lanes * r))
            .unwrap_or((1, 1));
        Grid { row_parts, lane_parts, vectors: p.lanes.div_ceil(unit.vector), vector: unit.vector }
    }

    /// Rows and lanes of part `i`. Sizes differ by at most one row or vector.
    fn part<S>(&self, p: &GemmProblem<S>, i: usize) -> ((usize, usize), (usize, usize)) {
        let (r, l) = (i % self.row_parts, i / self.row_parts);
        let row = |r: usize| r * p.rows / self.row_parts;
        let lane = |l: usize| (l * self.vectors / self.lane_parts * self.vector).min(p.lanes);
        ((row(r), row(r + 1)), (lane(l), lane(l + 1)))
    }
}

/// Runs `each` for all parts of all products, in parallel if there is enough to do.
fn run<S: Copy + Send + Sync>(
    p: &GemmProblem<S>,
    batch: &Batch<'_>,
    cost: usize,
    unit: &Unit,
    each: &(dyn Fn(usize, (usize, usize), (usize, usize)) + Sync),
) {
    let work = p.rows.saturating_mul(p.lanes).saturating_mul(p.k.max(1)).saturating_mul(cost);
    let all = work.saturating_mul(batch.count);
    let threads = if all < SERIAL { 1 } else { rayon::current_num_threads() };
    // A multiple of the number of threads, so that they can finish together.
    let want = (all / PART / threads).clamp(1, 2) * threads;
    let grid = Grid::new(p, if threads == 1 { 1 } else { want.div_ceil(batch.count) }, unit);
    let per = grid.row_parts * grid.lane_parts;
    let parts = per * batch.count;
    // Many tiny products are handed out in groups.
    let group = if threads == 1 { parts } else { parts.div_ceil(16 * threads).max(1) };
    team::for_each(parts.div_ceil(group), threads, &|g| {
        for i in g * group..((g + 1) * group).min(parts) {
            let (rows, lanes) = grid.part(p, i % per);
            each(i / per, rows, lanes);
        }
    });
}

/// Estimated cycles of a product in this orientation. It only has to rank the two orientations, so a rough estimate is
/// enough.
fn cost<S, T>(p: &GemmProblem<S>, kern: &Kernel<T>) -> f64 {
    let (r, l, k) = (p.rows as f64, p.lanes as f64, p.k as f64);
    let vectors = (l / kern.lanes as f64).ceil();
    // Two FMAs per cycle, but a tile with few rows is bound by the latency of FMA.
    let compute = vectors * r.max(4.0) * k / 2.0;
    let pack_lanes = match (p.b_lane, p.b_k) {
        (1, _) if p.rows <= kern.mr => 0.0,
        (1, _) => 0.1,
        (_, 1) => 0.5,
        _ => 2.0,
    };
    let pack_rows = match (p.a_k, p.a_row) {
        (1, _) => 0.1,
        (_, 1) => 0.2,
        _ => 2.0,
    };
    let store = match (p.c_lane, p.c_row) {
        (1, _) => 0.15,
        (_, 1) => 0.6,
        _ => 2.0,
    };
    let (k_blocks, l_blocks) = ((k / kern.kc as f64).ceil(), (l / kern.lanes_per_block(kern.kc) as f64).ceil());
    compute + pack_lanes * l * k + pack_rows * r * k * l_blocks + store * r * l * k_blocks
}

/// # Safety
/// Pointers and strides must be valid for every product, and `kern` runnable.
pub(crate) unsafe fn floats<S: Source<T>, T: Float>(p: GemmProblem<S>, batch: Batch<'_>, kern: &Kernel<T>) {
    if p.k == 0 {
        for i in 0..batch.count {
            // SAFETY: the caller's promise.
            unsafe { p.nth(&batch, i).empty() }
        }
        return;
    }
    if S::SAME && dots::suits(&p) {
        // SAFETY: S is T, so this is a cast of a type to itself.
        let p: GemmProblem<T> = unsafe { core::mem::transmute_copy(&p) };
        run(&p, &batch, 1, &Unit { rows: 32, lanes: 32, vector: 4 }, &|i, rows, lanes| {
            // SAFETY: the caller's promise; parts and products have disjoint C.
            unsafe { dots::part(&p.nth(&batch, i), kern, rows, lanes) }
        });
        return;
    }
    let swapped = p.swapped();
    let swap = cost(&swapped, kern) < cost(&p, kern);
    let q = if swap { swapped } else { p };
    if S::SAME && batch.count == 1 {
        // SAFETY: the caller's promise.
        let p = unsafe { p.nth(&batch, 0) };
        let q = if swap { p.swapped() } else { p };
        // SAFETY: as above, and S is T.
        unsafe {
            if own_lanes::suits(&q, kern) {
                return own_lanes::product(&q, kern);
            }
            if shared::suits(&q, kern) {
                return shared::product(&q, kern, shared::ROOM);
            }
        }
    }
    // Below these sizes, packing that is repeated for every part would cost several percent.
    let unit = Unit { rows: 8 * kern.mr, lanes: 4 * kern.lanes, vector: kern.lanes };
    run(&q, &batch, 1, &unit, &|i, rows, lanes| {
        // SAFETY: as above.
        unsafe {
            let q = p.nth(&batch, i);
            let q = if swap { q.swapped() } else { q };
            // Half-precision output needs room for a part in f32, so it is taken in pieces that fit the cache.
            let (nr, nl) = if S::SAME { (usize::MAX, usize::MAX) } else { (512, 256) };
            let mut l = lanes.0;
            while l < lanes.1 {
                let l1 = lanes.1.min(l.saturating_add(nl));
                let mut r = rows.0;
                while r < rows.1 {
                    let r1 = rows.1.min(r.saturating_add(nr));
                    blocked::part(&q, kern, (r, r1), (l, l1), None);
                    r = r1;
                }
                l = l1;
            }
        }
    });
}

/// # Safety
/// Pointers and strides must be valid for every product.
pub(crate) unsafe fn ints<T: ints::Int>(p: GemmProblem<T>, batch: Batch<'_>) {
    if p.k == 0 {
        for i in 0..batch.count {
            // SAFETY: the caller's promise.
            unsafe { p.nth(&batch, i).empty() }
        }
        return;
    }
    run(&p, &batch, 8, &Unit { rows: 4, lanes: 128, vector: 32 }, &|i, rows, lanes| {
        // SAFETY: the caller's promise; parts and products have disjoint C.
        unsafe { T::part(&p.nth(&batch, i), rows, lanes) }
    });
}
