//! Limits how many plans of products, and of convolutions, a device caches. When a cache is full, it is cleared.

use std::cell::Cell;

/// Enough for any network; a plan takes some kilobytes.
const MAX_PLANS: usize = 4096;

thread_local! {
    /// The limit that [`with_plan_limit`] has set.
    static PLAN_LIMIT: Cell<usize> = const { Cell::new(MAX_PLANS) };
}

/// Runs `body`, whose calls from this thread clear a cache that has `limit` plans or more. This lets tests fill a cache
/// without thousands of shapes, for each of which a library's heuristic may take milliseconds.
pub fn with_plan_limit<R>(limit: usize, body: impl FnOnce() -> R) -> R {
    /// Resets the limit when it is dropped, also if `body` panics.
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            PLAN_LIMIT.set(self.0);
        }
    }
    let _restore = Restore(PLAN_LIMIT.replace(limit.max(1)));
    body()
}

/// The maximum number of cached plans.
pub(crate) fn max_plans() -> usize {
    PLAN_LIMIT.get()
}
