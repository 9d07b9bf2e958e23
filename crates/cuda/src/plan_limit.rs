//! How many plans of products, and of convolutions, a device keeps. A program with more shapes than that starts anew.

use std::cell::Cell;

/// Enough for any network; a plan has some kilobytes.
const MAX_PLANS: usize = 4096;

thread_local! {
    /// What [`with_plan_limit`] has set.
    static PLAN_LIMIT: Cell<usize> = const { Cell::new(MAX_PLANS) };
}

/// Runs `body`, whose calls from this thread begin with an empty cache if there are `limit` plans or more. So tests see
/// a cache that is full without thousands of shapes, for each of which a library's heuristic may take milliseconds.
pub fn with_plan_limit<R>(limit: usize, body: impl FnOnce() -> R) -> R {
    /// Sets the limit back when it is dropped, which is also where `body` panics.
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            PLAN_LIMIT.set(self.0);
        }
    }
    let _restore = Restore(PLAN_LIMIT.replace(limit.max(1)));
    body()
}

/// Plans that are kept.
pub(crate) fn max_plans() -> usize {
    PLAN_LIMIT.get()
}
