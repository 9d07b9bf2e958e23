//! Attention forward: for each block of keys, scores, weights and weighted sums of values, a tile of queries at a time.

use std::ops::Range;

use kiln_backend::{AttentionArgs, Result};

use super::{
    OP,
    problem::{Element, Place, Problem, matrix},
    products::{Lanes, Room, RowTile, To, multiply, pack_lanes, pack_rows, scores_as_rows, tiled, whole},
    rows,
};
use crate::{
    engine::{
        fold::leaf,
        par,
        tile::{steps, store_row},
    },
    memory::view::Target,
    numeric::{real::Real, stored::Stored},
    ops::reduce::Largest,
};

/// The fewest queries for which a task packs the keys and values of a head once more.
const FEWEST: usize = 252;
/// Tasks for each thread, since cores are rarely equally loaded.
const PARTS: usize = 4;

pub(super) fn typed<S: Element>(args: AttentionArgs) -> Result<()> {
    let AttentionArgs { query, key, value, rule, out, log_sum } = args;
    let problem = Problem::<S>::new([query, key, value], rule)?;
    let (out, log_sum) = (Target::<S>::new(OP, out)?, Target::<S::Compute>::new(OP, log_sum)?);
    let Problem { kern, samples, heads, queries, .. } = problem;
    let all = samples * heads;
    if all == 0 || queries == 0 {
        return Ok(());
    }
    // Each query is computed alike wherever its task begins.
    let threads = rayon::current_num_threads();
    let want = if threads == 1 { 1 } else { (PARTS * threads).div_ceil(all) };
    let per_task = queries.div_ceil(want).max(FEWEST).min(queries).next_multiple_of(kern.mr);
    let parts = queries.div_ceil(per_task);
    par::try_ranges(all * parts, problem.grain(per_task), |tasks| {
        let mut task = Task::new(&problem, per_task.min(queries))?;
        for i in tasks {
            let (head, first) = (i / parts, i % parts * per_task);
            // SAFETY: every task has queries of its own.
            unsafe { task.run(head / heads, head % heads, first..queries.min(first + per_task), &out, &log_sum) }
        }
        Ok(())
    })
}

/// What a thread works with.
struct Task<'p, 'a, S: Element> {
    problem: &'p Problem<'a, S>,
    _room: Room<S::Compute>,
    /// Keys of a block.
    block: usize,
    /// The queries of the task, packed as rows.
    queries: *mut S::Compute,
    /// The keys and values of a block, packed as lanes.
    keys: *mut S::Compute,
    values: *mut S::Compute,
    /// The scores of a tile of queries, `lda` apart; and room for the same ones k-major.
    scores: *mut S::Compute,
    turned: *mut S::Compute,
    /// The sums of each query: weighted values, `pitch` apart, the largest score so far and the sum of exponentials.
    sums: *mut S::Compute,
    pitch: usize,
    largest: *mut S::Compute,
    total: *mut S::Compute,
}

impl<'p, 'a, S: Element> Task<'p, 'a, S> {
    fn new(problem: &'p Problem<'a, S>, rows: usize) -> Result<Self> {
        let Problem { kern, features, values, keys, .. } = *problem;
        let block = kern.kc.min(whole(kern, keys.max(1)));
        let pitch = whole(kern, values);
        let turned = if kern.row_major { 0 } else { kern.mr * kern.lda };
        let parts = [
            tiled(kern, rows) * features,
            block * features,
            block * pitch,
            kern.mr * kern.lda,
            turned,
            rows * pitch,
            rows,
            rows,
        ];
        let mut room = Room::new(&parts)?;
        let [queries, packed_keys, packed_values, scores, turned, sums, largest, total] =
            parts.map(|len| room.take(len));
        Ok(Task {
            problem,
            _room: room,
            block,
            queries,
            keys: packed_keys,
            values: packed_values,
            scores,
            turned,
            sums,
            pitch,
            largest,
            total,
        })
    }

    /// Computes some queries of a head.
    ///
    /// # Safety
    /// There are no more of them than the task was made for, and no other thread accesses their results.
    unsafe fn run(
        &mut self,
        sample: usize,
        head: usize,
        rows: Range<usize>,
        out: &Target<'_, S>,
        log_sum: &Target<'_, S::Compute>,
    ) {
        let problem = self.problem;
        let Problem { kern, features, values, .. } = *problem;
        let group = head * problem.groups / problem.heads;
        let (query, key, value) = (
            matrix(&problem.query, sample, head),
            matrix(&problem.key, sample, group),
            matrix(&problem.value, sample, group),
        );
        let visible = problem.visible_keys(rows.end - 1);
        // SAFETY: rows and blocks of rows of the operands, whose extents the contract has checked; what they are packed into is
        // as large as `new` says.
        unsafe {
            pack_rows(kern, query.skip_rows(rows.start), rows.len(), features, problem.scale, self.queries);
            std::slice::from_raw_parts_mut(self.largest, rows.len()).fill(S::Compute::of(f64::NEG_INFINITY));
            std::slice::from_raw_parts_mut(self.total, rows.len()).fill(S::Compute::of(0.0));
            for keys in steps(0..visible, self.block) {
                pack_lanes(kern, key.skip_rows(keys.start), false, keys.len(), features, self.keys);
                pack_lanes(kern, value.skip_rows(keys.start), true, values, keys.len(), self.values);
                for tile in steps(0..rows.len(), kern.mr) {
                    let first = rows.start + tile.start;
                    let end = keys.end.min(problem.visible_keys(rows.start + tile.end - 1));
                    if end > keys.start {
                        let place = Place { sample, head, query: first, first_key: keys.start };
                        self.tile(place, tile, end - keys.start, keys.len());
                    }
                }
            }
            self.finish(sample, head, rows, out, log_sum);
        }
    }

    /// Adds the first `keys` of a block of `packed` ones to the sums of a tile of queries, which begins at `place` and is the
    /// part `tile` of those of the task.
    ///
    /// # Safety
    /// They are packed.
    unsafe fn tile(&mut self, place: Place, tile: Range<usize>, keys: usize, packed: usize) {
        let Problem { kern, features, values, .. } = *self.problem;
        let rows = tile.len();
        let query = RowTile {
            start: self.queries.wrapping_add(tile.start * features).cast_const(),
            rows,
            height: kern.height(rows),
            is_kmajor: true,
        };
        let sums = self.sums.wrapping_add(tile.start * self.pitch);
        // SAFETY: the parts of the room are as large as `new` says, and everything that is read was written: scores up to
        // `keys` by the first product, sums by the last one of the block before.
        unsafe {
            let scores = To { start: self.scores, pitch: kern.lda, accumulate: false };
            multiply(kern, features, query, Lanes::Packed(self.keys, packed, features), keys, scores);
            for row in 0..rows {
                let scores = std::slice::from_raw_parts_mut(self.scores.add(row * kern.lda), keys);
                let place = Place { query: place.query + row, ..place };
                let i = tile.start + row;
                let weighted = std::slice::from_raw_parts_mut(sums.add(row * self.pitch), self.pitch);
                let (largest, total) = (&mut *self.largest.add(i), &mut *self.total.add(i));
                self.weights(place, scores, (largest, total), (place.first_key > 0).then_some(weighted));
            }
            let weights = scores_as_rows(kern, self.scores, rows, keys, self.turned);
            let to = To { start: sums, pitch: self.pitch, accumulate: place.first_key > 0 };
            multiply(kern, keys, weights, Lanes::Packed(self.values, values, packed), values, to);
        }
    }

    /// Turns a row of scores into weights that do not add up to 1 yet, and brings the sums of the blocks before to the same
    /// scale.
    fn weights(
        &self,
        place: Place,
        scores: &mut [S::Compute],
        (largest, total): (&mut S::Compute, &mut S::Compute),
        weighted: Option<&mut [S::Compute]>,
    ) {
        let problem = self.problem;
        let (zero, one) = (S::Compute::of(0.0), S::Compute::of(1.0));
        let visible = problem.visible_keys(place.query).saturating_sub(place.first_key).min(scores.len());
        let (scores, hidden) = scores.split_at_mut(visible);
        hidden.fill(zero);
        problem.mask(place, scores);
        let lowest = S::Compute::of(f64::NEG_INFINITY);
        let new = steps(0..visible, 1024)
            .map(|range| leaf::<Largest<_>>(&scores[range], zero))
            .fold(*largest, |a, b| a.maximum(b));
        // Without a visible key so far, every weight is to be 0 rather than NaN.
        let shift = if new == lowest { zero } else { new };
        let factor = if *largest == new { one } else { (*largest - shift).exp() };
        *total = *total * factor + rows::exponentials(scores, shift);
        *largest = new;
        if let Some(weighted) = weighted
            && factor != one
        {
            rows::scale(factor, weighted);
        }
        problem.drop_some(place, scores);
    }

    /// Divides by the sums of exponentials, and writes the results.
    ///
    /// # Safety
    /// As for [`run`](Task::run).
    unsafe fn finish(
        &mut self,
        sample: usize,
        head: usize,
        rows: Range<usize>,
        out: &Target<'_, S>,
        log_sum: &Target<'_, S::Compute>,
    ) {
        let zero = S::Compute::of(0.0);
        let (strides, log_strides) = (out.layout().strides(), log_sum.layout().strides());
        for (i, query) in rows.enumerate() {
            // SAFETY: results of the task's own queries, in layouts that were checked; the sums have as many values.
            unsafe {
                let total = *self.total.add(i);
                let row = std::slice::from_raw_parts_mut(self.sums.add(i * self.pitch), self.problem.values);
                if total == zero {
                    row.fill(zero);
                } else {
                    rows::divide(total, row);
                }
                let at = |strides: &[isize]| {
                    [sample, head, query].iter().zip(strides).map(|(&at, stride)| at as isize * stride).sum::<isize>()
                };
                store_row(row, out.ptr().offset(at(strides)), strides[3]);
                let log = if total == zero { S::Compute::INFINITY } else { *self.largest.add(i) + total.ln() };
                log_sum.ptr().offset(at(log_strides)).write(S::Compute::store(log));
            }
        }
    }
}
