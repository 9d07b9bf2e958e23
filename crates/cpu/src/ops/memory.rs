//! The host's memory as a device's: buffers, downloads, statistics.

use kiln_backend::{Buffer, DType, Error, HostMemory, HostVec, MemoryBackend, MemoryStats, Result};

use crate::{
    device::CpuBackend,
    memory::{allocator, buffer::CpuBuffer},
};

impl MemoryBackend for CpuBackend {
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CpuBuffer::new(dtype, len)?))
    }

    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CpuBuffer::adopt(data)))
    }

    fn wrap(&self, dtype: DType, len: usize, memory: Box<dyn HostMemory>) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CpuBuffer::wrap(dtype, len, memory)?))
    }

    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()> {
        let bytes = src.host_bytes().ok_or_else(|| Error::devices("download", "cpu", "another device"))?;
        let source = start.checked_mul(src.dtype().size()).and_then(|at| bytes.get(at..)?.get(..dst.len()));
        let Some(source) = source else {
            let message = format!("cannot read {} bytes from element {start} on of {src:?}", dst.len());
            return Err(Error::argument("download", message));
        };
        dst.copy_from_slice(source);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory_stats(&self) -> MemoryStats {
        allocator::stats()
    }

    fn reset_peak_memory(&self) {
        allocator::reset_peak();
    }

    fn empty_cache(&self) {
        allocator::empty_cache();
    }
}
