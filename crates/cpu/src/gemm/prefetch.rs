//! Prefetching: hints for single cache lines, and for the rows that the next row of tiles reads.

use super::problem::GemmProblem;

/// Fetches the cache line at `p` into L1; a hint, so any address is fine.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults, whatever the address; SSE is part of x86_64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(p as *const i8)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// As [`prefetch`], but into L2 only: for what is needed somewhat later.
#[inline(always)]
pub(crate) fn prefetch_l2<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults, whatever the address; SSE is part of x86_64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(p as *const i8)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Prefetches the rows of the next tile row, a share at every tile of this one.
pub(super) struct RowPrefetch<S> {
    /// Next line to fetch, and how many lines are left of its row.
    next: *const S,
    left: usize,
    /// Lines per row, elements from its end to the start of the next, and rows left.
    length: usize,
    skip: isize,
    rows: usize,
    /// Lines per tile.
    share: usize,
}

impl<S: Copy> RowPrefetch<S> {
    /// Elements of a cache line.
    const LINE: usize = 64 / size_of::<S>();

    /// For rows `first..end` and `nk` steps from `k0` on, in `tiles` shares.
    pub(super) fn new(
        p: &GemmProblem<S>,
        (first, end): (usize, usize),
        (k0, nk): (usize, usize),
        tiles: usize,
    ) -> Self {
        // Only rows that are contiguous; others are packed several tile rows at a time.
        let rows = if p.a_k == 1 { end - first } else { 0 };
        let next = p.a.wrapping_offset(first as isize * p.a_row + k0 as isize * p.a_k);
        let lines = nk.div_ceil(Self::LINE);
        let skip = p.a_row - (lines * Self::LINE) as isize;
        RowPrefetch { next, left: lines, length: lines, skip, rows, share: (rows * lines).div_ceil(tiles) }
    }

    /// Fetches the next share.
    #[inline]
    pub(super) fn fetch_some(&mut self) {
        for _ in 0..self.share {
            if self.rows == 0 {
                return;
            }
            prefetch_l2(self.next);
            self.next = self.next.wrapping_add(Self::LINE);
            self.left -= 1;
            if self.left == 0 {
                self.next = self.next.wrapping_offset(self.skip);
                self.left = self.length;
                self.rows -= 1;
            }
        }
    }
}
