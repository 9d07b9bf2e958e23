//! Where workers wait for the next job.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::*},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Job;

/// How long a worker waits: longer than between two operations of a step, too short for the time to be missed elsewhere.
const WAIT: Duration = Duration::from_micros(200);
/// How often it looks before it lets other threads run in between.
const LOOKS: u32 = 1000;

/// A worker that waits.
struct Seat {
    pool: u64,
    /// Set when `job` is.
    called: AtomicBool,
    job: Mutex<Option<Arc<Job>>>,
}

/// Those that wait, the one that came last at the end: its caches are the warmest.
static SEATS: Mutex<Vec<Arc<Seat>>> = Mutex::new(Vec::new());

/// The pool that rayon uses for threads that belong to none.
const GLOBAL: u64 = 1;

thread_local! {
    /// The pool of this thread, 0 if it is not known yet.
    static POOL: Cell<u64> = const { Cell::new(0) };
}

/// The pool that this thread's jobs run on. rayon's pools have no names, so a worker that calls before it has helped takes a
/// new one, and its pool goes by several: that only means that some of its workers are not seen waiting.
fn pool() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(GLOBAL + 1);
    if rayon::current_thread_index().is_none() {
        return GLOBAL;
    }
    POOL.with(|pool| {
        if pool.get() == 0 {
            pool.set(NEXT.fetch_add(1, Relaxed));
        }
        pool.get()
    })
}

/// Calls so many helpers for a job, first those that wait.
pub(super) fn call(job: &Arc<Job>, helpers: usize) {
    let pool = pool();
    let mut missing = helpers;
    {
        let mut seats = SEATS.lock();
        for i in (0..seats.len()).rev() {
            if missing == 0 {
                break;
            }
            if seats[i].pool == pool {
                let seat = seats.remove(i);
                *seat.job.lock() = Some(job.clone());
                seat.called.store(true, Release);
                missing -= 1;
            }
        }
    }
    for _ in 0..missing {
        let job = job.clone();
        rayon::spawn(move || {
            POOL.set(pool);
            help_and_wait(pool, job);
        });
    }
}

/// Helps with a job, and with those that follow it at once.
fn help_and_wait(pool: u64, job: Arc<Job>) {
    let mut job = Some(job);
    while let Some(this) = job {
        this.help();
        drop(this);
        job = wait(pool);
    }
}

/// The next job, if there is one in time.
fn wait(pool: u64) -> Option<Arc<Job>> {
    let seat = Arc::new(Seat { pool, called: AtomicBool::new(false), job: Mutex::new(None) });
    SEATS.lock().push(seat.clone());
    let start = Instant::now();
    let mut looks = 0u32;
    while !seat.called.load(Acquire) {
        looks += 1;
        if looks < LOOKS {
            core::hint::spin_loop();
        } else if start.elapsed() < WAIT {
            thread::yield_now();
        } else {
            // Not to be called from here on; it may just have been.
            SEATS.lock().retain(|other| !Arc::ptr_eq(other, &seat));
            break;
        }
    }
    seat.job.lock().take()
}
