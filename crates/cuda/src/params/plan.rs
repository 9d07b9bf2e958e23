//! Launch plans of reductions, scans and normalization: how lines are divided among threads and blocks. Plans depend on
//! shapes and strides only, so the order of additions, and with it every bit of the result, is the same on every
//! device.

use super::{
    Dim, Grid, Groups, Lanes, Lines, MAX_DIMS, Norm, Reduce, THREADS,
    grid::{Place, blocks},
};

/// Elements that one thread reduces before sharing them with another block pays off.
const SERIAL: u64 = 64;
/// The same where every element is also written, since a single thread then waits for memory longer.
const SERIAL_WRITES: u64 = 16;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: u64 = 512;

impl Lanes {
    /// How many threads take a line of `n` elements among `m` lines.
    #[must_use]
    pub fn new(n: u64, m: u64, across: bool) -> Lanes {
        let threads = u64::from(THREADS);
        // A warp must find neighbors in the direction in which memory is contiguous.
        let most = if across { threads / m.next_power_of_two().min(32) } else { threads };
        let lanes = n.div_ceil(2).next_power_of_two().min(most);
        Lanes { log2: lanes.trailing_zeros(), across: u32::from(across) }
    }

    /// Threads per line.
    #[must_use]
    pub fn count(self) -> u64 {
        1 << self.log2
    }
}

/// Whether lines with these strides run across memory: the smallest stride is between lines, not along one.
fn lies_across(along: &[isize], between: &[isize]) -> bool {
    let smallest = |strides: &[isize]| strides.iter().map(|s| s.unsigned_abs()).filter(|&s| s > 0).min();
    match (smallest(along), smallest(between)) {
        (Some(along), Some(between)) => between < along,
        _ => false,
    }
}

/// The elements of `values` whose index `keep` accepts.
fn pick<T: Copy + Default>(values: &[T], keep: impl Fn(usize) -> bool) -> ([T; MAX_DIMS], usize) {
    let (mut out, mut count) = ([T::default(); MAX_DIMS], 0);
    for (dim, &value) in values.iter().enumerate().take(MAX_DIMS) {
        if keep(dim) {
            out[count] = value;
            count += 1;
        }
    }
    (out, count)
}

/// A grid of the dimensions that `keep` accepts.
fn part<const N: usize>(dims: &[usize], operands: [Option<Place>; N], keep: impl Fn(usize) -> bool) -> Grid<N> {
    let (shape, rank) = pick(dims, &keep);
    let strides = operands.map(|place| place.map(|p| (p.address, pick(p.strides, &keep).0)));
    let mut places = [None; N];
    for (to, from) in places.iter_mut().zip(&strides) {
        *to = from.as_ref().map(|(address, strides)| Place { address: *address, strides: &strides[..rank] });
    }
    Grid::new(&shape[..rank], places)
}

impl<const N: usize> Lines<N> {
    /// The lines along `dim` (a scalar has one line of one element).
    #[must_use]
    pub fn new(dims: &[usize], dim: usize, operands: [Option<Place>; N]) -> Lines<N> {
        let lines = part(dims, operands, |d| d != dim);
        let n = dims.get(dim).map_or(1, |&n| n as u64);
        let strides = operands.map(|p| p.and_then(|p| p.strides.get(dim).map(|&s| s as i64)).unwrap_or(0));
        let across = operands.first().copied().flatten().is_some_and(|p| {
            let (between, count) = pick(p.strides, |d| d != dim && dims.get(d).is_some_and(|&n| n > 1));
            lies_across(p.strides.get(dim..=dim).unwrap_or(&[]), &between[..count])
        });
        let lanes = Lanes::new(n, lines.numel, across);
        Lines { lines, n, strides, lanes }
    }

    /// Blocks for a kernel whose lines have [`Lanes::count`] threads each.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        blocks(self.lines.numel.saturating_mul(self.lanes.count()))
    }
}

/// How to divide the `n` elements of each of `m` results so that a thread has at least `serial` of them. Returns the
/// threads per team, the elements per team, and the teams per result.
pub(super) fn share(n: u64, m: u64, across: bool, serial: u64) -> (Lanes, u64, u64) {
    let lanes = Lanes::new(n, m, across);
    let teams = (ENOUGH_BLOCKS * u64::from(THREADS)).div_ceil(m.saturating_mul(lanes.count()).max(1));
    let chunk = n.div_ceil(n.div_ceil(lanes.count() * serial).clamp(1, teams.max(1))).max(1);
    (lanes, chunk, n.div_ceil(chunk).max(1))
}

impl Groups {
    /// There is nothing to reduce.
    pub const GIVEN: u32 = 3;

    /// The groups along `dim` of a tensor: channels, rows, columns. The operands are `x`, whose strides determine the
    /// order, the result, and the incoming gradient. There are two stages if [`stage`](Self::stage) is
    /// [`Reduce::FIRST`].
    #[must_use]
    pub fn new(dims: &[usize], dim: usize, operands: [Option<Place>; 3]) -> Groups {
        let x = operands[0].map_or(&[][..], |place| place.strides);
        let mut order: [usize; MAX_DIMS] = std::array::from_fn(|i| i);
        order[..dims.len()].sort_by_key(|&d| std::cmp::Reverse(x.get(d).map_or(0, |s| s.unsigned_abs())));
        let turn = |values: &[isize]| order.map(|d| values.get(d).copied().unwrap_or(0));
        let turned = operands.map(|place| place.map(|p| (p.address, turn(p.strides))));
        let places = turned.each_ref().map(|p| p.as_ref().map(|(address, s)| Place { address: *address, strides: s }));
        let extents = order.map(|d| dims.get(d).copied().unwrap_or(1));
        let inner = part(&extents[..dims.len()], places, |i| order[i] != dim);
        let (along, count) = pick(x, |d| d != dim && dims[d] > 1);
        let (n, m) = (inner.numel, dims[dim] as u64);
        let (lanes, chunk, splits) = share(n, m, lies_across(&along[..count], &x[dim..=dim]), SERIAL_WRITES);
        let strides = operands.map(|place| place.map_or(0, |p| p.strides[dim] as i64));
        let stage = if splits > 1 { Reduce::FIRST } else { Reduce::WHOLE };
        Groups { inner, count: Dim::new(m), strides, chunk, splits, lanes, stage, unused: 0 }
    }

    /// The groups where there is nothing to reduce.
    #[must_use]
    pub fn given(&self) -> Groups {
        Groups { stage: Self::GIVEN, ..*self }
    }

    /// The second stage.
    #[must_use]
    pub fn second(&self) -> Groups {
        Groups { stage: Reduce::SECOND, ..*self }
    }

    /// Number of partial results between the stages; 0 if there is one stage.
    #[must_use]
    pub fn partials(&self) -> u64 {
        if self.stage == Reduce::FIRST { self.count.extent * self.splits } else { 0 }
    }

    /// The number of blocks that gives one team of every group work.
    #[must_use]
    pub fn blocks_of_groups(&self) -> u32 {
        blocks(self.count.extent.saturating_mul(self.lanes.count()))
    }

    /// The number of blocks that gives every team of every group work.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        blocks(self.count.extent.saturating_mul(self.splits).saturating_mul(self.lanes.count()))
    }
}

impl Norm {
    /// Scale and shift are indexed by an element's position in its group.
    pub const AFFINE_INSIDE: u32 = 1;
    /// The statistics are indexed by an element's position in its group.
    pub const STATS_INSIDE: u32 = 2;
    /// The statistics are constants.
    pub const CONSTANT: u32 = 4;
    /// Forward: ReLU comes last. Backward: what it let through is recomputed from the input.
    pub const RELU: u32 = 8;
    /// The running statistics have the dtype of the images, not the accumulator's.
    pub const RUNNING_STORED: u32 = 16;
    /// Scale, shift and their gradients are in the type that half precision is computed in (batch normalization).
    pub const WIDE: u32 = 32;
}

impl Reduce {
    /// From `x` to results.
    pub const WHOLE: u32 = 0;
    /// From `x` to partial results.
    pub const FIRST: u32 = 1;
    /// From partial results to results.
    pub const SECOND: u32 = 2;
    /// Bytes of a partial result of any operation.
    pub const PARTIAL: usize = 24;

    /// Reduces the dimensions of `x` that have extent 1 in the output; `to` are the outputs. There are two stages if
    /// [`stage`](Self::stage) is [`FIRST`](Self::FIRST); [`second`](Self::second) is then the other.
    #[must_use]
    pub fn new(x_dims: &[usize], out_dims: &[usize], x: Place, to: [Option<Place>; 2], correction: f64) -> Reduce {
        let reduced = |d: usize| x_dims[d] != 1 && out_dims.get(d).is_none_or(|&m| m == 1);
        let outer = part(x_dims, [Some(x), to[0], to[1]], |d| !reduced(d));
        let (along, rank) = pick(x.strides, reduced);
        let (between, kept) = pick(x.strides, |d| !reduced(d) && x_dims[d] != 1);
        // Any order will do, and memory order is fastest. (A single dimension, as in `arg_reduce`, stays as it is.)
        let (shape, _) = pick(x_dims, reduced);
        let mut order: [usize; MAX_DIMS] = std::array::from_fn(|i| i);
        order[..rank].sort_by_key(|&i| std::cmp::Reverse(along[i].unsigned_abs()));
        let (sorted_shape, sorted) = (order.map(|i| shape[i]), order.map(|i| along[i]));
        let inner = Grid::new(&sorted_shape[..rank], [Some(Place { address: 0, strides: &sorted[..rank] })]);
        let (m, n) = (outer.numel, inner.numel);
        let (lanes, chunk, splits) = share(n, m, lies_across(&along[..rank], &between[..kept]), SERIAL);
        let stage = if splits > 1 { Self::FIRST } else { Self::WHOLE };
        Reduce { outer, inner, results: Dim::new(m), chunk, splits, lanes, stage, unused: 0, correction }
    }

    /// The second stage.
    #[must_use]
    pub fn second(&self) -> Reduce {
        Reduce { lanes: Lanes::new(self.splits, self.outer.numel, false), stage: Self::SECOND, ..*self }
    }

    /// Number of partial results between the stages.
    #[must_use]
    pub fn partials(&self) -> u64 {
        self.outer.numel * self.splits
    }

    /// The number of blocks of this stage.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        let teams = if self.stage == Self::SECOND { self.outer.numel } else { self.partials() };
        blocks(teams.saturating_mul(self.lanes.count()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(strides: &[isize]) -> Place<'_> {
        Place { address: 0, strides }
    }

    #[test]
    fn reductions_cover_every_element() {
        for (dims, out, strides) in [
            (&[64usize, 10][..], &[64usize, 1][..], &[10isize, 1][..]),
            (&[64, 10], &[1, 10], &[10, 1]),
            (&[1000, 1000], &[1, 1], &[1000, 1]),
            (&[1_000_003], &[1], &[1]),
            (&[0, 3], &[1, 3], &[3, 1]),
            (&[5, 100_000], &[5, 1], &[100_000, 1]),
            (&[100_000, 5], &[1, 5], &[5, 1]),
            (&[7, 1], &[1, 1], &[1, 1]),
            (&[], &[], &[]),
        ] {
            let plan = Reduce::new(dims, out, place(strides), [Some(place(strides)), None], 0.0);
            let all: usize = dims.iter().product();
            assert_eq!((plan.outer.numel * plan.inner.numel) as usize, all, "{dims:?}");
            assert!(plan.chunk * plan.splits >= plan.inner.numel && plan.lanes.count() <= 256);
            assert_eq!(plan.stage == Reduce::FIRST, plan.splits > 1);
            assert!(plan.second().blocks() >= 1);
        }
        let columns = Reduce::new(&[100_000, 5], &[1, 5], place(&[5, 1]), [None, None], 0.0);
        assert_eq!((columns.lanes.across, columns.lanes.log2), (1, 5));
        assert!(columns.splits > 8);
    }

    #[test]
    fn groups_are_walked_as_memory_runs() {
        let images = [64, 32, 14, 14];
        let (first, last) = ([6272, 196, 14, 1], [6272, 1, 448, 32]);
        let planes = Groups::new(&images, 1, [Some(place(&first)), Some(place(&first)), None]);
        assert_eq!((planes.inner.rank, planes.inner.numel, planes.count.extent), (2, 12_544, 32));
        assert_eq!((planes.strides, planes.lanes.across, planes.lanes.log2), ([196, 196, 0], 0, 8));
        let pixels = Groups::new(&images, 1, [Some(place(&last)), None, Some(place(&first))]);
        assert_eq!((pixels.inner.rank, pixels.strides, pixels.lanes.across), (2, [1, 0, 196], 1));
        assert_eq!((pixels.stage, pixels.partials()), (Reduce::FIRST, 32 * pixels.splits));
        assert!(pixels.chunk * pixels.splits >= 12_544 && (pixels.splits - 1) * pixels.chunk < 12_544);
        // The order of the dimensions differs from memory order, and so does that of the groups.
        let turned = Groups::new(&[3, 5, 2, 7], 1, [Some(place(&[1, 3, 105, 15])), None, Some(place(&[70, 14, 7, 1]))]);
        assert_eq!((turned.inner.rank, turned.inner.dims[0].extent, turned.inner.dims[1].extent), (2, 14, 3));
        assert_eq!((&turned.inner.strides[0][..2], &turned.inner.strides[2][..2]), (&[15, 1][..], &[1, 70][..]));
        let empty = Groups::new(&[0, 4, 2, 2], 1, [Some(place(&[16, 4, 2, 1])), None, None]);
        assert_eq!((empty.inner.numel, empty.splits, empty.stage), (0, 1, Reduce::WHOLE));
    }

    #[test]
    fn lines_know_their_direction() {
        let rows = Lines::<1>::new(&[4, 1000], 1, [Some(place(&[1000, 1]))]);
        assert_eq!((rows.n, rows.lines.numel, rows.lanes.across, rows.lanes.log2), (1000, 4, 0, 8));
        let columns = Lines::<1>::new(&[1000, 40], 0, [Some(place(&[40, 1]))]);
        assert_eq!((columns.n, columns.lines.numel, columns.lanes.across, columns.lanes.log2), (1000, 40, 1, 3));
        let scalar = Lines::<1>::new(&[], 0, [Some(place(&[]))]);
        assert_eq!((scalar.n, scalar.lines.numel, scalar.lanes.log2), (1, 1, 0));
    }
}
