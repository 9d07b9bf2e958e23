//! Memory of the GPU: buffers, uploads and downloads, statistics.

use kiln_backend::{Buffer, DType, Error, HostMemory, HostVec, MemoryBackend, MemoryStats, Result};

use crate::{device::CudaBackend, memory::CudaBuffer};

impl MemoryBackend for CudaBackend {
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(CudaBuffer::new(self.0.memory, dtype, len)?))
    }

    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>> {
        Ok(Box::new(self.0.upload(data.dtype(), data.bytes())?))
    }

    fn pinned(&self, bytes: usize) -> Result<Box<dyn HostMemory>> {
        Ok(Box::new(self.0.pages.pin(bytes)?))
    }

    fn import(&self, dtype: DType, bytes: &[u8]) -> Result<Box<dyn Buffer>> {
        if dtype == DType::Bool {
            // Kernels rely on every `bool` being 0 or 1.
            return self.adopt(HostVec::Bool(bytes.iter().map(|&byte| byte != 0).collect()));
        }
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(Error::argument(
                "import",
                format!("{} bytes are not a whole number of {dtype} elements", bytes.len()),
            ));
        }
        Ok(Box::new(self.0.upload(dtype, bytes)?))
    }

    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()> {
        const OP: &str = "download";
        let here = || format!("cuda:{}", self.0.index());
        let buffer = src.as_any().downcast_ref::<CudaBuffer>();
        let buffer = buffer.filter(|buffer| buffer.device_index() == self.0.index());
        let buffer = buffer.ok_or_else(|| Error::devices(OP, here(), "another device"))?;
        let (size, len) = (src.dtype().size(), src.len());
        let end = start.checked_mul(size).and_then(|at| at.checked_add(dst.len()));
        if end.is_none_or(|end| end > len * size) {
            let message = format!("cannot read {} bytes from element {start} on of {src:?}", dst.len());
            return Err(Error::argument(OP, message));
        }
        // SAFETY: the range was checked to lie in the buffer.
        unsafe { self.0.receive(buffer.address()? + (start * size) as u64, dst) }
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: nothing is read.
        unsafe { self.0.receive(0, &mut []) }
    }

    fn memory_stats(&self) -> MemoryStats {
        self.0.memory.stats()
    }

    fn reset_peak_memory(&self) {
        self.0.memory.reset_peak();
    }

    fn empty_cache(&self) {
        self.0.memory.empty_cache();
    }
}
