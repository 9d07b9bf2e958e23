//! A device's memory: the allocator, the memory of copies from the host, and the buffers that tensors own.

use std::{
    any::Any,
    env, fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use kiln_backend::{Buffer, DType, Error, ErrorKind, MemoryStats, Result, is_capturing, refuse_capture};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    alloc::{Allocation, Allocator, DeviceAllocator, DriverMemory, Pool},
    capture::recording,
    copies::{Arrival, Copies},
    fallbacks,
    stream::Stream,
};

/// The source of a device's blocks. It lives as long as the process.
pub(crate) struct DeviceMemory {
    stream: &'static Stream,
    allocator: DeviceAllocator,
    /// Must not be called while `allocator` is locked.
    copies: Copies,
    /// Blocks of other pools that graphs use, by their addresses.
    holds: Mutex<FxHashMap<u64, Hold>>,
}

/// A block that graphs use, which is not reused as long as one of them lives.
#[derive(Default)]
struct Hold {
    /// How many graphs use it.
    graphs: usize,
    /// The block, once its owner has freed it.
    left: Option<(Allocation, Option<Arrival>)>,
}

impl DeviceMemory {
    /// Caches freed memory, unless `KILN_CUDA_NO_MEMORY_CACHING` requests one allocation of the driver per block.
    pub(crate) fn new(stream: &'static Stream) -> Result<DeviceMemory> {
        let uncached =
            env::var_os("KILN_CUDA_NO_MEMORY_CACHING").is_some_and(|value| value != "0" && !value.is_empty());
        let source = DriverMemory(stream);
        let allocator = if uncached { Allocator::uncached(source) } else { Allocator::new(source) };
        Ok(DeviceMemory {
            stream,
            allocator: Mutex::new(allocator),
            copies: Copies::new(stream.context)?,
            holds: Mutex::default(),
        })
    }

    /// The index of the device.
    pub(crate) fn device_index(&self) -> usize {
        self.stream.context.index
    }

    /// A block of at least `bytes` bytes. If memory runs out, the memory kept for copies is given up.
    pub(crate) fn block(&'static self, bytes: usize) -> Result<Block> {
        if bytes == 0 {
            return Ok(Block::new(self, None, None));
        }
        let pool = recording::pool(self.device_index());
        let result = self.allocator.lock().alloc_in(pool, bytes);
        let allocation = match result {
            Err(error)
                if matches!(error.kind(), ErrorKind::OutOfMemory { .. })
                    && self.copies.give_back(self.stream, &self.allocator) =>
            {
                self.allocator.lock().alloc_in(pool, bytes)
            }
            result => result,
        };
        if is_capturing() && allocation.is_err() {
            drop(refuse_capture("allocate", "memory ran out"));
        }
        Ok(Block::new(self, Some(allocation?), None))
    }

    /// A block that receives a copy of `bytes`: [`Copies::send`].
    pub(crate) fn send(&'static self, bytes: &[u8], direct: bool) -> Result<Block> {
        let (allocation, arrival) = self.copies.send(self.stream, &self.allocator, bytes, direct)?;
        Ok(Block::new(self, Some(allocation), Some(arrival)))
    }

    /// Begins a capture, and returns the pool of its memory.
    pub(crate) fn begin_capture(&self) -> Pool {
        self.copies.give_back(self.stream, &self.allocator);
        self.allocator.lock().begin_capture()
    }

    pub(crate) fn end_capture(&self) {
        self.allocator.lock().end_capture();
    }

    /// Call when a graph is destroyed: releases its pool, and the memory of other pools that it held.
    pub(crate) fn release(&self, pool: Pool, held: &FxHashSet<u64>) {
        let mut left = Vec::new();
        {
            let mut holds = self.holds.lock();
            for address in held {
                let Some(hold) = holds.get_mut(address) else { continue };
                hold.graphs -= 1;
                if hold.graphs == 0 {
                    left.extend(holds.remove(address).and_then(|hold| hold.left));
                }
            }
        }
        left.into_iter().for_each(|(allocation, arrival)| self.give_back(allocation, arrival));
        self.allocator.lock().retire(pool);
    }

    /// Frees a block, which queued work may still use.
    fn give_back(&self, allocation: Allocation, arrival: Option<Arrival>) {
        let DeviceMemory { stream, allocator, copies, .. } = self;
        match arrival {
            Some(arrival) => copies.release(stream, allocator, allocation, arrival),
            // The next owner's work is queued after the kernels that still use it.
            None => allocator.lock().free(allocation),
        }
    }

    /// Returns all memory that no tensor uses to the driver.
    pub(crate) fn empty_cache(&self) {
        self.copies.give_back(self.stream, &self.allocator);
        self.allocator.lock().empty_cache();
    }

    /// Calls into a library or the driver, which may need memory of its own: kernels are loaded when they are first
    /// used. If the call finds none, possibly because this cache holds most of the device's memory, the cache is
    /// emptied and the call is repeated once.
    pub(crate) fn with_room<T>(&self, mut call: impl FnMut() -> T, lacks_memory: impl Fn(&T) -> bool) -> T {
        let result = call();
        if !lacks_memory(&result) {
            return result;
        }
        self.empty_cache();
        let result = call();
        if !lacks_memory(&result) {
            fallbacks::note(format!(
                "cuda:{}: a library or the driver ran out of memory until Kiln's cache was emptied",
                self.device_index()
            ));
        }
        result
    }

    /// Whether a library that failed for no clear reason may have run out of memory: the device has next to none left,
    /// while the cache holds some. Libraries do not always report this: if there is no room for a kernel that is loaded
    /// at its first use, cuBLASLt and cuDNN report that they were not initialized, that the execution failed, or an
    /// internal error.
    pub(crate) fn may_lack_memory(&self) -> bool {
        /// Memory that a library may need at once: the code of some large kernels.
        const MIN_FREE: usize = 256 << 20;
        let allocator = self.allocator.lock();
        let stats = allocator.stats();
        stats.reserved > stats.allocated && allocator.free_on_device().is_some_and(|free| free < MIN_FREE)
    }

    /// The error when a library or the driver ran out of memory even after [`with_room`](Self::with_room).
    pub(crate) fn out_of_memory(&self, call: &str, status: &str) -> Error {
        let detail =
            format!("{call} needs memory of its own and returned {status}; {}", self.allocator.lock().figures());
        ErrorKind::OutOfMemory { device: format!("cuda:{}", self.device_index()), requested: 0, detail }.into()
    }

    /// Adds to an out-of-memory error of the driver who uses how much.
    pub(crate) fn with_figures(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::OutOfMemory { device, requested, detail } => {
                let detail = format!("{detail}; {}", self.allocator.lock().figures());
                ErrorKind::OutOfMemory { device: device.clone(), requested: *requested, detail }.into()
            }
            _ => error,
        }
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.allocator.lock().stats()
    }

    pub(crate) fn reset_peak(&self) {
        self.allocator.lock().reset_peak();
    }
}

/// A block of device memory that is returned to its source when it is dropped.
pub(crate) struct Block {
    memory: &'static DeviceMemory,
    /// `None` for zero bytes; otherwise always present until the block is dropped.
    allocation: Option<Allocation>,
    /// The copy from the host into it, if there is one.
    arrival: Option<Arrival>,
    /// Whether a graph has held it.
    is_held: AtomicBool,
}

impl Block {
    fn new(memory: &'static DeviceMemory, allocation: Option<Allocation>, arrival: Option<Arrival>) -> Block {
        Block { memory, allocation, arrival, is_held: AtomicBool::new(false) }
    }

    /// The index of the device that the memory belongs to.
    pub(crate) fn device_index(&self) -> usize {
        self.memory.device_index()
    }

    /// Holds the block for a capture, unless it is of the capture's own pool, or among those that it already holds.
    pub(crate) fn hold_for(&self, pool: Pool, held: &mut FxHashSet<u64>) {
        let Some(allocation) = &self.allocation else { return };
        if allocation.pool != pool && held.insert(allocation.address) {
            self.memory.holds.lock().entry(allocation.address).or_default().graphs += 1;
            self.is_held.store(true, Ordering::Release);
        }
    }

    /// The address of the first byte; 0 for zero bytes.
    pub(crate) fn address(&self) -> u64 {
        self.allocation.as_ref().map_or(0, |allocation| allocation.address)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(allocation) = self.allocation.take() else { return };
        let arrival = self.arrival.take();
        if self.is_held.load(Ordering::Acquire)
            && let Some(hold) = self.memory.holds.lock().get_mut(&allocation.address)
        {
            hold.left = Some((allocation, arrival));
            return;
        }
        self.memory.give_back(allocation, arrival);
    }
}

/// Memory of one tensor storage.
pub(crate) struct CudaBuffer {
    dtype: DType,
    len: usize,
    block: Block,
}

impl CudaBuffer {
    pub(crate) fn new(memory: &'static DeviceMemory, dtype: DType, len: usize) -> Result<CudaBuffer> {
        // If the product overflows, it saturates to more than there is, and the allocator returns the error.
        let block = memory.block(len.saturating_mul(dtype.size()))?;
        Ok(CudaBuffer { dtype, len, block })
    }

    /// `block` has at least as many bytes.
    pub(crate) fn from_block(dtype: DType, len: usize, block: Block) -> CudaBuffer {
        CudaBuffer { dtype, len, block }
    }

    /// The address of the first element, for work queued from now on, which waits for a copy into the buffer.
    pub(crate) fn address(&self) -> Result<u64> {
        if let Some(arrival) = &self.block.arrival {
            arrival.wait(self.block.memory.stream)?;
        }
        if is_capturing() {
            recording::hold(self.device_index(), |pool, held| self.block.hold_for(pool, held));
        }
        Ok(self.block.address())
    }

    /// The index of the device that the memory belongs to.
    pub(crate) fn device_index(&self) -> usize {
        self.block.device_index()
    }
}

impl Buffer for CudaBuffer {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn len(&self) -> usize {
        self.len
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl fmt::Debug for CudaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBuffer({} x {} on cuda:{})", self.len, self.dtype, self.device_index())
    }
}
