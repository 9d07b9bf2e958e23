//! Named tensors: what modules, optimizers and schedulers hand over to be saved, and take back.

use indexmap::IndexMap;

use crate::tensor::Tensor;

/// Tensors by name, in the order in which they were put in, as PyTorch's `state_dict()`.
///
/// It holds handles: a state dict taken from a model changes when the model is trained on. Numbers, such as
/// an optimizer's step count, are tensors without dimensions. Names nest with dots (`features.0.weight`).
pub type StateDict = IndexMap<String, Tensor>;
