//! Building blocks of neural networks, with PyTorch's names and semantics.
//!
//! - [`Module`] and `#[derive(Module)]`: a struct of layers gets its parameters, state dict, printing and
//!   moving between devices from its fields ([`ModuleTree`]); only `forward` is written.
//! - [`ModuleExt`]: forward hooks, `apply`, modules and parameters by path, norms.
//! - Layers: [`Linear`], [`Conv2d`], [`MaxPool2d`], [`BatchNorm2d`], [`ReLU`], [`Dropout`], [`Sequential`], …
//! - [`summary`]: a table of a model's layers with shapes, parameters, multiply-adds and memory.
//! - Losses, as modules ([`CrossEntropyLoss`], …) and as functions ([`functional`]).
//! - [`init`]: initialization of parameters.
//! - [`saved`]: saving and restoring whole models.
//! - `metrics` (a feature): means, accuracy, confusion matrices, areas under ROC curves, over many batches.
//! - [`optim`]: optimizers, learning-rate schedulers, gradient clipping.
//!
//! ```
//! use kiln_nn::{CrossEntropyLoss, Linear, Module, ModuleTree, ReLU, optim::{Optimizer, SGD}, seq};
//! use kiln_tensor::{DType, Device, Result, Tensor};
//!
//! # fn main() -> Result<()> {
//! let model = seq![Linear::new(4, 16)?, ReLU::new(), Linear::new(16, 3)?];
//! let loss_fn = CrossEntropyLoss::new();
//! let mut optimizer = SGD::new(model.named_parameters(), 1e-2)?;
//!
//! let (x, y) = (Tensor::randn([8, 4], Device::Cpu)?, Tensor::randint(0, 3, [8], Device::Cpu)?);
//! let loss = loss_fn.forward(&model.forward(&x)?, &y)?;
//! optimizer.zero_grad();
//! loss.backward()?;
//! optimizer.step()?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

// The derive macro writes `::kiln_nn`, here as everywhere.
extern crate self as kiln_nn;

pub mod functional;
pub mod init;
mod layers;
mod loss;
#[cfg(feature = "metrics")]
pub mod metrics;
mod module;
pub mod optim;
mod parameter;
pub mod saved;
mod summary;
mod total_norm;

#[doc(no_inline)]
pub use kiln_tensor::{BagMode, StateDict};
pub use layers::*;
pub use loss::*;
pub use module::{
    Field, FieldKind, HookResult, HookedOutput, Hooks, LoadReport, Module, ModuleExt, ModuleTree, Part, PartMut,
    RemovableHandle, register_module_forward_hook, register_module_forward_pre_hook,
    register_module_full_backward_hook, register_module_full_backward_pre_hook,
};
pub use parameter::{BatchNormalizer, Buffer, Parameter, Training};
pub use summary::{Summary, SummaryRow, summary, summary_of};
