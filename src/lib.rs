//! Kiln: deep learning in Rust. Tensors with automatic differentiation, layers, optimizers, data loaders and file
//! formats, with PyTorch's names and semantics.
//!
//! ```
//! use kiln::{nn::{CrossEntropyLoss, Linear, ReLU, Sequential, seq}, optim::{Optimizer, SGD}, prelude::*};
//!
//! # fn main() -> kiln::Result<()> {
//! let device = Device::cuda_if_available();
//! let model: Sequential = seq![Linear::new(4, 16)?, ReLU::new(), Linear::new(16, 3)?].to(device)?;
//! let mut optimizer = SGD::new(model.parameters(), 0.1)?;
//!
//! let (x, y) = (Tensor::randn([8, 4], device)?, Tensor::randint(0, 3, 8, device)?);
//! let loss = CrossEntropyLoss::new().forward(&model.forward(&x)?, &y)?;
//! optimizer.zero_grad();
//! loss.backward()?;
//! optimizer.step()?;
//! println!("{}", loss.item::<f32>()?);
//! # Ok(())
//! # }
//! ```
//!
//! The [`guide`] goes through PyTorch's beginner tutorials. This crate only re-exports others: its root is
//! `kiln-tensor`, and its modules are `kiln-nn`, `kiln-data`, `kiln-models`, `kiln-io` and `kiln-vis`.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | `cpu` | yes | the CPU backend; without it, no tensor can be created on [`Device::Cpu`] |
//! | `cuda` | no | the CUDA backend: it needs nvcc to build, and a driver, cuBLASLt and, for convolutions, cuDNN 9.1 to run; it has been compared with the CPU backend on a simulated device, and has not run on a GPU yet |
//! | `vis` | yes | grids of labeled images and curves of training runs ([`vis`]) |
//! | `dashboard` | no | a view of a run in the terminal: curves of losses and metrics, rate, memory, time left; lines where there is no terminal ([`dashboard`]) |
//! | `distributed` | no | data parallel training in several processes ([`distributed`]): with more than one process, it needs an MPI library with the standard ABI or, between GPUs, NCCL |
//! | `download` | no | `download(true)` of the built-in data sets, and of published weights ([`hub`]) |
//! | `images` | no | decoding of image files, [`ImageFolder`](data::ImageFolder), [`Resize`](data::transforms::Resize) and [`RandomResizedCrop`](data::transforms::RandomResizedCrop) |
//! | `linalg` | no | linear systems, inverses, determinants, factorizations, eigenvalues of symmetric matrices, least squares, with gradients, on the CPU ([`linalg`]) |
//! | `metrics` | no | accuracy, confusion matrices, precision, recall, F1 and areas under ROC curves over many batches ([`metrics`]) |
//! | `ndarray` | no | tensors from arrays of `ndarray` 0.17 (re-exported as `kiln::ndarray`) and views of them, without copying |
//! | `npy` | no | files of NumPy, `.npy` and `.npz` ([`io::load_npy`], [`io::load_npz`]) |
//! | `onnx` | no | export to ONNX ([`io::onnx`]) |
//! | `plans` | no | the example `compile_plans`: convolution plans for GPUs that need not be present; a part of `cuda` |
//! | `pth` | no | files of PyTorch's `torch.save` ([`io::load`], [`io::PthFile`]) |
//! | `tensorboard` | no | event files for TensorBoard ([`vis::SummaryWriter`]) |
//! | `full` | no | all of these but `cuda` and `plans` |
//!
//! Code that uses [`Device::cuda_if_available`] compiles and runs in every build.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub use kiln_tensor::*;

#[cfg(feature = "dashboard")]
#[doc(inline)]
pub use kiln_dashboard as dashboard;
#[doc(inline)]
pub use kiln_data as data;
#[cfg(feature = "distributed")]
#[doc(inline)]
pub use kiln_distributed as distributed;
#[doc(inline)]
pub use kiln_io as io;
#[doc(inline)]
pub use kiln_io::hub;
#[doc(inline)]
pub use kiln_models as models;
#[doc(inline)]
pub use kiln_nn as nn;
#[cfg(feature = "metrics")]
#[doc(inline)]
pub use kiln_nn::metrics;
#[doc(inline)]
pub use kiln_nn::optim;
#[cfg(feature = "vis")]
#[doc(inline)]
pub use kiln_vis as vis;

// The guide's code uses these features.
#[cfg(any(
    not(doctest),
    all(
        feature = "dashboard",
        feature = "distributed",
        feature = "images",
        feature = "metrics",
        feature = "npy",
        feature = "onnx",
        feature = "pth",
        feature = "tensorboard"
    )
))]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

/// What nearly every program needs: `use kiln::prelude::*;`.
pub mod prelude {
    #[doc(no_inline)]
    pub use kiln_data::{DataLoader, Dataset};
    #[doc(no_inline)]
    pub use kiln_nn::{Module, ModuleExt, ModuleTree};
    #[doc(no_inline)]
    pub use kiln_tensor::{DType, Device, Tensor, calc, manual_seed, no_grad, no_grad_guard};
}

/// The README's code is compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
