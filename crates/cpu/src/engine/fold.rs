//! The reduction engine: folds the reduced dimensions of a tensor, for any element type and layout.
//!
//! The order of operations is fixed by shape and layout alone: leaves of up to `LEAF` elements are folded in
//! `LANES` interleaved lanes, and everything above them as a balanced binary tree. So results do not depend
//! on the number of threads, and the rounding error of a sum grows with the logarithm of its length.

use kiln_backend::{Layout, MAX_RANK};

use crate::engine::{
    iter::Walk,
    par::{self, GRAIN, Shared},
    reader::Elements,
    simd::multiversion,
    tile::{TILE, steps},
};

/// Elements that are folded into one value at a time.
pub(crate) const LEAF: usize = 1024;
/// Independent lanes of a leaf: four vectors of eight `f32`.
const LANES: usize = 32;
/// Elements of one reduction that make a unit of work for a thread.
const BLOCK: usize = 32 * LEAF;
/// Rows of a column fold that are added up before they are added to the total.
const ROWS: usize = 32;
/// Narrow matrices, up to this width, are folded several rows side by side.
const NARROW: usize = 128;

/// An associative operation on numbers.
pub(crate) trait Fold {
    /// The type of the elements and of the running result.
    type Item: bytemuck::Pod + Send + Sync;
    /// The result for no elements.
    fn identity() -> Self::Item;
    /// Folds in one element. `center` belongs to the result (a mean, a maximum); folds without centers ignore it.
    fn step(acc: Self::Item, x: Self::Item, center: Self::Item) -> Self::Item;
    /// Combines two results.
    fn merge(a: Self::Item, b: Self::Item) -> Self::Item;
}

/// Folds rows of a given number of elements, with a center for each row if there are any, to one result per row.
type ShortRows<T> = fn(&[T], usize, Option<&[T]>, &mut [T]);

/// The loops of a fold. The engine calls them through pointers, so that it is compiled once per item type, not once per
/// fold.
struct Kernels<T> {
    identity: T,
    merge: fn(T, T) -> T,
    leaf: fn(&[T], T) -> T,
    short_rows: ShortRows<T>,
    row: fn(&mut [T], &[T], &[T]),
    four_rows: fn(&mut [T], [&[T]; 4], &[T]),
    merge_rows: fn(&mut [T], &[T]),
}

impl<T> Kernels<T> {
    fn of<F: Fold<Item = T>>() -> Kernels<T> {
        Kernels {
            identity: F::identity(),
            merge: F::merge,
            leaf: leaf::<F>,
            short_rows: short_rows::<F>,
            row: row::<F>,
            four_rows: four_rows::<F>,
            merge_rows: merge_rows::<F>,
        }
    }
}

multiversion! {
    /// Folds a slice of up to about `LEAF` elements.
    pub(crate) fn leaf[F: Fold]::[F](x: &[F::Item], center: F::Item) -> F::Item, avx512 if [size_of::<F::Item>() == 4] {
        if x.len() < LANES {
            return x.iter().fold(F::identity(), |acc, &x| F::step(acc, x, center));
        }
        let mut lanes = [F::identity(); LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = F::step(*lane, x, center);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane = F::step(*lane, x, center);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = F::merge(lanes[i], lanes[i + width]);
            }
            width /= 2;
        }
        lanes[0]
    }

    /// Folds each of the rows of `n` elements that `x` consists of.
    fn short_rows[F: Fold]::[F](x: &[F::Item], n: usize, centers: Option<&[F::Item]>, out: &mut [F::Item]), avx512 if [size_of::<F::Item>() == 4] {
        for (i, (row, out)) in x.chunks_exact(n).zip(out).enumerate() {
            let center = centers.map_or_else(bytemuck::Zeroable::zeroed, |c| c[i]);
            *out = row.iter().fold(F::identity(), |acc, &x| F::step(acc, x, center));
        }
    }

    /// Folds one row into a row of results.
    fn row[F: Fold]::[F](acc: &mut [F::Item], x: &[F::Item], centers: &[F::Item]), avx512 if [size_of::<F::Item>() == 4] {
        for ((acc, &x), &center) in acc.iter_mut().zip(x).zip(centers) {
            *acc = F::step(*acc, x, center);
        }
    }

    /// Folds four rows into a row of results: one pass over the results instead of four.
    fn four_rows[F: Fold]::[F](acc: &mut [F::Item], x: [&[F::Item]; 4], centers: &[F::Item]), avx512 if [size_of::<F::Item>() == 4] {
        let rows = acc.iter_mut().zip(x[0]).zip(x[1]).zip(x[2]).zip(x[3]).zip(centers);
        for (((((acc, &a), &b), &c), &d), &center) in rows {
            let first = F::step(F::step(*acc, a, center), b, center);
            *acc = F::step(F::step(first, c, center), d, center);
        }
    }

    fn merge_rows[F: Fold]::[F](acc: &mut [F::Item], other: &[F::Item]), avx512 if [size_of::<F::Item>() == 4] {
        for (acc, &other) in acc.iter_mut().zip(other) {
            *acc = F::merge(*acc, other);
        }
    }
}

/// Merges results in order as a balanced tree: level `k` holds the result of `2^k` pushes.
pub(crate) struct Cascade<A> {
    levels: [A; 64],
    count: u64,
}

impl<A: Copy> Cascade<A> {
    pub(crate) fn new(identity: A) -> Cascade<A> {
        Cascade { levels: [identity; 64], count: 0 }
    }

    pub(crate) fn push(&mut self, mut value: A, merge: impl Fn(A, A) -> A) {
        let carries = self.count.trailing_ones() as usize;
        for level in &self.levels[..carries] {
            value = merge(*level, value);
        }
        self.levels[carries] = value;
        self.count += 1;
    }

    pub(crate) fn finish(&self, merge: impl Fn(A, A) -> A) -> Option<A> {
        let held = (0..64).filter(|level| self.count >> level & 1 == 1).map(|level| self.levels[level]);
        held.reduce(|low, high| merge(high, low))
    }
}

/// The operand of a fold: a layout, and a function that makes a reader for a loop nest over its dimensions. Each task
/// makes its own reader.
pub(crate) struct Operand<'a, C> {
    pub(crate) layout: &'a Layout,
    pub(crate) reader: &'a (dyn Fn(Walk) -> Box<dyn Elements<C> + 'a> + Sync),
}

/// Folds the dimensions of `x` that have extent 1 in `out` (which has the rank of `x` and otherwise its extents). The
/// results are in `out`'s row-major order; `centers`, if given, has one value per result.
pub(crate) fn fold<F: Fold>(x: &Operand<F::Item>, out: &Layout, centers: Option<&[F::Item]>) -> Vec<F::Item> {
    fold_by(&Kernels::of::<F>(), x, out, centers)
}

fn fold_by<T: bytemuck::Pod + Send + Sync>(
    fold: &Kernels<T>,
    x: &Operand<T>,
    out: &Layout,
    centers: Option<&[T]>,
) -> Vec<T> {
    let layout = x.layout;
    let reduced = |dim: usize| out.dims()[dim] == 1 && layout.dims()[dim] != 1;
    let pairs = |reduce: bool| {
        let mut dims = [0; MAX_RANK];
        let mut rank = 0;
        for dim in (0..layout.rank()).filter(|&dim| reduced(dim) == reduce && layout.dims()[dim] != 1) {
            dims[rank] = dim;
            rank += 1;
        }
        if reduce {
            // Any order will do, and memory order is fastest.
            dims[..rank].sort_by_key(|&dim| std::cmp::Reverse(layout.strides()[dim].unsigned_abs()));
        }
        (0..rank).map(move |i| (layout.dims()[dims[i]], layout.strides()[dims[i]]))
    };
    let smallest = |reduce: bool| pairs(reduce).map(|(_, stride)| stride.unsigned_abs()).min().unwrap_or(usize::MAX);
    let (m, n): (usize, usize) = (pairs(false).map(|p| p.0).product(), pairs(true).map(|p| p.0).product());
    if m == 0 || n == 0 {
        return vec![fold.identity; m];
    }
    let along_rows = smallest(true) <= smallest(false);
    let walk =
        if along_rows { Walk::of(pairs(false).chain(pairs(true))) } else { Walk::of(pairs(true).chain(pairs(false))) };
    let problem = Problem { fold, x, walk, m, n, centers };
    if along_rows { problem.rows() } else { problem.columns() }
}

struct Problem<'a, 'x, T> {
    fold: &'a Kernels<T>,
    x: &'a Operand<'x, T>,
    /// Visits all elements: results outermost for `rows`, reduced elements outermost for `columns`.
    walk: Walk,
    /// Number of results.
    m: usize,
    /// Number of elements per result.
    n: usize,
    centers: Option<&'a [T]>,
}

impl<T: bytemuck::Pod + Send + Sync> Problem<'_, '_, T> {
    /// For reduced elements that are adjacent in memory.
    fn rows(&self) -> Vec<T> {
        let blocks = self.n.div_ceil(BLOCK);
        let mut partial = vec![self.fold.identity; self.m * blocks];
        let shared = Shared::new(&mut partial);
        let unit_size = self.n.min(BLOCK);
        par::ranges(self.m * blocks, (GRAIN / unit_size).max(1), |units| {
            // SAFETY: ranges are disjoint.
            let results = unsafe { shared.part(units.clone()) };
            let mut reader = (self.x.reader)(self.walk);
            if self.n < LANES {
                // (One block: units are results.) Folds many rows at a time, each as `leaf` would.
                for (rows, results) in steps(units, TILE / self.n).zip(results.chunks_mut(TILE / self.n)) {
                    let centers = self.centers.map(|c| &c[rows.clone()]);
                    let x = reader.get(rows.start * self.n..rows.end * self.n);
                    (self.fold.short_rows)(x, self.n, centers, results);
                }
                return;
            }
            for (unit, result) in units.zip(results) {
                let (i, block) = (unit / blocks, unit % blocks);
                let center = self.centers.map_or_else(bytemuck::Zeroable::zeroed, |c| c[i]);
                let end = self.n.min((block + 1) * BLOCK);
                *result = self.block(&mut *reader, i * self.n + block * BLOCK..i * self.n + end, center);
            }
        });
        if blocks == 1 {
            return partial;
        }
        let merge = |a, b| (self.fold.merge)(a, b);
        let combine = |blocks: &[T]| {
            let mut cascade = Cascade::new(self.fold.identity);
            blocks.iter().for_each(|&value| cascade.push(value, merge));
            cascade.finish(merge).unwrap_or(self.fold.identity)
        };
        partial.chunks(blocks).map(combine).collect()
    }

    fn block(&self, reader: &mut dyn Elements<T>, range: std::ops::Range<usize>, center: T) -> T {
        let mut leaf_of = |range: std::ops::Range<usize>| match reader.memory(range.clone()) {
            Some(x) => (self.fold.leaf)(x, center),
            None => {
                let merged = steps(range, TILE).map(|part| (self.fold.leaf)(reader.get(part), center));
                merged.reduce(|a, b| (self.fold.merge)(a, b)).unwrap_or(self.fold.identity)
            }
        };
        if range.len() <= LEAF {
            return leaf_of(range);
        }
        let merge = |a, b| (self.fold.merge)(a, b);
        let mut cascade = Cascade::new(self.fold.identity);
        steps(range, LEAF).for_each(|part| cascade.push(leaf_of(part), merge));
        cascade.finish(merge).unwrap_or(self.fold.identity)
    }

    /// For results that are adjacent in memory: folds rows of elements into rows of results.
    fn columns(&self) -> Vec<T> {
        let (m, n) = (self.m, self.n);
        // `fused` rows of a narrow matrix are treated as one.
        let fused = if m <= NARROW { (TILE / 2 / m).clamp(1, n) } else { 1 };
        let width = if fused > 1 { m } else { m.min(TILE) };
        let tiles = m.div_ceil(width);
        let block_rows = (BLOCK / width).max(4 * ROWS).next_multiple_of(fused);
        let blocks = n.div_ceil(block_rows);
        let mut partial = vec![self.fold.identity; blocks * m];
        let shared = Shared::new(&mut partial);
        let unit_size = n.min(block_rows) * width;
        par::ranges(blocks * tiles, (GRAIN / unit_size).max(1), |units| {
            let mut reader = (self.x.reader)(self.walk);
            for unit in units {
                let (block, start) = (unit / tiles, unit % tiles * width);
                let columns = start..m.min(start + width);
                let rows = block * block_rows..n.min((block + 1) * block_rows);
                // SAFETY: each unit has its own block of rows and tile of columns.
                let acc = unsafe { shared.part(block * m + columns.start..block * m + columns.end) };
                if fused > 1 {
                    self.narrow(&mut *reader, rows, fused, acc);
                } else {
                    self.wide(&mut *reader, rows, columns, acc);
                }
            }
        });
        // Merges the blocks as a tree.
        let mut distance = 1;
        while distance < blocks {
            for block in (0..blocks - distance).step_by(2 * distance) {
                let (left, right) = partial.split_at_mut((block + distance) * m);
                (self.fold.merge_rows)(&mut left[block * m..][..m], &right[..m]);
            }
            distance *= 2;
        }
        partial.truncate(m);
        partial
    }

    fn wide(
        &self,
        reader: &mut dyn Elements<T>,
        rows: std::ops::Range<usize>,
        columns: std::ops::Range<usize>,
        acc: &mut [T],
    ) {
        let at = |row: usize| row * self.m + columns.start..row * self.m + columns.end;
        let zeros;
        let centers = match self.centers {
            Some(centers) => &centers[columns.clone()],
            None => {
                zeros = vec![bytemuck::Zeroable::zeroed(); columns.len()];
                &zeros
            }
        };
        let mut some = vec![self.fold.identity; acc.len()];
        for rows in steps(rows, ROWS) {
            some.fill(self.fold.identity);
            let mut rows = rows;
            while rows.len() >= 4 {
                let four = [0, 1, 2, 3].map(|i| reader.memory(at(rows.start + i)));
                let [Some(a), Some(b), Some(c), Some(d)] = four else { break };
                (self.fold.four_rows)(&mut some, [a, b, c, d], centers);
                rows.start += 4;
            }
            rows.for_each(|r| (self.fold.row)(&mut some, reader.get(at(r)), centers));
            (self.fold.merge_rows)(acc, &some);
        }
    }

    fn narrow(&self, reader: &mut dyn Elements<T>, rows: std::ops::Range<usize>, fused: usize, acc: &mut [T]) {
        let m = self.m;
        let centers = match self.centers {
            Some(centers) => centers.repeat(fused),
            None => vec![bytemuck::Zeroable::zeroed(); fused * m],
        };
        let mut all = vec![self.fold.identity; fused * m];
        let mut some = all.clone();
        for rows in steps(rows, ROWS * fused) {
            some.fill(self.fold.identity);
            for rows in steps(rows, fused) {
                let count = rows.len() * m;
                (self.fold.row)(&mut some[..count], reader.get(rows.start * m..rows.end * m), &centers[..count]);
            }
            (self.fold.merge_rows)(&mut all, &some);
        }
        all.chunks(m).for_each(|one| (self.fold.merge_rows)(acc, one));
    }
}
