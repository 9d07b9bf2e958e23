//! Tensors that a node saves for its backward pass.

use std::sync::Arc;

use kiln_backend::{Layout, Shape};

use crate::{storage::Storage, tensor::Tensor};

/// The role of a saved tensor in the operation, from which its history follows without being stored twice.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    /// The input with this index.
    Input(usize),
    /// The (first) output.
    Output,
    /// Something else, which the gradient rule treats as a constant.
    Other,
}

/// The data of a tensor without its history (so that a node never owns its own output's history, nor a chain of older
/// nodes), and the version at which it was saved.
pub(crate) struct SavedTensor {
    storage: Arc<Storage>,
    layout: Layout,
    version: u32,
    pub role: Role,
}

impl SavedTensor {
    /// Saves `tensor` for an operation that computed `out` from `inputs`.
    pub fn new(tensor: &Tensor, inputs: &[&Tensor], out: &Tensor) -> SavedTensor {
        let storage = tensor.0.storage.clone();
        let version = storage.version();
        // `out` may be another handle of the saved tensor's memory.
        let is_output = || out.shares_memory(tensor) && out.layout() == tensor.layout();
        let role = match inputs.iter().position(|input| input.is_same(tensor)) {
            Some(input) => Role::Input(input),
            None if is_output() => Role::Output,
            None => Role::Other,
        };
        SavedTensor { storage, layout: *tensor.layout(), version, role }
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
