//! Parallel loops. How work is divided never affects a result: tasks write disjoint elements, and reductions add blocks
//! of a fixed size in a fixed order (see `fold`).

use std::{marker::PhantomData, ops::Range};

use kiln_backend::Result;

use super::team;

/// Minimum number of elements of cheap work (an addition) in a task: about ten microseconds.
pub(crate) const GRAIN: usize = 32 * 1024;

/// Tasks begin at multiples of this, so that no two write to the same cache line of a contiguous output (64 elements of
/// one byte).
const ALIGNMENT: usize = 64;

/// Runs `body` on ranges that cover `0..n`, in parallel if there is more than `grain` to do.
pub(crate) fn ranges(n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
    each_range(n, grain, &body);
}

/// Not generic, so that it is compiled once.
fn each_range(n: usize, grain: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
    let grain = grain.max(1);
    if n <= grain || rayon::current_num_threads() == 1 {
        if n > 0 {
            body(0..n);
        }
        return;
    }
    // Several tasks per thread even out differences in speed.
    let tasks = n.div_ceil(grain).min(rayon::current_num_threads() * 4);
    let mut size = n.div_ceil(tasks);
    if size >= ALIGNMENT {
        size = size.next_multiple_of(ALIGNMENT);
    }
    let each = |task: usize| body(task * size..n.min((task + 1) * size));
    team::for_each(n.div_ceil(size), rayon::current_num_threads(), &each);
}

/// [`ranges`] for a body that can fail: returns the error of the first range that has one.
pub(crate) fn try_ranges(n: usize, grain: usize, body: impl Fn(Range<usize>) -> Result<()> + Sync) -> Result<()> {
    try_each_range(n, grain, &body)
}

fn try_each_range(n: usize, grain: usize, body: &(dyn Fn(Range<usize>) -> Result<()> + Sync)) -> Result<()> {
    let first = parking_lot::Mutex::new(None);
    ranges(n, grain, |range| {
        let start = range.start;
        if let Err(error) = body(range) {
            let mut first = first.lock();
            if first.as_ref().is_none_or(|&(at, _)| start < at) {
                *first = Some((start, error));
            }
        }
    });
    first.into_inner().map_or(Ok(()), |(_, error)| Err(error))
}

/// Runs `body` on blocks of `block` elements that cover `0..n`, in parallel, and returns its results in block order:
/// partial sums of the same elements whatever the number of threads. `state` makes scratch data that a task reuses from
/// block to block.
pub(crate) fn blocks<S, R: Send>(
    n: usize,
    block: usize,
    state: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, Range<usize>) -> R + Sync,
) -> Vec<R> {
    let count = n.div_ceil(block);
    let mut results = Vec::with_capacity(count);
    let slots = Shared::new(&mut results.spare_capacity_mut()[..count]);
    ranges(count, 1, |blocks| {
        let mut state = state();
        // SAFETY: ranges are disjoint.
        let slots = unsafe { slots.part(blocks.clone()) };
        for (i, slot) in blocks.zip(slots) {
            slot.write(body(&mut state, i * block..n.min((i + 1) * block)));
        }
    });
    // SAFETY: every block has written its result: a panic would have left this function.
    unsafe { results.set_len(count) };
    results
}

/// The grain, counted in rows, for rows of `row` elements.
pub(crate) fn row_grain(row: usize) -> usize {
    (GRAIN / row.max(1)).max(1)
}

/// A slice of which tasks write disjoint parts.
pub(crate) struct Shared<'a, T> {
    ptr: *mut T,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

// SAFETY: it gives threads parts of a `&mut [T]`, which its user keeps disjoint.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shared<'a, T> {
        Shared { ptr: slice.as_mut_ptr(), len: slice.len(), memory: PhantomData }
    }

    /// The start of the slice, for parts that are not ranges.
    pub(crate) fn start(&self) -> *mut T {
        self.ptr
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// Parts that are alive at the same time do not overlap.
    #[allow(clippy::mut_from_ref)] // that is what it is for
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part of the slice");
        // SAFETY: inside the slice; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kiln_backend::Error;

    use super::*;

    #[test]
    fn ranges_cover_everything_once() {
        for (n, grain) in [(0, 10), (1, 10), (10, 10), (11, 10), (1000, 1), (100_000, 1000)] {
            let counts: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            ranges(n, grain, |r| {
                for i in r {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{n} {grain}");
        }
    }

    #[test]
    fn the_first_error_wins() {
        let result = try_ranges(1000, 1, |r| Err(Error::argument("t", format!("at {}", r.start))));
        assert_eq!(result.unwrap_err().to_string(), "t: at 0");
    }
}
