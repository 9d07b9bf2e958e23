//! Reusable aligned buffers, kept per thread so that a warm product never allocates.

use core::cell::RefCell;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

use crate::memory::allocator::{guard_is_intact, guarded, poison};

/// Page alignment: packed panels then never share a page with anything else, and two
/// buffers of one thread start in the same, predictable cache set.
const ALIGN: usize = 4096;

struct Buffer {
    start: *mut u8,
    size: usize,
}

impl Buffer {
    fn new(size: usize) -> Buffer {
        let size = size.max(1).next_multiple_of(ALIGN);
        // A size the layout refuses could not be allocated either; both end the same way.
        let layout = Layout::from_size_align(size, ALIGN).unwrap_or(Layout::new::<u8>());
        if layout.size() != size {
            handle_alloc_error(layout);
        }
        // SAFETY: the layout has a size greater than zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Buffer { start, size }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc` with exactly this layout, which was valid there.
        unsafe { dealloc(self.start, Layout::from_size_align_unchecked(self.size, ALIGN)) }
    }
}

thread_local! {
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with room for `len` elements of `T`, uninitialized and page-aligned. Nested calls get different buffers.
/// In builds with debug assertions they are filled with NaN, and writes past their end are detected.
pub(crate) fn with_scratch<T: Copy, R>(len: usize, f: impl FnOnce(*mut T) -> R) -> R {
    let used = len.saturating_mul(size_of::<T>());
    let buffer = take(used);
    let result = f(buffer.start.cast());
    give_back(buffer, used);
    result
}

/// A buffer of at least `used` bytes, exclusive to this call: a nested call, even from another task that rayon runs on
/// this thread meanwhile, takes or makes another one.
fn take(used: usize) -> Buffer {
    let size = guarded(used);
    let kept = FREE.with_borrow_mut(|free| {
        // The smallest that fits; if none fits, one that is too small is freed in exchange.
        let fit = (0..free.len()).filter(|&i| free[i].size >= size).min_by_key(|&i| free[i].size);
        if fit.is_none() && free.len() >= 4 {
            free.pop();
        }
        fit.map(|i| free.swap_remove(i))
    });
    let buffer = kept.unwrap_or_else(|| Buffer::new(size));
    // SAFETY: the buffer has at least `size` bytes, and nobody else has it.
    unsafe { poison(buffer.start, size) };
    buffer
}

/// Keeps a buffer for reuse, of which `used` bytes were requested.
fn give_back(buffer: Buffer, used: usize) {
    // SAFETY: `take` filled the bytes, and whoever had the buffer is done with it.
    let untouched = unsafe { guard_is_intact(buffer.start, used, guarded(used)) };
    debug_assert!(untouched, "a write past {used} bytes of a matrix product's working memory");
    FREE.with_borrow_mut(|free| free.push(buffer));
}
