//! Memory of a device: buffers, copies to and from the host, statistics.

use std::fmt;

use crate::{Buffer, DType, Element, Error, HostMemory, HostVec, MemoryStats, Result, dispatch_dtype};

/// Allocates memory, and copies between the host and the device.
pub trait MemoryBackend: Send + Sync + fmt::Debug {
    /// Uninitialised (but valid) memory for `len` elements.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>>;
    /// Takes over host memory: without a copy on the CPU, by an upload elsewhere.
    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>>;
    /// Memory filled from bytes in native order, as a mapped file holds them: one copy, to where the elements
    /// are wanted. For `bool` any byte but 0 is `true`.
    fn import(&self, dtype: DType, bytes: &[u8]) -> Result<Box<dyn Buffer>> {
        self.adopt(host_vec(dtype, bytes)?)
    }
    /// Page-locked host memory, all of it initialised, which the device reads directly: an [`import`](MemoryBackend::import)
    /// from it skips the copy that other memory is staged through. An error on devices that share the host's memory.
    fn pinned(&self, bytes: usize) -> Result<Box<dyn HostMemory>> {
        Err(Error::argument("pin_memory", format!("{self:?} cannot pin {bytes} bytes; a CUDA device can")))
    }
    /// A buffer of `len` elements at the beginning of host memory; the CPU has such buffers.
    fn wrap(&self, dtype: DType, len: usize, memory: Box<dyn HostMemory>) -> Result<Box<dyn Buffer>> {
        Err(Error::argument("pin_memory", format!("{len} elements of {dtype} in {memory:?} are none of {self:?}")))
    }
    /// Waits for the work before it and copies `len` elements from position `start` to the host.
    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()>;
    /// Waits until all work is done.
    fn synchronize(&self) -> Result<()>;
    /// Memory in use.
    fn memory_stats(&self) -> MemoryStats;
    /// Makes the peak equal to what is in use now.
    fn reset_peak_memory(&self);
    /// Gives free cached memory back to the system.
    fn empty_cache(&self);
}

/// Bytes in native order as a vector of elements.
fn host_vec(dtype: DType, bytes: &[u8]) -> Result<HostVec> {
    if !bytes.len().is_multiple_of(dtype.size()) {
        return Err(Error::argument("import", format!("{} bytes are no whole number of {dtype}", bytes.len())));
    }
    let copy = |out: &mut [u8]| {
        out.copy_from_slice(bytes);
        Ok(())
    };
    dispatch_dtype!(dtype, T => Ok(T::into_host(T::read_vec(bytes.len() / dtype.size(), copy)?)))
}
