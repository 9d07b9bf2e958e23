//! Runs the chunks of one product on rayon's current pool.
//!
//! `rayon::join` and `scope` make the caller wait until every spawned task has *started*,
//! so a product of 0.3 ms pays the wake-up of a sleeping worker in full. Here the caller
//! takes chunks itself from the first moment, helpers take chunks if and when they arrive,
//! and nobody waits for a helper that did not come in time.

use core::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::Arc;

/// Set in `Job::helpers` once no helper may join any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

struct Job {
    next: AtomicUsize,
    total: usize,
    /// Number of helpers inside `work`, plus `CLOSED`.
    helpers: AtomicUsize,
    /// Borrowed from the caller's stack, lifetime erased: dereferenced only by the caller and
    /// by helpers counted in `helpers`, for whom the caller waits.
    run: *const (dyn Fn(usize) + Sync),
}

// SAFETY: `run` points to a `Sync` closure, so sharing and sending the pointer is fine; that it
// is not used after the closure is gone is argued at its declaration.
unsafe impl Send for Job {}
// SAFETY: as above; the other fields are `Sync` anyway.
unsafe impl Sync for Job {}

impl Job {
    fn work(&self) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= self.total {
                return;
            }
            // SAFETY: the caller of `for_each` keeps the closure alive until `helpers` has
            // no one left; see the declaration of `run`.
            unsafe { (*self.run)(i) }
        }
    }

    fn help(&self) {
        // Join, unless the caller has already finished everything.
        let join = |n: usize| (n & CLOSED == 0).then_some(n + 1);
        if self.helpers.fetch_update(Acquire, Relaxed, join).is_ok() {
            let _leave = Leave(self);
            self.work();
        }
    }
}

struct Leave<'a>(&'a Job);
impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.helpers.fetch_sub(1, Release);
    }
}

/// Waits for something that a running thread is about to finish: spinning is cheaper than sleeping.
pub(crate) fn wait_until(ready: impl Fn() -> bool) {
    let mut spins = 0u32;
    while !ready() {
        spins += 1;
        if spins < 10_000 { core::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// Ends the job and waits for the helpers, also when the caller's own chunk panics.
struct Close<'a>(&'a Job);
impl Drop for Close<'_> {
    fn drop(&mut self) {
        // From here on nobody joins. Those inside only finish the chunk they are in, so the wait is short.
        self.0.helpers.fetch_or(CLOSED, AcqRel);
        wait_until(|| self.0.helpers.load(Acquire) == CLOSED);
    }
}

/// Calls `run(0..total)`, each index once, on up to `threads` threads including this one.
pub(crate) fn for_each(total: usize, threads: usize, run: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(total).saturating_sub(1);
    if helpers == 0 {
        (0..total).for_each(run);
        return;
    }
    // SAFETY: only the lifetime changes; `Close` below keeps every use inside this call.
    let run = unsafe { core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(run) };
    let job = Arc::new(Job { next: AtomicUsize::new(0), total, helpers: AtomicUsize::new(0), run });
    for _ in 0..helpers {
        let job = job.clone();
        rayon::spawn(move || job.help());
    }
    let _close = Close(&job);
    job.work();
}
