//! `StateDict`: named tensors that modules, optimizers and schedulers save and load.

use indexmap::IndexMap;

use crate::tensor::Tensor;

/// Tensors by name, in insertion order, as PyTorch's `state_dict()`.
///
/// It holds handles: a state dict taken from a model changes when the model is trained further. Numbers, such as an
/// optimizer's step count, are tensors without dimensions. Names nest with dots (`features.0.weight`).
pub type StateDict = IndexMap<String, Tensor>;
