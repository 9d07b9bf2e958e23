//! Tensors that a node saves for its backward pass.

use std::sync::Arc;

use kiln_backend::{Layout, Shape};

use crate::{storage::Storage, tensor::Tensor};

/// The data of a tensor without its history (so that a node never owns its own output's history, nor a chain of older
/// nodes), and the version at which it was saved.
pub(crate) struct SavedTensor {
    storage: Arc<Storage>,
    layout: Layout,
    version: u32,
}

impl SavedTensor {
    pub fn new(tensor: &Tensor) -> SavedTensor {
        let storage = tensor.0.storage.clone();
        let version = storage.version();
        SavedTensor { storage, layout: *tensor.layout(), version }
    }

    pub fn shape(&self) -> &Shape {
        self.layout.shape()
    }

    /// The current version of its memory, and the one at which it was saved.
    pub fn versions(&self) -> (u32, u32) {
        (self.storage.version(), self.version)
    }

    /// The tensor, if it was not changed since.
    pub fn unchanged(&self) -> Option<Tensor> {
        (self.storage.version() == self.version).then(|| Tensor::from_storage(self.storage.clone(), self.layout))
    }
}
