//! The caching allocator: device memory is requested from the driver in segments, split into blocks, and cached.
//!
//! With `KILN_CUDA_NO_MEMORY_CACHING=1` ([`Allocator::uncached`]) nothing is split or cached: each block is an
//! allocation of the driver, of exactly the requested size, and is returned when it is freed. Tools that track the
//! driver's allocations (the simulator, NVIDIA's compute-sanitizer) then see every access outside of a tensor or
//! workspace.
//!
//! An allocation by the driver takes microseconds to milliseconds, and freeing waits for all work. A training step
//! requests the same sizes again and again, so freed blocks are kept and the best fit is reused: after the first step
//! there are no more calls to the driver.
//!
//! A capture has a [`Pool`] of its own: only its own work reuses the blocks that it frees, because each launch of the graph
//! uses them. During a capture no memory is returned to the driver, because that would wait for the device.
//!
//! Blocks are ordered by one stream: a block that is freed while kernels still use it may be reused at once, because
//! the next owner's work is queued after them. Nothing here waits for the device.

mod blocks;
mod driver;
mod pool;
mod size_class;
mod source;
#[cfg(test)]
mod tests;

use kiln_backend::{Bytes, ErrorKind, MemoryStats, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use self::{
    blocks::{Blocks, Id},
    size_class::{Class, LARGE_ROUND, ROUND},
    source::Source,
};
pub(crate) use self::{driver::DriverMemory, pool::Pool};

/// The allocator of a device, which all threads share.
pub(crate) type DeviceAllocator = Mutex<Allocator<DriverMemory>>;

/// A block in use. Return it with [`Allocator::free`].
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) address: u64,
    /// The size of the block, which may be larger than was requested.
    pub(crate) size: usize,
    pub(crate) pool: Pool,
    /// `None` without caching.
    id: Option<Id>,
}

pub(crate) struct Allocator<S> {
    source: S,
    caching: bool,
    blocks: Blocks,
    stats: MemoryStats,
    /// The pools of captures and their graphs. Without caching, each lists the blocks that were freed in it.
    pools: FxHashMap<Pool, Vec<(u64, usize)>>,
    latest: Pool,
    /// How many captures are in progress.
    captures: usize,
}

impl<S: Source> Allocator<S> {
    pub(crate) fn new(source: S) -> Allocator<S> {
        Allocator {
            source,
            caching: true,
            blocks: Blocks::default(),
            stats: MemoryStats::default(),
            pools: FxHashMap::default(),
            latest: Pool::COMMON,
            captures: 0,
        }
    }

    /// An allocator that makes one allocation of the source per block, in stream order: for tools that detect invalid
    /// accesses.
    pub(crate) fn uncached(source: S) -> Allocator<S> {
        Allocator { caching: false, ..Allocator::new(source) }
    }

    /// Whether freed memory is kept.
    pub(crate) fn caching(&self) -> bool {
        self.caching
    }

    /// Allocates at least `bytes` bytes (not 0).
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] with the memory figures, if returning all cached memory was not enough.
    pub(crate) fn alloc(&mut self, bytes: usize) -> Result<Allocation> {
        self.alloc_in(Pool::COMMON, bytes)
    }

    /// [`alloc`](Self::alloc) from a pool.
    pub(crate) fn alloc_in(&mut self, pool: Pool, bytes: usize) -> Result<Allocation> {
        if !self.caching {
            let address = self.source.take_in_order(bytes)?.ok_or_else(|| self.out_of_memory(bytes))?;
            self.stats.reserved += bytes;
            self.stats.system_allocations += 1;
            self.count(bytes);
            return Ok(Allocation { address, size: bytes, pool, id: None });
        }
        let Some(size) = bytes.checked_next_multiple_of(ROUND).filter(|&size| isize::try_from(size).is_ok()) else {
            return Err(self.out_of_memory(bytes));
        };
        let class = Class::of(size);
        let id = match self.blocks.best_fit(pool, class, size) {
            Some(id) => id,
            None => self.grow(pool, class, size)?.ok_or_else(|| self.out_of_memory(bytes))?,
        };
        let taken = self.blocks.take(id, size, class.least_rest());
        self.count(taken.size);
        Ok(Allocation { address: taken.address, size: taken.size, pool, id: Some(id) })
    }

    /// Frees a block and merges it with free neighbors.
    pub(crate) fn free(&mut self, allocation: Allocation) {
        self.set_aside(&allocation);
        self.free_aside(allocation);
    }

    fn count(&mut self, bytes: usize) {
        self.stats.allocated += bytes;
        self.stats.peak_allocated = self.stats.peak_allocated.max(self.stats.allocated);
    }

    /// Sets a block aside: no tensor uses it for now, so it does not count as in use, but it is not free either.
    pub(crate) fn set_aside(&mut self, allocation: &Allocation) {
        self.stats.allocated -= allocation.size;
    }

    /// Call when a tensor uses a block that was set aside.
    pub(crate) fn take_up(&mut self, allocation: &Allocation) {
        self.count(allocation.size);
    }

    /// [`free`](Self::free) for blocks that are set aside.
    pub(crate) fn free_aside(&mut self, allocation: Allocation) {
        match allocation.id {
            Some(id) => self.blocks.release(id),
            None => match self.pools.get_mut(&allocation.pool) {
                // Each launch of the graph uses it.
                Some(kept) => kept.push((allocation.address, allocation.size)),
                None => self.give_in_order(allocation.address, allocation.size),
            },
        }
    }

    fn give_in_order(&mut self, address: u64, size: usize) {
        self.source.give_in_order(address);
        self.stats.reserved -= size;
    }

    /// Begins a capture, and returns its pool. Cached memory is returned to the source first, since the capture cannot use it.
    pub(crate) fn begin_capture(&mut self) -> Pool {
        self.give_back();
        self.captures += 1;
        self.latest.0 += 1;
        self.pools.insert(self.latest, Vec::new());
        self.latest
    }

    /// Ends a capture. Its graph keeps the pool.
    pub(crate) fn end_capture(&mut self) {
        self.captures -= 1;
    }

    /// Call when the graph of a pool is destroyed: the pool's memory becomes common, blocks in use once they are freed.
    pub(crate) fn retire(&mut self, pool: Pool) {
        self.blocks.retire(pool);
        for (address, size) in self.pools.remove(&pool).unwrap_or_default() {
            self.give_in_order(address, size);
        }
    }

    /// A new segment: of the class's size, else of that size after returning cached memory, else of the smallest
    /// sufficient size.
    fn grow(&mut self, pool: Pool, class: Class, size: usize) -> Result<Option<Id>> {
        let whole = class.segment(size);
        for (attempt, bytes) in [whole, whole, size.next_multiple_of(LARGE_ROUND)].into_iter().enumerate() {
            if attempt == 1 && self.give_back() == 0 {
                continue;
            }
            if let Some(address) = self.source.take(bytes)? {
                self.stats.reserved += bytes;
                self.stats.system_allocations += 1;
                return Ok(Some(self.blocks.add_segment(pool, class, address, bytes)));
            }
        }
        Ok(None)
    }

    /// Returns every entirely free segment to the source, and returns the number of bytes. Does nothing during a capture, which
    /// would become invalid by the wait for the device.
    fn give_back(&mut self) -> usize {
        if self.captures > 0 {
            return 0;
        }
        let mut given = 0;
        for (address, size) in self.blocks.remove_free_segments() {
            self.source.give(address);
            given += size;
        }
        self.stats.reserved -= given;
        given
    }

    pub(crate) fn empty_cache(&mut self) {
        self.give_back();
    }

    /// Free bytes on the device according to the system, if it reports them.
    pub(crate) fn free_on_device(&self) -> Option<usize> {
        Some(self.source.system()?.0)
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.stats
    }

    pub(crate) fn reset_peak(&mut self) {
        self.stats.peak_allocated = self.stats.allocated;
    }

    fn out_of_memory(&self, bytes: usize) -> kiln_backend::Error {
        ErrorKind::OutOfMemory { device: self.source.device(), requested: bytes, detail: self.figures() }.into()
    }

    /// Who uses how much memory, and what can be done, for an out-of-memory error.
    pub(crate) fn figures(&self) -> String {
        let MemoryStats { allocated, reserved, peak_allocated, .. } = self.stats;
        let system = match self.source.system() {
            Some((free, total)) => format!("the device has {} of {} free", Bytes(free), Bytes(total)),
            None => "the device does not report how much is free".into(),
        };
        format!(
            "{} are in use by tensors (at most {} so far), {} are held in all, the largest free block of which has {}, \
             and {system}. Smaller batches, half precision, or dropping tensors and graphs that are not needed any \
             more would help; so would ending other programs on this device",
            Bytes(allocated),
            Bytes(peak_allocated),
            Bytes(reserved),
            Bytes(self.blocks.largest_free()),
        )
    }
}
