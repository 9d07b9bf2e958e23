//! Access to a tensor's memory for communication libraries.

use kiln_backend::{Backend, Buffer, Layout, Result};

use crate::tensor::Tensor;

/// The memory of a tensor, for communication libraries.
#[doc(hidden)]
pub struct RawMemory<'a> {
    /// May be replaced by another buffer of its dtype and length, if a library that failed may still write to it.
    pub buffer: &'a mut Box<dyn Buffer>,
    /// The layout of the tensor's elements in the buffer.
    pub layout: &'a Layout,
    /// The backend of its device.
    pub backend: &'static dyn Backend,
}

impl Tensor {
    /// Calls `f` with the memory of this tensor, which nothing else reads or writes meanwhile.
    ///
    /// # Errors
    /// Those of `f`.
    #[doc(hidden)]
    pub fn with_raw_memory<R>(&self, f: impl FnOnce(RawMemory<'_>) -> Result<R>) -> Result<R> {
        let storage = &self.0.storage;
        let mut guard = storage.write();
        let done = f(RawMemory { buffer: &mut guard, layout: self.layout(), backend: storage.backend });
        drop(guard);
        storage.bump_version();
        done
    }
}
