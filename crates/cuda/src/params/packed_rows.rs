//! Rows that teams of threads hold in registers, in packs of 16 bytes.

use super::{Lanes, Lines, PACK, PackedRows, THREADS};

/// Packs of a row that a thread holds.
const PACKS_OF_A_THREAD: u64 = 4;

impl PackedRows {
    /// The lines as rows, if those of the operands at these addresses are dense in memory and short enough.
    #[must_use]
    pub fn new<const N: usize>(lines: &Lines<N>, addresses: [u64; N], size: usize) -> Option<PackedRows> {
        let pack = PACK / size as u64;
        let mut strides = [0; 3];
        for (k, to) in strides.iter_mut().enumerate().take(N) {
            *to = lines.lines.strides[k][0];
            let whole = u64::try_from(*to).is_ok_and(|stride| stride.is_multiple_of(pack));
            if lines.strides[k] != 1 || !addresses[k].is_multiple_of(PACK) || !whole {
                return None;
            }
        }
        let (packs, count) = (lines.n / pack, lines.lines.numel);
        let fits = lines.n.is_multiple_of(pack) && packs <= PACKS_OF_A_THREAD * u64::from(THREADS) && count < 1 << 30;
        if size > 4 || lines.n == 0 || lines.lines.rank != 1 || !fits {
            return None;
        }
        let log2 = packs.div_ceil(PACKS_OF_A_THREAD).next_power_of_two().trailing_zeros();
        Some(PackedRows { count: count as u32, packs: packs as u32, strides, lanes: Lanes { log2, across: 0 } })
    }

    /// Blocks for all rows.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        super::blocks(u64::from(self.count) * self.lanes.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Place;

    #[test]
    fn dense_rows_of_whole_packs_fit_into_registers() {
        let rows = |dims: &[usize], strides: &[isize], size, address| {
            let lines = Lines::<2>::new(dims, dims.len() - 1, [Some(Place { address, strides }); 2]);
            PackedRows::new(&lines, [address; 2], size)
        };
        let found =
            |n: usize, size| rows(&[6, n], &[n as isize, 1], size, 32).map(|rows| (rows.packs, rows.lanes.log2));
        assert_eq!(
            [found(1000, 4), found(8, 2), found(16, 4), found(20, 4)].map(Option::unwrap),
            [(250, 6), (1, 0), (4, 0), (5, 1)]
        );
        assert_eq!([found(4096, 4), found(8192, 2)].map(Option::unwrap), [(1024, 8), (1024, 8)]);
        assert_eq!([found(10, 4), found(4100, 4), found(8, 8), found(0, 4)], [None; 4]);
        assert!(rows(&[6, 16], &[20, 1], 4, 32).is_some() && rows(&[6, 16], &[20, 1], 4, 40).is_none());
        assert!(rows(&[6, 16], &[18, 1], 4, 32).is_none() && rows(&[6, 16], &[1, 6], 4, 32).is_none());
        assert!(rows(&[2, 3, 16], &[48, 16, 1], 2, 32).is_some() && rows(&[2, 3, 16], &[64, 16, 1], 2, 32).is_none());
    }
}
