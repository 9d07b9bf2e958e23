//! An allocator that counts bytes, and fails beyond a limit.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Counts what is allocated now, and the most that was, within a bound.
pub struct Counting;

pub static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
pub static BOUND: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The least bound that would have admitted one of the allocations that were refused.
pub static REFUSED: AtomicUsize = AtomicUsize::new(usize::MAX);
/// What is always there: an error that says that memory has run out takes some itself.
const SMALL: usize = 2048;

/// Counts an allocation; whether there is room for it.
fn count(bytes: usize) -> bool {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    let fits = bytes <= SMALL || live <= BOUND.load(Relaxed);
    if fits {
        PEAK.fetch_max(live, Relaxed);
    } else {
        LIVE.fetch_sub(bytes, Relaxed);
        REFUSED.fetch_min(live, Relaxed);
    }
    fits
}

// SAFETY: all calls go to the system's allocator as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if count(layout.size()) { unsafe { System.alloc(layout) } } else { ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        if count(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { ptr::null_mut() }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there while one is copied.
        if size > layout.size() && !count(size) {
            return ptr::null_mut();
        }
        if size < layout.size() {
            LIVE.fetch_add(size, Relaxed);
        }
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// The most memory that `f` held.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}
