//! The gradients of attention: for each block of keys, the scores of all queries once more, a block of queries at a time.
//!
//! With weights `P = exp(scale * Q Kᵀ - log_sum)`, the result `O = P V` and its gradient `dO`:
//! `dV = Pᵀ dO`, `dP = dO Vᵀ`, `dS = P (dP - rowsum(dO O))`, `dQ = scale * dS K`, `dK = scale * dSᵀ Q`.
//! Gradients of keys and values are computed transposed: then `P` and `dS` are right operands that are read where they are.

use std::ops::Range;

use kiln_backend::{AttentionGradArgs, Result};

use super::{
    OP,
    problem::{Element, Place, Problem, matrix},
    products::{
        Lanes, Room, RowTile, To, multiply, multiply_tiles, pack_lanes, pack_rows, panel, scores_as_rows, tiled, whole,
    },
    rows,
};
use crate::{
    engine::{
        par::{self, Shared},
        tile::{load_row, steps, store_row},
    },
    gemm::{
        Matrix,
        kernel::{Kernel, TransposedTile},
    },
    memory::{
        allocator::Scratch,
        view::{Source, Target},
    },
    numeric::real::Real,
};

/// About as many queries are a block: enough that adding up gradients of keys takes little of the time of their products.
const QUERIES: usize = 128;
/// Where there are fewer heads of keys in all samples than this, heads are divided into parts of keys, which then have sums of
/// their own for the gradients of the queries. A number of threads must not come in here, since it would decide the order of
/// those sums.
const TASKS: usize = 16;
/// The fewest keys of a part.
const FEWEST: usize = 1024;

pub(super) fn typed<S: Element>(args: AttentionGradArgs) -> Result<()> {
    let AttentionGradArgs { grad, query, key, value, rule, out, log_sum, query_grad, key_grad, value_grad } = args;
    let backward = Backward {
        problem: Problem::<S>::new([query, key, value], rule)?,
        grad: Source::new(OP, grad)?,
        out: Source::new(OP, out)?,
        log_sum: Source::new(OP, log_sum)?,
        query_grad: Target::new(OP, query_grad)?,
        key_grad: Target::new(OP, key_grad)?,
        value_grad: Target::new(OP, value_grad)?,
    };
    backward.run()
}

struct Backward<'a, S: Element> {
    problem: Problem<'a, S>,
    grad: Source<'a, S>,
    out: Source<'a, S>,
    log_sum: Source<'a, S::Compute>,
    query_grad: Target<'a, S>,
    key_grad: Target<'a, S>,
    value_grad: Target<'a, S>,
}

impl<S: Element> Backward<'_, S> {
    fn run(&self) -> Result<()> {
        let Problem { samples, heads, groups, queries, keys, features, .. } = self.problem;
        let all = samples * groups;
        let parts = if all == 0 { 1 } else { TASKS.div_ceil(all).min(keys / FEWEST).max(1) };
        let per_part = keys.div_ceil(parts).next_multiple_of(panel(self.problem.kern));
        // With several parts, each writes its part of the queries' gradients, which are then added up.
        let size = samples * heads * queries * features;
        let mut sums = Scratch::<S::Compute>::new(if parts > 1 { parts.saturating_mul(size) } else { 0 })?;
        let shared = Shared::new(sums.values());
        par::try_ranges(all * parts, self.problem.grain(queries), |tasks| {
            let mut task = Task::new(self, keys.min(per_part))?;
            for i in tasks {
                let (head, part) = (i / parts, i % parts);
                let range = keys.min(part * per_part)..keys.min((part + 1) * per_part);
                let of_queries =
                    if parts > 1 { shared.start().wrapping_add(part * size) } else { std::ptr::null_mut() };
                // SAFETY: every task has keys of its own, and a part of the sums or else queries of its own.
                unsafe { task.run(head / groups, head % groups, range, of_queries) }
            }
            Ok(())
        })?;
        if parts > 1 {
            let sums = sums.values();
            par::ranges(samples * heads * queries, par::row_grain(parts * features), |range| {
                let mut row = vec![S::Compute::of(0.0); features];
                for i in range {
                    let of_part = |part: usize| &sums[part * size + i * features..][..features];
                    row.copy_from_slice(of_part(0));
                    (1..parts).for_each(|part| rows::add(of_part(part), &mut row));
                    // SAFETY: a query that no other thread has.
                    unsafe { self.write_query(i / queries / heads, i / queries % heads, i % queries, &mut row) }
                }
            });
        }
        Ok(())
    }

    /// Writes the gradient of a query, but for the factor of the scores.
    ///
    /// # Safety
    /// No other thread accesses it.
    unsafe fn write_query(&self, sample: usize, head: usize, query: usize, row: &mut [S::Compute]) {
        rows::scale(self.problem.scale, row);
        let strides = self.query_grad.layout().strides();
        let at: isize = [sample, head, query].iter().zip(strides).map(|(&at, stride)| at as isize * stride).sum();
        // SAFETY: a row of a layout that was checked; the rest is the caller's promise.
        unsafe { store_row(row, self.query_grad.ptr().offset(at), strides[3]) }
    }
}

/// What a thread works with.
struct Task<'b, 'a, S: Element> {
    backward: &'b Backward<'a, S>,
    _room: Room<S::Compute>,
    /// Keys of a block, and queries.
    key_block: usize,
    query_block: usize,
    /// The queries and the gradients of the result: as rows, and as columns, those of each block for themselves.
    queries: *mut S::Compute,
    grads: *mut S::Compute,
    query_columns: *mut S::Compute,
    grad_columns: *mut S::Compute,
    /// Of each query, the sum of the products of result and gradient, and the logarithm of the sum of exponentials.
    products: *mut S::Compute,
    log_sums: *mut S::Compute,
    /// Room for a row of the result and its gradient.
    line: *mut S::Compute,
    /// A block of keys: packed as lanes over features, and over keys. And of values.
    keys: *mut S::Compute,
    key_features: *mut S::Compute,
    values: *mut S::Compute,
    /// Weights of a block of queries, and gradients of the weights and then of the scores, `lda` apart; and room for those of a
    /// tile k-major.
    weights: *mut S::Compute,
    slopes: *mut S::Compute,
    turned: *mut S::Compute,
    /// The gradients: of all queries of a head, `pitch` apart; of keys and values transposed, a block after the other.
    query_sums: *mut S::Compute,
    pitch: usize,
    key_sums: *mut S::Compute,
    value_sums: *mut S::Compute,
}

impl<'b, 'a, S: Element> Task<'b, 'a, S> {
    /// For heads of which the task has `part` keys.
    fn new(backward: &'b Backward<'a, S>, part: usize) -> Result<Self> {
        let Problem { kern, queries, features, values, .. } = backward.problem;
        let key_block = (kern.kc / 2).next_multiple_of(panel(kern)).min(whole(kern, part.max(1)));
        let query_block = (QUERIES / kern.mr * kern.mr).min(tiled(kern, queries.max(1)));
        let pitch = whole(kern, features);
        let blocks = part.div_ceil(key_block);
        let parts = [
            tiled(kern, queries) * features,
            tiled(kern, queries) * values,
            tiled(kern, features) * queries,
            tiled(kern, values) * queries,
            queries,
            queries,
            2 * values,
            key_block * features,
            key_block * pitch,
            key_block * values,
            query_block * kern.lda,
            query_block * kern.lda,
            if kern.row_major { 0 } else { kern.mr * kern.lda },
            queries * pitch,
            (blocks * features + kern.lanes) * key_block,
            (blocks * values + kern.lanes) * key_block,
        ];
        let mut room = Room::new(&parts)?;
        let [
            of_queries,
            of_grads,
            query_columns,
            grad_columns,
            products,
            log_sums,
            line,
            keys,
            key_features,
            of_values,
            weights,
            slopes,
            turned,
            query_sums,
            key_sums,
            value_sums,
        ] = parts.map(|len| room.take(len));
        Ok(Task {
            backward,
            _room: room,
            key_block,
            query_block,
            queries: of_queries,
            grads: of_grads,
            query_columns,
            grad_columns,
            products,
            log_sums,
            line,
            keys,
            key_features,
            values: of_values,
            weights,
            slopes,
            turned,
            query_sums,
            pitch,
            key_sums,
            value_sums,
        })
    }

    /// Computes the gradients of some keys and values, and their part of those of the queries: into `of_queries`, all heads of
    /// all samples one after the other, or if that is null the gradients themselves.
    ///
    /// # Safety
    /// There are no more keys than the task was made for, and no other thread accesses what is written.
    unsafe fn run(&mut self, sample: usize, group: usize, keys: Range<usize>, of_queries: *mut S::Compute) {
        let backward = self.backward;
        let Problem { kern, heads, queries, features, values, .. } = backward.problem;
        let heads_of = backward.problem.heads_of(group);
        for head in heads_of.clone() {
            // SAFETY: the caller's promise.
            unsafe {
                self.pack_queries(sample, head);
                std::slice::from_raw_parts_mut(self.query_sums, queries * self.pitch).fill(S::Compute::of(0.0));
                for block in steps(keys.clone(), self.key_block) {
                    self.block(sample, head, block.clone(), block.start - keys.start, head > heads_of.start);
                }
                for query in 0..queries {
                    let row = std::slice::from_raw_parts_mut(self.query_sums.add(query * self.pitch), features);
                    if of_queries.is_null() {
                        backward.write_query(sample, head, query, row);
                    } else {
                        let at = ((sample * heads + head) * queries + query) * features;
                        row.as_ptr().copy_to_nonoverlapping(of_queries.add(at), features);
                    }
                }
            }
        }
        for (sums, columns, target) in
            [(self.key_sums, features, &backward.key_grad), (self.value_sums, values, &backward.value_grad)]
        {
            let strides = target.layout().strides();
            let start = target.ptr().wrapping_offset(sample as isize * strides[0] + group as isize * strides[1]);
            for block in steps(keys.clone(), self.key_block) {
                let sums = sums.wrapping_add((block.start - keys.start) * columns);
                let start = start.wrapping_offset(block.start as isize * strides[2]);
                // SAFETY: rows of the target that belong to the task; the sums of the block, `key_block` apart, were written if
                // there is a query.
                unsafe {
                    let sums = if queries == 0 || heads_of.is_empty() {
                        None
                    } else {
                        Some((sums.cast_const(), self.key_block))
                    };
                    store_transposed(kern, sums, block.len(), columns, start, (strides[2], strides[3]));
                }
            }
        }
    }

    /// Packs the queries of a head and what belongs to them.
    ///
    /// # Safety
    /// The sample and the head exist.
    unsafe fn pack_queries(&mut self, sample: usize, head: usize) {
        let Backward { problem, grad, out, log_sum, .. } = self.backward;
        let Problem { kern, queries, features, values, scale, .. } = *problem;
        let (query, grad, out) =
            (matrix(&problem.query, sample, head), matrix(grad, sample, head), matrix(out, sample, head));
        let one = S::Compute::of(1.0);
        let columns = |of: Matrix<*const S>, first: usize| {
            let of = of.skip_rows(first);
            Matrix { start: of.start, row_stride: of.column_stride, column_stride: of.row_stride }
        };
        // SAFETY: rows of the operands, whose extents the contract has checked; what they are packed into is as large as `new`
        // says.
        unsafe {
            pack_rows(kern, query, queries, features, scale, self.queries);
            pack_rows(kern, grad, queries, values, one, self.grads);
            for block in steps(0..queries, self.query_block) {
                let (first, len) = (block.start, block.len());
                let (to_queries, to_grads) = (
                    self.query_columns.add(first * tiled(kern, features)),
                    self.grad_columns.add(first * tiled(kern, values)),
                );
                pack_rows(kern, columns(query, first), features, len, scale, to_queries);
                pack_rows(kern, columns(grad, first), values, len, one, to_grads);
            }
            let (a, b) = (
                std::slice::from_raw_parts_mut(self.line, values),
                std::slice::from_raw_parts_mut(self.line.add(values), values),
            );
            let strides = log_sum.layout().strides();
            let log_sums = log_sum.ptr().offset(sample as isize * strides[0] + head as isize * strides[1]);
            for query in 0..queries {
                let (out, grad) = (out.skip_rows(query), grad.skip_rows(query));
                load_row(out.start, out.column_stride, a);
                load_row(grad.start, grad.column_stride, b);
                *self.products.add(query) = rows::dot(a, b);
                *self.log_sums.add(query) = log_sums.offset(query as isize * strides[2]).read();
            }
        }
    }

    /// Adds what a block of keys contributes to the gradients. `skip` keys of the task come before it; `accumulate` means that
    /// another head of queries has contributed to the gradients of its keys.
    ///
    /// # Safety
    /// The queries of the head are packed; the rest is as for [`run`](Task::run).
    unsafe fn block(&mut self, sample: usize, head: usize, keys: Range<usize>, skip: usize, accumulate: bool) {
        let problem = &self.backward.problem;
        let Problem { kern, queries, features, values, .. } = *problem;
        let group = head * problem.groups / problem.heads;
        let key = matrix(&problem.key, sample, group).skip_rows(keys.start);
        let value = matrix(&problem.value, sample, group).skip_rows(keys.start);
        // SAFETY: as in `pack_queries`.
        unsafe {
            pack_lanes(kern, key, false, keys.len(), features, self.keys);
            pack_lanes(kern, key, true, features, keys.len(), self.key_features);
            pack_lanes(kern, value, false, keys.len(), values, self.values);
        }
        let pitch = self.key_block;
        let mut key_sums = To { start: self.key_sums.wrapping_add(skip * features), pitch, accumulate };
        let mut value_sums = To { start: self.value_sums.wrapping_add(skip * values), pitch, accumulate };
        let len = keys.len();
        for rows in steps(0..queries, self.query_block) {
            // Tiles of queries before the first one that sees a key of the block have only zeros.
            let seen = if problem.is_causal { keys.start.saturating_sub(rows.start) / kern.mr * kern.mr } else { 0 };
            if seen >= rows.len() {
                continue;
            }
            // SAFETY: the parts of the room are as large as `new` says, and tiles write all that the products read.
            unsafe {
                for tile in steps(rows.start + seen..rows.end, kern.mr) {
                    self.tile(sample, head, tile.clone(), tile.start - rows.start, keys.clone());
                }
                let (first, count, seen_rows) = (rows.start, rows.len(), seen * kern.lda);
                let of_values = self.grad_columns.add(first * tiled(kern, values)).cast_const();
                let weights = Lanes::InPlace(self.weights.add(seen_rows).cast_const(), kern.lda);
                multiply_tiles(kern, count - seen, (of_values, values, count, seen), weights, len, value_sums);
                let of_keys = self.query_columns.add(first * tiled(kern, features)).cast_const();
                let slopes = Lanes::InPlace(self.slopes.add(seen_rows).cast_const(), kern.lda);
                multiply_tiles(kern, count - seen, (of_keys, features, count, seen), slopes, len, key_sums);
            }
            (key_sums.accumulate, value_sums.accumulate) = (true, true);
        }
        if !key_sums.accumulate {
            // No query sees a key of the block.
            // SAFETY: the sums of the block.
            unsafe {
                std::slice::from_raw_parts_mut(key_sums.start, pitch * features).fill(S::Compute::of(0.0));
                std::slice::from_raw_parts_mut(value_sums.start, pitch * values).fill(S::Compute::of(0.0));
            }
        }
    }

    /// Computes weights and gradients of scores of a tile of queries, `row` rows into their block, and adds to the gradients of
    /// the queries.
    ///
    /// # Safety
    /// As for [`block`](Task::block); the keys are packed.
    unsafe fn tile(&mut self, sample: usize, head: usize, tile: Range<usize>, row: usize, keys: Range<usize>) {
        let problem = &self.backward.problem;
        let Problem { kern, features, values, .. } = *problem;
        let (rows, len) = (tile.len(), keys.len());
        let packed = |start: *mut S::Compute, steps: usize| RowTile {
            start: start.wrapping_add(tile.start * steps).cast_const(),
            rows,
            height: kern.height(rows),
            is_kmajor: true,
        };
        let (weights, slopes) = (self.weights.wrapping_add(row * kern.lda), self.slopes.wrapping_add(row * kern.lda));
        let to = |start| To { start, pitch: kern.lda, accumulate: false };
        // The keys that some query of the tile sees.
        let some = problem.visible_keys(tile.end - 1).saturating_sub(keys.start).min(len);
        // SAFETY: the parts of the room are as large as `new` says, and everything that is read was written.
        unsafe {
            for (steps, rows, lanes, out) in
                [(features, self.queries, self.keys, weights), (values, self.grads, self.values, slopes)]
            {
                multiply(kern, steps, packed(rows, steps), Lanes::Packed(lanes, len, steps), some, to(out));
            }
            for (i, query) in tile.clone().enumerate() {
                let weights = std::slice::from_raw_parts_mut(weights.add(i * kern.lda), len);
                let slopes = std::slice::from_raw_parts_mut(slopes.add(i * kern.lda), len);
                let visible = problem.visible_keys(query).saturating_sub(keys.start).min(len);
                weights[visible..].fill(S::Compute::of(0.0));
                slopes[visible..].fill(S::Compute::of(0.0));
                let (weights, slopes) = (&mut weights[..visible], &mut slopes[..visible]);
                let place = Place { sample, head, query, first_key: keys.start };
                problem.mask(place, weights);
                rows::exponentials(weights, *self.log_sums.add(query));
                problem.drop_some(place, slopes);
                rows::score_gradients(weights, *self.products.add(query), slopes);
                problem.drop_some(place, weights);
            }
            let slopes = scores_as_rows(kern, slopes, rows, some, self.turned);
            let to = To {
                start: self.query_sums.wrapping_add(tile.start * self.pitch),
                pitch: self.pitch,
                accumulate: true,
            };
            multiply(kern, some, slopes, Lanes::Packed(self.key_features, features, len), features, to);
        }
    }
}

/// Writes the transpose of `rows` columns of sums, whose rows are as many elements apart as the pair says, or zeros.
///
/// # Safety
/// The sums have `columns` rows, and as many more as make whole vectors; the element (row, column) from `to` on, by its strides,
/// is the caller's.
unsafe fn store_transposed<S: Element>(
    kern: &Kernel<S::Compute>,
    sums: Option<(*const S::Compute, usize)>,
    rows: usize,
    columns: usize,
    to: *mut S,
    (row_stride, column_stride): (isize, isize),
) {
    if let Some((tile, ld)) = sums
        && S::SAME
        && column_stride == 1
    {
        let (c, load_c, bias) = (to.cast(), false, std::ptr::null());
        // Its rows are the gradients' columns.
        let tile =
            TransposedTile { tile, ld, rows: columns, cols: rows, c, c_cs: row_stride, load_c, bias, relu: false };
        // SAFETY: the caller's promise; S is the compute type, and a block of keys is whole vectors.
        return unsafe { (kern.store_transposed)(&tile) };
    }
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: the caller's promise.
            unsafe {
                let sum = sums.map_or(S::Compute::of(0.0), |(start, pitch)| *start.add(column * pitch + row));
                to.offset(row as isize * row_stride + column as isize * column_stride).write(S::store(sum));
            }
        }
    }
}
