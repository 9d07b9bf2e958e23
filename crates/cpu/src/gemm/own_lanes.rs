//! Large products whose rows are read where they are: threads divide the rows, or the lanes of a group of rows, each packs the lanes
//! that it takes, and computes all rows of its group.
//!
//! No thread waits for what another one packs, and packed lanes stay in the cache of the core that packed them. Where there are
//! rows enough, each thread has some for itself, like the sections of element-wise operations ([`team`]): what it writes is then
//! read by the same core in the next operation, and not by all of them. Packing all lanes for each group of rows is what that
//! costs; threads of one core, which share its caches, would pay it for nothing.

use super::{
    blocked,
    kernel::Kernel,
    parts::{WORTH, parts},
    problem::GemmProblem,
    source::{Float, Source},
};
use crate::engine::{cache::l2, team};

/// Minimum lanes of a part: the rows are read once for each.
const MIN_LANES: usize = 32;
/// Maximum lanes of a part.
const MAX_LANES: usize = 128;
/// Minimum rows of a group: packing a lane takes about as long as its products with eight rows.
const MIN_ROWS: usize = 192;
/// Maximum bytes of all rows, which are read again for every part and should stay in the last cache.
const ROWS: usize = 8 << 20;

/// Into how many groups the rows are divided. As many threads take each of them, no fewer than share a cache (`sharing`).
fn groups(rows: usize, threads: usize, sharing: usize) -> usize {
    let suits = |groups: &usize| threads.is_multiple_of(*groups) && rows / groups >= MIN_ROWS;
    (1..=threads.div_ceil(sharing)).rev().find(suits).unwrap_or(1)
}

/// Whether there are lanes enough for several parts per thread.
pub(super) fn suits<S: Source<T>, T: Float>(p: &GemmProblem<S>, kern: &Kernel<T>) -> bool {
    let threads = rayon::current_num_threads();
    threads > 1
        && p.lanes >= threads / groups(p.rows, threads, l2().threads) * 4 * MIN_LANES
        && p.rows.saturating_mul(p.k) <= ROWS / size_of::<T>()
        && p.rows.saturating_mul(p.lanes).saturating_mul(p.k) >= WORTH
        && blocked::rows_in_place(p, kern, blocked::k_block(p, kern), p.rows)
}

/// Computes a product.
///
/// # Safety
/// Pointers and strides must be valid, no extent 0, S must be T, and `kern` runnable.
pub(super) unsafe fn product<S: Source<T>, T: Float>(p: &GemmProblem<S>, kern: &Kernel<T>) {
    let threads = rayon::current_num_threads();
    let groups = groups(p.rows, threads, l2().threads);
    let panel = 2 * kern.lanes;
    let least = MIN_LANES.div_ceil(panel);
    let parts = parts(p.lanes.div_ceil(panel), threads / groups, least, (MAX_LANES / panel).max(least));
    let tile_rows = p.rows.div_ceil(kern.mr);
    let first_row = |group: usize| p.rows.min(group * tile_rows / groups * kern.mr);
    team::for_each(groups * parts.len(), threads, &|i| {
        let (group, part) = (i / parts.len(), &parts[i % parts.len()]);
        let rows = (first_row(group), first_row(group + 1));
        let lanes = (part.start * panel, p.lanes.min(part.end * panel));
        if lanes.0 < lanes.1 {
            // SAFETY: the caller's promise; no two parts have an element of C.
            unsafe { blocked::part(p, kern, rows, lanes, None) }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_different_caches_have_rows_of_their_own() {
        for (rows, threads, sharing, expected) in [
            (512, 2, 1, 2),
            (300, 2, 1, 1),
            (512, 2, 2, 1),
            (2048, 8, 1, 8),
            (2048, 8, 2, 4),
            (512, 8, 2, 2),
            (4096, 7, 1, 7),
            (4096, 7, 2, 1),
            (4096, 2, 64, 1),
            (0, 4, 1, 1),
        ] {
            assert_eq!(
                groups(rows, threads, sharing),
                expected,
                "{rows} rows, {threads} threads, {sharing} of a cache"
            );
        }
    }
}
