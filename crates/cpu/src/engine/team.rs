//! Runs the tasks of one operation on this thread and on those of rayon's current pool.
//!
//! With rayon's own parallel loops, a thread outside the pool sleeps until a worker has done everything, and then has to
//! be woken again; `rayon::join` and `scope` make it wait until every spawned task has *started*. An operation of 0.1 ms
//! pays for that in full. Here the caller takes tasks itself from the first moment, helpers take tasks if and when they
//! arrive, and nobody waits for a helper that did not come in time.
//!
//! Tasks are cut into one section per thread, and a thread takes those of its own section before it helps with others. So what an
//! operation writes is mostly read by the same core in the next one, whose tasks lie in the same order over the data. That
//! matters where cores do not share a cache: lines that another one has written come from it at a quarter of the speed.
//!
//! A worker that has helped waits for the next job for a moment before it goes back to sleep (`lobby`): waking it takes as
//! long as many operations do, and in a training step one follows the other.

mod lobby;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::*},
    },
};

use parking_lot::Mutex;

/// Set in `Job::helpers` once no helper may join any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Consecutive tasks that one thread begins with.
struct Section {
    /// Whether a thread has begun with it, or will.
    taken: AtomicBool,
    next: AtomicUsize,
    end: usize,
    /// Keeps the counters of two sections two cache lines apart, since processors fetch them in pairs. Memory that begins with a
    /// line would take longer to allocate.
    _apart: [usize; 13],
}

impl Section {
    /// The next task, if there is one. Looking first leaves the counter to those who still need it.
    fn take(&self) -> Option<usize> {
        if self.next.load(Relaxed) >= self.end {
            return None;
        }
        Some(self.next.fetch_add(1, Relaxed)).filter(|&task| task < self.end)
    }
}

struct Job {
    sections: Box<[Section]>,
    /// Number of helpers inside `work`, plus `CLOSED`.
    helpers: AtomicUsize,
    /// Borrowed from the caller's stack, lifetime erased: dereferenced only by the caller and by helpers counted in
    /// `helpers`, for whom the caller waits.
    run: *const (dyn Fn(usize) + Sync),
    /// What a task of a helper panicked with; the caller goes on with it.
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `run` points to a `Sync` closure, so sharing and sending the pointer is fine; that it is not used after the
// closure is gone is argued at its declaration.
unsafe impl Send for Job {}
// SAFETY: as above; the other fields are `Sync` anyway.
unsafe impl Sync for Job {}

impl Job {
    /// `sections` sections of `0..total`.
    fn new(total: usize, sections: usize, run: *const (dyn Fn(usize) + Sync)) -> Job {
        let start = |i: usize| i * total / sections;
        let section =
            |i: usize| Section { taken: (i == 0).into(), next: start(i).into(), end: start(i + 1), _apart: [0; 13] };
        Job {
            sections: (0..sections).map(section).collect(),
            helpers: AtomicUsize::new(0),
            run,
            panicked: Mutex::new(None),
        }
    }

    /// The section that a helper begins with: always the same of a worker, unless another one has it. The first is the caller's.
    fn section_of_helper(&self) -> usize {
        let all = self.sections.len();
        let first = rayon::current_thread_index().unwrap_or(0);
        let free = (first..first + all).find(|i| !self.sections[1 + i % (all - 1)].taken.swap(true, Relaxed));
        1 + free.unwrap_or(first) % (all - 1)
    }

    /// Works on this section, then helps with the others in turn.
    fn work(&self, first: usize) {
        let (before, from) = self.sections.split_at(first);
        for section in from.iter().chain(before) {
            while let Some(task) = section.take() {
                // SAFETY: the caller of `for_each` keeps the closure alive until `helpers` has no one left; see the declaration
                // of `run`.
                unsafe { (*self.run)(task) }
            }
        }
    }

    fn help(&self) {
        // Join, unless the caller has already finished everything.
        let join = |n: usize| (n & CLOSED == 0).then_some(n + 1);
        if self.helpers.fetch_update(Acquire, Relaxed, join).is_ok() {
            let _leave = Leave(self);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.work(self.section_of_helper()))) {
                self.panicked.lock().get_or_insert(payload);
            }
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
fn wait_until(ready: impl Fn() -> bool) {
    let mut spins = 0u32;
    while !ready() {
        spins += 1;
        if spins < 10_000 { core::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// Ends the job and waits for the helpers, also when the caller's own task panics.
struct Close<'a>(&'a Job);
impl Drop for Close<'_> {
    fn drop(&mut self) {
        // From here on nobody joins. Those inside only finish the task they are in, so the wait is short.
        self.0.helpers.fetch_or(CLOSED, AcqRel);
        wait_until(|| self.0.helpers.load(Acquire) == CLOSED);
    }
}

/// Calls `run(0..total)`, each index once, on up to `threads` threads including this one. A panic of any of them goes on here,
/// when all have left `run`.
pub(crate) fn for_each(total: usize, threads: usize, run: &(dyn Fn(usize) + Sync)) {
    let helpers = threads.min(total).saturating_sub(1);
    if helpers == 0 {
        (0..total).for_each(run);
        return;
    }
    // SAFETY: only the lifetime changes; `Close` below keeps every use inside this call.
    let run = unsafe { core::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(run) };
    let job = Arc::new(Job::new(total, helpers + 1, run));
    lobby::call(&job, helpers);
    {
        let _close = Close(&job);
        job.work(0);
    }
    if let Some(payload) = job.panicked.lock().take() {
        resume_unwind(payload);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::AtomicU32,
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    fn counted(total: usize, threads: usize) {
        let counts: Vec<AtomicU32> = (0..total).map(|_| AtomicU32::new(0)).collect();
        for_each(total, threads, &|i| {
            counts[i].fetch_add(1, Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Relaxed) == 1), "{total} {threads}");
    }

    #[test]
    fn every_task_runs_once_from_any_thread_and_pool() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|i| counted(i % 17, 1 + i % 5)));
            }
            pool.install(|| (0..200).for_each(|i| counted(i % 17, 3)));
        });
    }

    #[test]
    fn a_thread_does_its_own_section_first() {
        let caller = thread::current().id();
        for _ in 0..20 {
            let begun: [AtomicBool; 8] = Default::default();
            let by_caller: [AtomicBool; 8] = Default::default();
            let late = Instant::now() + Duration::from_secs(20);
            for_each(8, 2, &|i| {
                by_caller[i].store(thread::current().id() == caller, Relaxed);
                begun[i].store(true, Release);
                // In the first two tasks of either section the threads wait for each other, so that neither is done before the
                // other one has come, and takes its tasks.
                let other = (i + 4) % 8;
                wait_until(|| i % 4 >= 2 || begun[other].load(Acquire) || Instant::now() > late);
            });
            assert_eq!([0, 1, 4, 5].map(|i| by_caller[i].load(Relaxed)), [true, true, false, false]);
        }
    }

    #[test]
    fn a_task_may_have_tasks() {
        let sum = AtomicU32::new(0);
        for_each(8, 4, &|i| {
            for_each(8, 4, &|j| {
                sum.fetch_add((8 * i + j) as u32, Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 63 * 64 / 2);
    }

    /// The calling thread takes no task until a helper has one, so that it is the helper's that panics.
    #[test]
    fn a_panic_of_a_helper_goes_on_in_the_caller() {
        let caller = thread::current().id();
        for _ in 0..20 {
            let helped = AtomicUsize::new(0);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                for_each(2, 2, &|_| {
                    if thread::current().id() == caller {
                        wait_until(|| helped.load(Acquire) == 1);
                    } else {
                        helped.store(1, Release);
                        panic!("of a helper");
                    }
                });
            }));
            assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"of a helper"));
        }
    }

    /// A worker is there for the next job whether it still waits or sleeps.
    #[test]
    fn a_worker_comes_after_pauses_of_any_length() {
        for pause in [0, 10, 100, 1000, 20_000] {
            for _ in 0..10 {
                let caller = thread::current().id();
                let helped = AtomicUsize::new(0);
                for_each(2, 2, &|_| {
                    if thread::current().id() == caller {
                        wait_until(|| helped.load(Acquire) == 1);
                    } else {
                        helped.store(1, Release);
                    }
                });
                thread::sleep(Duration::from_micros(pause));
            }
        }
    }
}
