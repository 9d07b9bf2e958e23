//! Large products whose rows are read where they are: threads divide the lanes, each packs those that it takes, and computes all
//! rows of them.
//!
//! Nothing is packed twice, no thread waits for what another one packs, and packed lanes stay in the cache of the core that
//! packed them.

use super::{
    blocked,
    kernel::Kernel,
    parts::{WORTH, parts},
    problem::GemmProblem,
    source::{Float, Source},
};
use crate::engine::team;

/// Minimum lanes of a part: the rows are read once for each.
const MIN_LANES: usize = 32;
/// Maximum lanes of a part.
const MAX_LANES: usize = 128;
/// Maximum bytes of all rows, which are read again for every part and should stay in the last cache.
const ROWS: usize = 8 << 20;

/// Whether there are lanes enough for several parts per thread.
pub(super) fn suits<S: Source<T>, T: Float>(p: &GemmProblem<S>, kern: &Kernel<T>) -> bool {
    let threads = rayon::current_num_threads();
    threads > 1
        && p.lanes >= threads * 4 * MIN_LANES
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
    let panel = 2 * kern.lanes;
    let least = MIN_LANES.div_ceil(panel);
    let parts = parts(p.lanes.div_ceil(panel), threads, least, (MAX_LANES / panel).max(least));
    team::for_each(parts.len(), threads, &|i| {
        let lanes = (parts[i].start * panel, p.lanes.min(parts[i].end * panel));
        if lanes.0 < lanes.1 {
            // SAFETY: the caller's promise; parts have disjoint lanes of C.
            unsafe { blocked::part(p, kern, (0, p.rows), lanes, None) }
        }
    });
}
