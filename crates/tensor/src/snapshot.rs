//! [`MemorySnapshot`]: by which a cache of something computed from a tensor knows whether it still holds.

use std::sync::{Arc, Weak};

use kiln_backend::Layout;

use crate::{storage::Storage, tensor::Tensor};

/// The memory of a tensor and its [version](Tensor::version) at one moment. It does not keep the memory alive.
///
/// ```
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let x = Tensor::zeros([2, 3], Device::Cpu)?;
/// let before = x.memory_snapshot();
/// assert!(before.is_of(&x) && !before.is_of(&x.t()?));
/// x.add_(1)?;
/// assert!(!before.is_of(&x) && !before.is_current());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    /// Also keeps other memory from getting the same address.
    storage: Weak<Storage>,
    layout: Layout,
    version: u32,
}

impl Tensor {
    /// What of the tensor's memory a cache compares. Take it before reading values: a change meanwhile is then noticed.
    #[must_use]
    pub fn memory_snapshot(&self) -> MemorySnapshot {
        let storage = &self.0.storage;
        MemorySnapshot { storage: Arc::downgrade(storage), layout: *self.layout(), version: storage.version() }
    }
}

impl MemorySnapshot {
    /// Whether the memory is still there and has not been changed.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.storage.upgrade().is_some_and(|storage| storage.version() == self.version)
    }

    /// Whether a tensor has the values that this was taken of: the same elements of the same memory, not changed since.
    #[must_use]
    pub fn is_of(&self, tensor: &Tensor) -> bool {
        let storage = &tensor.0.storage;
        std::ptr::eq(self.storage.as_ptr(), Arc::as_ptr(storage))
            && self.layout == *tensor.layout()
            && self.version == storage.version()
    }
}
