//! `Grid`: a shape with the strides of each operand, its dimensions coalesced and its divisions replaced by
//! multiplications; and the number of blocks in a launch.

use std::cell::Cell;

use super::{Dim, Grid, MAX_DIMS, THREADS};

/// Where an operand is in memory: its address, and its strides, one for each dimension of the shape.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The address of the element with index 0 everywhere.
    pub address: u64,
    /// The strides in elements.
    pub strides: &'a [isize],
}

/// More blocks than this would not run at the same time, so they make no kernel faster.
const MAX_BLOCKS: u64 = 8192;

thread_local! {
    /// What [`with_block_limit`] has set.
    static BLOCK_LIMIT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Runs `body`; its launches from this thread have at most `limit` blocks along each axis over which their kernels
/// loop. This lets tests reach the second iteration of a kernel's loop with a few hundred elements instead of millions.
pub fn with_block_limit<R>(limit: u32, body: impl FnOnce() -> R) -> R {
    /// Resets the limit when it is dropped, also if `body` panics.
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            BLOCK_LIMIT.set(self.0);
        }
    }
    let _restore = Restore(BLOCK_LIMIT.replace(u64::from(limit.max(1))));
    body()
}

/// The number of blocks along an axis on which a kernel wants `wanted` blocks: at least one and at most `max`. The
/// kernel loops over the rest.
#[must_use]
pub fn limited_blocks(wanted: u64, max: u64) -> u32 {
    wanted.clamp(1, max.min(BLOCK_LIMIT.get()).min(i32::MAX as u64)) as u32
}

/// The number of blocks of [`THREADS`] threads for `threads` threads: at least one. Kernels loop over the rest.
#[must_use]
pub fn blocks(threads: u64) -> u32 {
    limited_blocks(threads.div_ceil(u64::from(THREADS)), MAX_BLOCKS)
}

impl Dim {
    const ONE: Dim = Dim { extent: 1, wide: 1, multiplier: 1, shift: 0 };

    /// A dimension, with the magic numbers of division by its extent (Granlund & Montgomery, "Division by
    /// invariant integers using multiplication", 1994).
    #[must_use]
    pub fn new(extent: u64) -> Dim {
        if extent == 0 || extent > 1 << 62 {
            // No elements, or more than any memory holds: never a divisor.
            return Dim { extent, wide: 0, multiplier: 0, shift: 0 };
        }
        let shift = extent.next_power_of_two().trailing_zeros();
        let above = (1u64 << shift) - extent;
        let wide = ((u128::from(above) << 64) / u128::from(extent) + 1) as u64;
        // Unused if the extent is too large for 32 bits.
        let multiplier = ((u128::from(above) << 32) / u128::from(extent) + 1) as u32;
        Dim { extent, wide, multiplier, shift }
    }
}

impl<const N: usize> Grid<N> {
    /// Positions are numbered with 64 bits.
    pub const WIDE: u32 = 1;
    /// One dimension, stride 1 for every operand present, addresses that are multiples of 16.
    pub const VECTOR: u32 = 2;

    /// A grid over `shape`; an absent operand (a number, or null) is `None`.
    #[must_use]
    pub fn new(shape: &[usize], operands: [Option<Place>; N]) -> Grid<N> {
        let mut grid = Grid { numel: 1, rank: 0, flags: 0, dims: [Dim::ONE; MAX_DIMS], strides: [[0; MAX_DIMS]; N] };
        for (dim, &extent) in shape.iter().enumerate() {
            grid.numel *= extent as u64;
            if extent == 1 {
                continue;
            }
            let strides = operands.map(|place| place.map_or(0, |p| p.strides.get(dim).map_or(0, |&s| s as i64)));
            let last = (grid.rank as usize).wrapping_sub(1);
            // The dimensions merge if the outer stride equals the inner extent times the inner stride, for every
            // operand.
            let joins = grid.rank > 0 && (0..N).all(|k| grid.strides[k][last] == strides[k] * extent as i64);
            let to = if joins { last } else { grid.rank as usize };
            let joined = if joins { grid.dims[last].extent * extent as u64 } else { extent as u64 };
            if to == MAX_DIMS {
                // Cannot happen: tensors have at most `MAX_DIMS` dimensions.
                break;
            }
            grid.dims[to].extent = joined;
            for (of, stride) in grid.strides.iter_mut().zip(strides) {
                of[to] = stride;
            }
            grid.rank = to as u32 + 1;
        }
        for dim in &mut grid.dims[..grid.rank as usize] {
            *dim = Dim::new(dim.extent);
        }
        grid.rank = grid.rank.max(1);
        if grid.numel >= 1 << 31 {
            grid.flags |= Self::WIDE;
        }
        let aligned = operands.iter().flatten().all(|place| place.address.is_multiple_of(16));
        let regular = grid.strides.iter().zip(&operands).all(|(s, place)| place.is_none() || s[0] == 1);
        if grid.rank == 1 && aligned && regular && grid.numel > 1 {
            grid.flags |= Self::VECTOR;
        }
        grid
    }

    /// The number of blocks for a kernel whose largest elements have `size` bytes.
    #[must_use]
    pub fn blocks(&self, size: usize) -> u32 {
        let at_once = if self.flags & Self::VECTOR == 0 { 1 } else { 16 / size.clamp(1, 16) as u64 };
        blocks(self.numel.div_ceil(at_once))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divide(n: u32, dim: Dim) -> u32 {
        let high = ((u64::from(n) * u64::from(dim.multiplier)) >> 32) as u32;
        (high + n) >> dim.shift
    }

    fn divide_wide(n: u64, dim: Dim) -> u64 {
        let high = ((u128::from(n) * u128::from(dim.wide)) >> 64) as u64;
        (high + n) >> dim.shift
    }

    #[test]
    fn fast_division_is_division() {
        let edges =
            [0, 1, 2, 3, 5, 6, 7, 9, 10, 127, 641, 784, 65_535, 65_537, 1_000_003, (1 << 30) + 1, i32::MAX as u32];
        for d in edges.into_iter().filter(|&d| d > 0) {
            let dim = Dim::new(u64::from(d));
            for n in edges.into_iter().flat_map(|n| [n, n.saturating_sub(1), (n / d * d).min(i32::MAX as u32)]) {
                assert_eq!(divide(n, dim), n / d, "{n} / {d}");
                assert_eq!(divide_wide(n.into(), dim), (n / d).into(), "{n} / {d}");
            }
        }
        let wide = [1, 3, 7, 641, (1 << 31) + 1, (1 << 33) - 9, 6_700_417 << 21, (1 << 62) - 1, 1 << 62];
        for d in wide {
            for n in [0, d - 1, d, 5 * (d / 5), d / 2, (1 << 63) - 1, ((1 << 63) - 1) / d * d, (1 << 40) + 12_345] {
                assert_eq!(divide_wide(n, Dim::new(d)), n / d, "{n} / {d}");
            }
        }
        assert_eq!(format!("{:?}", Dim::new(1)), format!("{:?}", Dim::ONE));
    }

    #[test]
    fn blocks_are_limited_where_tests_ask_for_it() {
        assert_eq!([0, 1, 256, 257, u64::MAX].map(blocks), [1, 1, 1, 2, 8192]);
        assert_eq!(limited_blocks(u64::MAX, u64::MAX), i32::MAX as u32);
        let inside = with_block_limit(3, || ([1, 700, 5000].map(blocks), with_block_limit(0, || blocks(5000))));
        assert_eq!(inside, ([1, 3, 3], 1));
        assert_eq!(blocks(5000), 20);
        let panicked = std::panic::catch_unwind(|| with_block_limit(1, || panic!("a test that fails")));
        assert!(panicked.is_err() && blocks(5000) == 20);
    }

    #[test]
    fn dimensions_are_joined() {
        let place = |address, strides| Some(Place { address, strides });
        let grid = Grid::<2>::new(&[2, 3, 4], [place(16, &[12, 4, 1]), place(32, &[12, 4, 1])]);
        assert_eq!((grid.rank, grid.numel, grid.flags, grid.dims[0].extent), (1, 24, Grid::<2>::VECTOR, 24));
        let grid = Grid::<2>::new(&[2, 3, 4], [place(0, &[12, 4, 1]), place(0, &[4, 0, 1])]);
        assert_eq!((grid.rank, grid.strides[0][..3] == [12, 4, 1], grid.flags), (3, true, 0));
        let grid = Grid::<2>::new(&[2, 3, 4], [place(0, &[12, 4, 1]), None]);
        assert_eq!((grid.rank, grid.strides[1][0], grid.flags), (1, 0, Grid::<2>::VECTOR));
        let grid = Grid::<1>::new(&[5, 1], [place(4, &[1, 7])]);
        assert_eq!((grid.rank, grid.flags), (1, 0));
        let grid = Grid::<1>::new(&[], [place(4, &[])]);
        assert_eq!((grid.rank, grid.numel, grid.dims[0].extent), (1, 1, 1));
        let grid = Grid::<1>::new(&[1 << 16, 1 << 16], [place(0, &[1 << 16, 1])]);
        assert_eq!((grid.rank, grid.numel, grid.flags), (1, 1 << 32, Grid::<1>::WIDE | Grid::<1>::VECTOR));
    }
}
