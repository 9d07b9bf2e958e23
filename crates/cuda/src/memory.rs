//! A device's memory: the allocator, the memory of copies from the host, and the buffers that tensors own.

use std::{any::Any, env, fmt};

use kiln_backend::{Buffer, DType, Error, ErrorKind, MemoryStats, Result};
use parking_lot::Mutex;

use crate::{
    alloc::{Allocation, Allocator, DeviceAllocator, DriverMemory},
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
}

impl DeviceMemory {
    /// Caches freed memory, unless `KILN_CUDA_NO_MEMORY_CACHING` requests one allocation of the driver per block.
    pub(crate) fn new(stream: &'static Stream) -> Result<DeviceMemory> {
        let uncached =
            env::var_os("KILN_CUDA_NO_MEMORY_CACHING").is_some_and(|value| value != "0" && !value.is_empty());
        let source = DriverMemory(stream);
        let allocator = if uncached { Allocator::uncached(source) } else { Allocator::new(source) };
        Ok(DeviceMemory { stream, allocator: Mutex::new(allocator), copies: Copies::new(stream.context)? })
    }

    /// The index of the device.
    pub(crate) fn device_index(&self) -> usize {
        self.stream.context.index
    }

    /// A block of at least `bytes` bytes. If memory runs out, the memory kept for copies is given up.
    pub(crate) fn block(&'static self, bytes: usize) -> Result<Block> {
        if bytes == 0 {
            return Ok(Block { memory: self, allocation: None, arrival: None });
        }
        let result = self.allocator.lock().alloc(bytes);
        let allocation = match result {
            Err(error)
                if matches!(error.kind(), ErrorKind::OutOfMemory { .. })
                    && self.copies.give_back(self.stream, &self.allocator) =>
            {
                self.allocator.lock().alloc(bytes)
            }
            result => result,
        }?;
        Ok(Block { memory: self, allocation: Some(allocation), arrival: None })
    }

    /// A block that receives a copy of `bytes`: [`Copies::send`].
    pub(crate) fn send(&'static self, bytes: &[u8], direct: bool) -> Result<Block> {
        let (allocation, arrival) = self.copies.send(self.stream, &self.allocator, bytes, direct)?;
        Ok(Block { memory: self, allocation: Some(allocation), arrival: Some(arrival) })
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
}

impl Block {
    /// The address of the first byte; 0 for zero bytes.
    pub(crate) fn address(&self) -> u64 {
        self.allocation.as_ref().map_or(0, |allocation| allocation.address)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let DeviceMemory { stream, allocator, copies } = self.memory;
        let Some(allocation) = self.allocation.take() else { return };
        match self.arrival.take() {
            Some(arrival) => copies.release(stream, allocator, allocation, arrival),
            // Queued kernels may still use it; the next owner's work is queued after them.
            None => allocator.lock().free(allocation),
        }
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
        Ok(self.block.address())
    }

    /// The index of the device that the memory belongs to.
    pub(crate) fn device_index(&self) -> usize {
        self.block.memory.device_index()
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
