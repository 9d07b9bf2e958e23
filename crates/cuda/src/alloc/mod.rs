//! The caching allocator: device memory is asked of the driver in segments, cut into blocks, and kept.
//!
//! With `KILN_CUDA_NO_MEMORY_CACHING=1` ([`Allocator::uncached`]) nothing is cut or kept: each block is an allocation of
//! the driver, of exactly the bytes that were asked for, and goes back when it is freed. Tools that know the driver's
//! allocations (the simulator, NVIDIA's compute-sanitizer) then see every access that leaves its tensor or workspace.
//!
//! Asking the driver costs microseconds to milliseconds, and giving back waits for all work. A training step asks
//! for the same sizes again and again, so freed blocks are kept and the best fitting one is handed out: after the
//! first step the driver is not asked any more.
//!
//! Blocks are ordered by one stream: a block that is freed while kernels still use it may be handed out at once,
//! because what its next owner does is queued behind them. Nothing here waits for the device.

mod blocks;
mod driver;
#[cfg(test)]
mod tests;

use blocks::{Blocks, Id};
pub(crate) use driver::DriverMemory;
use kiln_backend::{Bytes, ErrorKind, MemoryStats, Result};
use parking_lot::Mutex;

/// The allocator of a device, which all threads share.
pub(crate) type DeviceAllocator = Mutex<Allocator<DriverMemory>>;

/// Where segments come from.
pub(crate) trait Source {
    /// Memory of `bytes` bytes (not 0), aligned to at least 256 as the driver's is, or `None` if there is not as much.
    ///
    /// # Errors
    /// A failure that freeing memory does not cure.
    fn take(&mut self, bytes: usize) -> Result<Option<u64>>;
    /// Gives a segment back. The memory may still be in use by queued work, which it waits for.
    fn give(&mut self, address: u64);
    /// Memory of exactly `bytes` bytes for the work that is queued from now on, or `None` if there is not as much.
    ///
    /// # Errors
    /// As for [`take`](Self::take).
    fn take_in_order(&mut self, bytes: usize) -> Result<Option<u64>>;
    /// Gives such memory back behind the work that is queued, without waiting for it.
    fn give_in_order(&mut self, address: u64);
    /// Free and total memory as the system sees it, if it says so.
    fn system(&self) -> Option<(usize, usize)>;
    /// The device's name for errors.
    fn device(&self) -> String;
}

/// Sizes are multiples of this, and so are the addresses within a segment.
pub(crate) const ROUND: usize = 512;
/// Requests up to this share small segments, so that they do not nibble at the large ones.
const SMALL: usize = 1 << 20;
const SMALL_SEGMENT: usize = 2 << 20;
/// Large requests below this share segments of this size.
const LARGE_SEGMENT: usize = 20 << 20;
/// Segments for larger requests are multiples of this, which is the driver's own granularity.
const LARGE_ROUND: usize = 2 << 20;

/// Which blocks a request may be served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Small,
    Large,
}

impl Class {
    fn of(bytes: usize) -> Class {
        if bytes <= SMALL { Class::Small } else { Class::Large }
    }

    /// The size of the segment for a request that no block fits.
    fn segment(self, bytes: usize) -> usize {
        match self {
            Class::Small => SMALL_SEGMENT,
            Class::Large if bytes <= LARGE_SEGMENT / 2 => LARGE_SEGMENT,
            Class::Large => bytes.next_multiple_of(LARGE_ROUND),
        }
    }

    /// The smallest rest that is worth a block of its own.
    fn least_rest(self) -> usize {
        match self {
            Class::Small => ROUND,
            Class::Large => SMALL,
        }
    }
}

/// A block in use. Hand it back with [`Allocator::free`].
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) address: u64,
    /// What the block has, which may be more than was asked for.
    pub(crate) size: usize,
    /// `None` without caching.
    id: Option<Id>,
}

pub(crate) struct Allocator<S> {
    source: S,
    caching: bool,
    blocks: Blocks,
    stats: MemoryStats,
}

impl<S: Source> Allocator<S> {
    pub(crate) fn new(source: S) -> Allocator<S> {
        Allocator { source, caching: true, blocks: Blocks::default(), stats: MemoryStats::default() }
    }

    /// One allocation of the source for each block, in the order of the stream: for tools that look for wild accesses.
    pub(crate) fn uncached(source: S) -> Allocator<S> {
        Allocator { caching: false, ..Allocator::new(source) }
    }

    /// Whether freed memory is kept.
    pub(crate) fn caching(&self) -> bool {
        self.caching
    }

    /// Memory for at least `bytes` bytes (not 0).
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] with the figures, after all cached memory was given back in vain.
    pub(crate) fn alloc(&mut self, bytes: usize) -> Result<Allocation> {
        if !self.caching {
            let address = self.source.take_in_order(bytes)?.ok_or_else(|| self.out_of_memory(bytes))?;
            self.stats.reserved += bytes;
            self.stats.system_allocations += 1;
            self.count(bytes);
            return Ok(Allocation { address, size: bytes, id: None });
        }
        let Some(size) = bytes.checked_next_multiple_of(ROUND).filter(|&size| isize::try_from(size).is_ok()) else {
            return Err(self.out_of_memory(bytes));
        };
        let class = Class::of(size);
        let id = match self.blocks.best_fit(class, size) {
            Some(id) => id,
            None => self.grow(class, size)?.ok_or_else(|| self.out_of_memory(bytes))?,
        };
        let taken = self.blocks.take(id, size, class.least_rest());
        self.count(taken.size);
        Ok(Allocation { address: taken.address, size: taken.size, id: Some(id) })
    }

    /// Takes a block back; its neighbors that are free become one with it.
    pub(crate) fn free(&mut self, allocation: Allocation) {
        self.set_aside(&allocation);
        self.free_aside(allocation);
    }

    fn count(&mut self, bytes: usize) {
        self.stats.allocated += bytes;
        self.stats.peak_allocated = self.stats.peak_allocated.max(self.stats.allocated);
    }

    /// No tensor uses this block for now, but it is kept apart, and does not count as in use.
    pub(crate) fn set_aside(&mut self, allocation: &Allocation) {
        self.stats.allocated -= allocation.size;
    }

    /// A tensor uses a block again that was set aside.
    pub(crate) fn take_up(&mut self, allocation: &Allocation) {
        self.count(allocation.size);
    }

    /// [`free`](Self::free) for blocks that are set aside.
    pub(crate) fn free_aside(&mut self, allocation: Allocation) {
        match allocation.id {
            Some(id) => self.blocks.release(id),
            None => {
                self.source.give_in_order(allocation.address);
                self.stats.reserved -= allocation.size;
            }
        }
    }

    /// A new segment: as large as the class has it, else after giving back what is cached, else as small as will do.
    fn grow(&mut self, class: Class, size: usize) -> Result<Option<Id>> {
        let whole = class.segment(size);
        for (attempt, bytes) in [whole, whole, size.next_multiple_of(LARGE_ROUND)].into_iter().enumerate() {
            if attempt == 1 && self.give_back() == 0 {
                continue;
            }
            if let Some(address) = self.source.take(bytes)? {
                self.stats.reserved += bytes;
                self.stats.system_allocations += 1;
                return Ok(Some(self.blocks.add_segment(class, address, bytes)));
            }
        }
        Ok(None)
    }

    /// Gives every segment back that is free as a whole, and says how many bytes that were.
    fn give_back(&mut self) -> usize {
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

    /// Bytes that nobody has, as the system sees it, if it says so.
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

    /// Who has how much, and what can be done, for an error of memory.
    pub(crate) fn figures(&self) -> String {
        let MemoryStats { allocated, reserved, peak_allocated, .. } = self.stats;
        let system = match self.source.system() {
            Some((free, total)) => format!("the device has {} of {} free", Bytes(free), Bytes(total)),
            None => "the device does not say how much it has free".into(),
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
