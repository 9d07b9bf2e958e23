//! The driver's memory behind the allocator, and the buffers that tensors own.

use std::{any::Any, fmt};

use kiln_backend::{Buffer, DType, Result};

use crate::{
    alloc::{Allocation, Source},
    context::Context,
    device::Device,
};

/// Segments from `cuMemAlloc`, which works on every device (memory pools do not).
pub(crate) struct DeviceMemory(pub(crate) Context);

/// `CUDA_ERROR_OUT_OF_MEMORY`
const OUT_OF_MEMORY: u32 = 2;

impl Source for DeviceMemory {
    fn take(&mut self, bytes: usize) -> Result<Option<u64>> {
        self.0.bind()?;
        let mut address = 0;
        // SAFETY: writes the address.
        match unsafe { (self.0.driver.mem_alloc)(&raw mut address, bytes) } {
            OUT_OF_MEMORY => Ok(None),
            code => self.0.check("cuMemAlloc", code).map(|()| Some(address)),
        }
    }

    fn give(&mut self, address: u64) {
        if self.0.bind().is_ok() {
            // Errors here are those of earlier work, which the next call reports too.
            // SAFETY: a segment that no block refers to any more, and no queued work either once the device is idle.
            unsafe {
                (self.0.driver.ctx_synchronize)();
                (self.0.driver.mem_free)(address);
            }
        }
    }

    fn system(&self) -> Option<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        self.0.bind().ok()?;
        // SAFETY: writes two numbers.
        let code = unsafe { (self.0.driver.mem_get_info)(&raw mut free, &raw mut total) };
        (code == 0).then_some((free, total))
    }

    fn device(&self) -> String {
        format!("cuda:{}", self.0.index)
    }
}

/// A block of device memory that goes back where it came from when it is dropped.
pub(crate) struct Block {
    device: &'static Device,
    /// `None` for no bytes; always there otherwise, until the block is dropped.
    allocation: Option<Allocation>,
    /// Whether it is one that copies from the host arrive in.
    arrived: bool,
}

impl Block {
    pub(crate) fn new(device: &'static Device, bytes: usize) -> Result<Block> {
        let allocation = if bytes == 0 { None } else { Some(device.alloc(bytes)?) };
        Ok(Block { device, allocation, arrived: false })
    }

    /// What [`Copies::send`](crate::copies::Copies::send) returned.
    pub(crate) fn arrived(device: &'static Device, allocation: Allocation) -> Block {
        Block { device, allocation: Some(allocation), arrived: true }
    }

    /// The address of the first byte; 0 for no bytes.
    pub(crate) fn address(&self) -> u64 {
        self.allocation.as_ref().map_or(0, |allocation| allocation.address)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(allocation) = self.allocation.take() else { return };
        if self.arrived {
            self.device.copies.lock().release(self.device, allocation);
        } else {
            // Kernels that are queued may use it still; whoever gets it next is queued behind them.
            self.device.memory.lock().free(allocation);
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
    pub(crate) fn new(device: &'static Device, dtype: DType, len: usize) -> Result<CudaBuffer> {
        // A product that overflows asks for more than there is, and the allocator says so.
        let block = Block::new(device, len.saturating_mul(dtype.size()))?;
        Ok(CudaBuffer { dtype, len, block })
    }

    /// `block` has as many bytes at least.
    pub(crate) fn from_block(dtype: DType, len: usize, block: Block) -> CudaBuffer {
        CudaBuffer { dtype, len, block }
    }

    pub(crate) fn address(&self) -> u64 {
        self.block.address()
    }

    pub(crate) fn device(&self) -> &'static Device {
        self.block.device
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
        write!(f, "CudaBuffer({} x {} on cuda:{})", self.len, self.dtype, self.device().index())
    }
}
