//! The CPU's caching allocator: a process-wide cache of memory blocks.
//!
//! Training allocates the same sizes in every step. Memory fresh from the system costs page faults that are more
//! expensive than most element-wise operations, so freed blocks are kept by size class and reused.

use std::{
    alloc::{self, Layout},
    marker::PhantomData,
    ptr::NonNull,
};

use bytemuck::Pod;
use kiln_backend::{ErrorKind, MemoryStats, Result};
use parking_lot::Mutex;

/// Alignment of blocks: a cache line, and the widest vector register.
pub(crate) const ALIGN: usize = 64;
/// Size classes are multiples of this up to `LINEAR_END`, then eight per doubling (at most 12.5% waste).
const STEP: usize = 512;
const LINEAR_END: usize = 4096;
const LINEAR_CLASSES: usize = LINEAR_END / STEP;
const PER_DOUBLING: usize = 8;
/// Cached memory below this is only returned to the system on request.
const RETAIN: usize = 64 << 20;
/// The system's allocator gives zeroed pages for free only at its own alignment; blocks are aligned to `ALIGN` within
/// an allocation that is this much larger.
const SYSTEM_ALIGN: usize = 16;

/// A block of one size class, initialized (zero when fresh from the system, old contents when recycled) and aligned to
/// [`ALIGN`]. Dropping it returns it to the cache.
pub(crate) struct Block {
    ptr: NonNull<u8>,
    /// The size of its class; 0 for the empty block, which has no memory.
    size: usize,
}

// SAFETY: a block owns its memory exclusively, like a `Box<[u8]>`.
unsafe impl Send for Block {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Block {}

impl Block {
    /// A block of at least `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Result<Block> {
        if bytes == 0 {
            return Ok(Block { ptr: NonNull::<Aligned>::dangling().cast(), size: 0 });
        }
        let Some((class, size)) = size_class(bytes) else { return Err(out_of_memory(bytes)) };
        let recycled = {
            let mut cache = CACHE.lock();
            let found = cache.take(class);
            if found.is_some() {
                cache.cached -= size;
                cache.occupy(size);
            }
            found
        };
        let ptr = match recycled {
            Some(ptr) => ptr.0,
            None => fresh(size).ok_or_else(|| out_of_memory(bytes))?,
        };
        Ok(Block { ptr, size })
    }

    pub(crate) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Poisons the block, in builds with debug assertions.
    pub(crate) fn poison(&mut self) {
        // SAFETY: the block has `size` bytes, and is borrowed exclusively.
        unsafe { poison(self.ptr.as_ptr(), self.size) }
    }

    /// Whether nothing was written past the first `used` bytes of a block that was [poisoned](Block::poison).
    pub(crate) fn guard_is_intact(&self, used: usize) -> bool {
        // SAFETY: the block has `size` bytes, all initialized, and is borrowed.
        used <= self.size && unsafe { guard_is_intact(self.ptr.as_ptr(), used, self.size) }
    }
}

/// In builds with debug assertions, working memory and a guard zone after it are filled with this byte, which makes
/// every float NaN: code that reads uninitialized memory computes NaN, and code that writes past the end changes the
/// guard.
const POISON: u8 = 0xff;
/// Minimum size of the guard zone.
const GUARD: usize = 256;

/// Fills working memory and its guard zone, in builds with debug assertions.
///
/// # Safety
/// The `size` bytes from `start` belong to the caller.
pub(crate) unsafe fn poison(start: *mut u8, size: usize) {
    if cfg!(debug_assertions) {
        // SAFETY: the caller's promise.
        unsafe { start.write_bytes(POISON, size) }
    }
}

/// Whether the guard zone, the bytes from `used` to `size`, is as [`poison`] left it; `true` in builds without debug
/// assertions.
///
/// # Safety
/// The `size` bytes from `start` were given to [`poison`], are initialized, and belong to the caller.
pub(crate) unsafe fn guard_is_intact(start: *const u8, used: usize, size: usize) -> bool {
    if !cfg!(debug_assertions) {
        return true;
    }
    // SAFETY: the caller's promise.
    let guard = unsafe { std::slice::from_raw_parts(start.add(used), size - used) };
    // All bits of POISON are 1. Without an exit at the first other byte it is vectorized: every tensor that is dropped in
    // tests is looked at.
    const { assert!(POISON == 0xff) };
    guard.iter().fold(POISON, |all, &byte| all & byte) == POISON
}

/// `size` with room for a guard zone, in builds with debug assertions.
pub(crate) fn guarded(size: usize) -> usize {
    if cfg!(debug_assertions) { size.saturating_add(GUARD) } else { size }
}

/// Working memory of exactly `len` elements, with unspecified contents.
pub(crate) struct Scratch<T: Pod> {
    block: Block,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Scratch<T> {
    pub(crate) fn new(len: usize) -> Result<Scratch<T>> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let mut block = Block::new(guarded(len.saturating_mul(size_of::<T>())))?;
        block.poison();
        Ok(Scratch { block, len, element: PhantomData })
    }

    /// The elements; their contents are what the last user of the block left.
    pub(crate) fn values(&mut self) -> &mut [T] {
        // SAFETY: the block was made for as many elements, is initialized, aligned to ALIGN and borrowed exclusively with
        // `self`; every bit pattern is a value of T.
        unsafe { std::slice::from_raw_parts_mut(self.block.ptr.as_ptr().cast(), self.len) }
    }
}

impl<T: Pod> Drop for Scratch<T> {
    fn drop(&mut self) {
        let used = self.len * size_of::<T>();
        let untouched = self.block.guard_is_intact(used);
        debug_assert!(untouched || std::thread::panicking(), "a write past {used} bytes of working memory");
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some((class, size)) = size_class(self.size) {
            let mut cache = CACHE.lock();
            cache.allocated -= size;
            cache.cached += size;
            if cache.free.len() <= class {
                cache.free.resize_with(class + 1, Vec::new);
            }
            cache.free[class].push(Free(self.ptr));
        }
    }
}

/// What a dangling pointer for `Block` must be aligned to.
#[repr(align(64))]
struct Aligned;

/// A free block in the cache.
struct Free(NonNull<u8>);
// SAFETY: the cache is the only owner of a free block's memory.
unsafe impl Send for Free {}

struct Cache {
    /// Free blocks by class, the latest freed last (it is the warmest in the CPU's caches).
    free: Vec<Vec<Free>>,
    allocated: usize,
    cached: usize,
    peak: usize,
    /// Like `peak`, but only `empty_cache` lowers it: it measures how much is worth caching.
    high_water: usize,
    system_allocations: u64,
}

static CACHE: Mutex<Cache> =
    Mutex::new(Cache { free: Vec::new(), allocated: 0, cached: 0, peak: 0, high_water: 0, system_allocations: 0 });

impl Cache {
    fn take(&mut self, class: usize) -> Option<Free> {
        self.free.get_mut(class)?.pop()
    }

    fn occupy(&mut self, size: usize) {
        self.allocated += size;
        self.peak = self.peak.max(self.allocated);
        self.high_water = self.high_water.max(self.allocated);
    }

    /// Together with the memory in use, up to a quarter more than was ever in use at once. The sizes of a training step
    /// peak at different times; without this margin, each step would return blocks to the system that the next one
    /// requests again (87 of them in VGG16, which the system has to clear).
    fn worth_caching(&self) -> usize {
        (self.high_water + self.high_water / 4).max(RETAIN).saturating_sub(self.allocated)
    }

    /// Removes free blocks until at most `limit` bytes are cached: as few as possible, and no larger ones than needed.
    fn trim(&mut self, limit: usize) -> Vec<(Free, usize)> {
        let mut removed = Vec::new();
        while let Some(excess) = self.cached.checked_sub(limit).filter(|&excess| excess > 0) {
            let mut kept = (0..self.free.len()).filter(|&class| !self.free[class].is_empty());
            let Some(class) = kept.clone().find(|&class| class_size(class) >= excess).or_else(|| kept.next_back())
            else {
                break;
            };
            let Some(block) = self.take(class) else { break };
            self.cached -= class_size(class);
            removed.push((block, class_size(class)));
        }
        removed
    }
}

/// The class of a request and the size of its blocks; `None` for 0 bytes and for more than memory can hold.
fn size_class(bytes: usize) -> Option<(usize, usize)> {
    if bytes == 0 || bytes > isize::MAX as usize / 2 {
        return None;
    }
    let class = if bytes <= LINEAR_END {
        bytes.div_ceil(STEP) - 1
    } else {
        let log = (bytes - 1).ilog2();
        let base = 1usize << log;
        let eighths = (bytes - base).div_ceil(base / PER_DOUBLING);
        LINEAR_CLASSES + (log - LINEAR_END.ilog2()) as usize * PER_DOUBLING + eighths - 1
    };
    Some((class, class_size(class)))
}

fn class_size(class: usize) -> usize {
    if class < LINEAR_CLASSES {
        return (class + 1) * STEP;
    }
    let (doubling, eighth) = ((class - LINEAR_CLASSES) / PER_DOUBLING, (class - LINEAR_CLASSES) % PER_DOUBLING);
    let base = LINEAR_END << doubling;
    base + base / PER_DOUBLING * (eighth + 1)
}

/// Room for a block of `size` bytes at any base address, with a word before the block that holds the distance to the
/// base.
fn system_layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(ALIGN)?, SYSTEM_ALIGN).ok()
}

/// A block from the system, counted as allocated. If the system refuses, cached blocks are returned to it first.
fn fresh(size: usize) -> Option<NonNull<u8>> {
    let ptr = system_alloc(size).or_else(|| {
        empty_cache();
        system_alloc(size)
    })?;
    let surplus = {
        let mut cache = CACHE.lock();
        cache.system_allocations += 1;
        cache.occupy(size);
        // The cached blocks did not fit this request. Without a bound, a program whose sizes keep changing would cache
        // blocks of every size that it ever used.
        let limit = cache.worth_caching();
        cache.trim(limit)
    };
    release(surplus);
    Some(ptr)
}

fn system_alloc(size: usize) -> Option<NonNull<u8>> {
    let layout = system_layout(size)?;
    // SAFETY: the layout's size is not zero.
    let base = NonNull::new(unsafe { alloc::alloc_zeroed(layout) })?;
    // The base is aligned to SYSTEM_ALIGN, so the distance is a multiple of it from 16 to 64.
    let distance = ALIGN - base.addr().get() % ALIGN;
    // SAFETY: SYSTEM_ALIGN <= distance <= ALIGN, and the layout has ALIGN bytes more than `size`; the word before the
    // block is inside the allocation, and aligned because the block is.
    unsafe {
        let block = base.add(distance);
        block.cast::<usize>().sub(1).write(distance);
        Some(block)
    }
}

/// Returns blocks to the system; outside the lock, because unmapping memory takes long.
fn release(blocks: Vec<(Free, usize)>) {
    for (Free(ptr), size) in blocks {
        let Some(layout) = system_layout(size) else { continue };
        // SAFETY: `system_alloc` made the block from this layout and left the distance to the start of the allocation
        // in the word before it; nobody else owns the block.
        unsafe {
            let distance = ptr.cast::<usize>().sub(1).read();
            alloc::dealloc(ptr.sub(distance).as_ptr(), layout);
        }
    }
}

fn out_of_memory(requested: usize) -> kiln_backend::Error {
    let stats = stats();
    let detail = format!("{} bytes are in use by tensors; the system refused more", stats.allocated);
    ErrorKind::OutOfMemory { device: "cpu".into(), requested, detail }.into()
}

/// Counts memory that tensors took over from the host.
pub(crate) fn note_adopted(bytes: usize) {
    CACHE.lock().occupy(bytes);
}

/// Counts adopted memory that was freed.
pub(crate) fn note_released(bytes: usize) {
    CACHE.lock().allocated -= bytes;
}

pub(crate) fn stats() -> MemoryStats {
    let cache = CACHE.lock();
    MemoryStats {
        allocated: cache.allocated,
        peak_allocated: cache.peak,
        reserved: cache.allocated + cache.cached,
        system_allocations: cache.system_allocations,
    }
}

pub(crate) fn reset_peak() {
    let mut cache = CACHE.lock();
    cache.peak = cache.allocated;
}

pub(crate) fn empty_cache() {
    let blocks = {
        let mut cache = CACHE.lock();
        cache.high_water = cache.allocated;
        cache.trim(0)
    };
    release(blocks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_requests_with_little_waste() {
        for bytes in (1..20_000).chain([1 << 20, (1 << 20) + 1, 123_456_789, (1 << 33) + 7]) {
            let (class, size) = size_class(bytes).unwrap();
            assert!(size >= bytes && size - bytes <= (bytes / 8).max(STEP), "{bytes} -> {size}");
            assert_eq!(size_class(size), Some((class, size)), "{bytes}");
            assert!(class == 0 || class_size(class - 1) < bytes);
        }
        assert_eq!(size_class(usize::MAX), None);
    }

    #[test]
    fn blocks_are_aligned_zeroed_and_recycled() {
        // A size that no other test uses, so that the class is this test's own.
        let bytes = 3_333_337;
        let block = Block::new(bytes).unwrap();
        let address = block.ptr();
        assert_eq!(address.addr().get() % ALIGN, 0);
        // SAFETY: the block has at least `bytes` initialized bytes.
        assert!(unsafe { std::slice::from_raw_parts(address.as_ptr(), bytes) }.iter().all(|&b| b == 0));
        drop(block);
        assert_eq!(Block::new(bytes - 5).unwrap().ptr(), address);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn writes_past_working_memory_are_found() {
        for len in [0, 1, 1000, 128, 1 << 17] {
            let mut scratch = Scratch::<f32>::new(len).unwrap();
            assert!(scratch.values().iter().all(|x| x.is_nan()));
            let guard = scratch.values().as_mut_ptr_range().end;
            // SAFETY: there is a guard of GUARD bytes after the elements.
            unsafe {
                assert!(guard.read().is_nan() && guard.add(GUARD / 4 - 1).read().is_nan());
                guard.add(3).write(0.0);
            }
            let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(scratch)));
            assert!(dropped.is_err(), "{len}");
        }
    }

    #[test]
    fn too_much_memory_is_an_error() {
        for bytes in [usize::MAX, isize::MAX as usize / 4] {
            let error = Block::new(bytes).err().unwrap();
            assert!(matches!(error.kind(), ErrorKind::OutOfMemory { .. }), "{error}");
        }
        assert_eq!(Block::new(0).unwrap().ptr().addr().get() % ALIGN, 0);
    }

    #[test]
    fn trimming_frees_no_more_than_it_must() {
        let full = |sizes: &[usize]| {
            let mut cache =
                Cache { free: Vec::new(), allocated: 0, cached: 0, peak: 0, high_water: 0, system_allocations: 0 };
            for &bytes in sizes {
                let (class, size) = size_class(bytes).unwrap();
                cache.free.resize_with(cache.free.len().max(class + 1), Vec::new);
                cache.free[class].push(Free(NonNull::dangling()));
                cache.cached += size;
            }
            cache
        };
        let trimmed = |limit| {
            let mut cache = full(&[512, 4096, 8192, 1 << 20]);
            let sizes: Vec<usize> = cache.trim(limit).iter().map(|b| b.1).collect();
            assert_eq!(cache.cached + sizes.iter().sum::<usize>(), 512 + 4096 + 8192 + (1 << 20));
            sizes
        };
        let all = 512 + 4096 + 8192 + (1 << 20);
        assert_eq!(trimmed(all), []);
        assert_eq!(trimmed(all - 1), [512]);
        assert_eq!(trimmed(all - 5000), [8192]);
        assert_eq!(trimmed(5000), [1 << 20, 8192]);
        assert_eq!(trimmed(0).len(), 4);
        assert!(full(&[]).trim(0).is_empty());
        let worth = |high_water, allocated| Cache { high_water, allocated, ..full(&[]) }.worth_caching();
        assert_eq!((worth(0, 0), worth(RETAIN, RETAIN), worth(4 * RETAIN, RETAIN)), (RETAIN, RETAIN / 4, 4 * RETAIN));
        assert_eq!(worth(RETAIN, 2 * RETAIN), 0);
    }
}
