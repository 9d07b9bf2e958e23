//! Wakes whoever waits for what other ranks send: calls that look at the driver's state again, and the thread that works for
//! other ranks.
use std::sync::{Condvar, OnceLock};
use std::thread::Thread;

/// Signaled when something may have arrived that a call waits for.
pub static ARRIVED: Condvar = Condvar::new();
/// The thread of `nccl/progress.rs`, once it has started.
pub static PROGRESS: OnceLock<Thread> = OnceLock::new();

/// Something may have arrived.
pub fn wake() {
    if let Some(thread) = PROGRESS.get() {
        thread.unpark();
    }
    ARRIVED.notify_all();
}
