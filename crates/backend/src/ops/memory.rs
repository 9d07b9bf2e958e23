//! Memory of a device: buffers, copies to and from the host, statistics.

use std::fmt;

use crate::{
    dispatch_dtype,
    dtype::DType,
    element::Element,
    error::{Error, Result},
    host::HostVec,
    memory::MemoryStats,
    view::{Buffer, HostMemory},
};

/// Allocates memory, and copies between the host and the device.
pub trait MemoryBackend: Send + Sync + fmt::Debug {
    /// Uninitialized (but valid) memory for `len` elements.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>>;
    /// Takes over host memory: without a copy on the CPU, by an upload elsewhere.
    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>>;
    /// Memory filled from bytes in native order, as in a mapped file, with a single copy. For `bool` any byte but 0 is
    /// `true`.
    fn import(&self, dtype: DType, bytes: &[u8]) -> Result<Box<dyn Buffer>> {
        self.adopt(host_vec(dtype, bytes)?)
    }
    /// Page-locked, initialized host memory that the device reads directly: an [`import`](MemoryBackend::import) from
    /// it skips the staging copy that other memory needs. An error on devices that share the host's memory.
    fn pinned(&self, bytes: usize) -> Result<Box<dyn HostMemory>> {
        Err(Error::argument("pin_memory", format!("{self:?} cannot pin {bytes} bytes; a CUDA device can")))
    }
    /// A buffer over the first `len` elements of host memory; only the CPU has such buffers.
    fn wrap(&self, dtype: DType, len: usize, memory: Box<dyn HostMemory>) -> Result<Box<dyn Buffer>> {
        Err(Error::argument("pin_memory", format!("{self:?} cannot wrap {len} elements of {dtype} in {memory:?}")))
    }
    /// Waits for all work queued before, then copies elements from position `start` on to the host until `dst` is full.
    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()>;
    /// Waits until all work is done.
    fn synchronize(&self) -> Result<()>;
    /// Memory in use.
    fn memory_stats(&self) -> MemoryStats;
    /// Sets the peak to what is in use now.
    fn reset_peak_memory(&self);
    /// Returns free cached memory to the system.
    fn empty_cache(&self);
}

/// Converts bytes in native order to a vector of elements.
fn host_vec(dtype: DType, bytes: &[u8]) -> Result<HostVec> {
    if !bytes.len().is_multiple_of(dtype.size()) {
        return Err(Error::argument(
            "import",
            format!("{} bytes are not a whole number of {dtype} elements", bytes.len()),
        ));
    }
    let copy = |out: &mut [u8]| {
        out.copy_from_slice(bytes);
        Ok(())
    };
    dispatch_dtype!(dtype, T => Ok(T::into_host(T::read_vec(bytes.len() / dtype.size(), copy)?)))
}
