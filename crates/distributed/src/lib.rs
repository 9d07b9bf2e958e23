//! Data parallel training in several processes, with PyTorch's names.
//!
//! - [`init_process_group`] joins the processes that `mpiexec`, Slurm or `torchrun` has launched; a program that was
//!   launched alone is a group of one. [`local_process_groups`] are ranks that are threads of one process.
//! - [`ProcessGroup`]: broadcast, all-reduce, all-gather, reduce-scatter and barrier, on tensors.
//! - [`DistributedDataParallel`] averages the gradients of a model over the group while the backward pass runs.
//! - [`convert_sync_batchnorm`]: batch normalization with the statistics of all processes' batches.
//!
//! ```
//! use kiln_distributed::{DistributedDataParallel, init_process_group};
//! use kiln_nn::{Linear, Module, ModuleTree, functional::mse_loss, optim::{Optimizer, SGD}};
//! use kiln_tensor::{Result, Tensor};
//!
//! fn main() -> Result<()> {
//!     let group = init_process_group()?;
//!     let device = group.device();
//!     let model = Linear::new(4, 1)?.to(device)?;
//!     let _ddp = DistributedDataParallel::new(&model, &group)?;
//!     let mut optimizer = SGD::new(model.named_parameters(), 0.1)?;
//!
//!     // Each process has a share of the batch.
//!     let (x, y) = (Tensor::randn([8, 4], device)?, Tensor::zeros([8, 1], device)?);
//!     let loss = mse_loss(&model.forward(&x)?, &y)?;
//!     optimizer.zero_grad();
//!     loss.backward()?; // gradients are those of the whole batch
//!     optimizer.step()?;
//!     Ok(())
//! }
//! ```
//!
//! `docs/distributed.md` says how to start it on one machine, on several, with Slurm and on Kubernetes, and what limits its
//! speed.

mod collective;
mod ddp;
mod error;
mod group;
mod launch;
mod metrics;
mod mpi;
mod nccl;
mod notes;
mod options;
mod rendezvous;
mod single;
mod sync_batch_norm;

pub use collective::{Collective, CollectiveKind, ReduceOp};
pub use ddp::{DdpOptions, DistributedDataParallel, StepReport};
pub use error::DistributedError;
pub use group::{Pending, ProcessGroup, Work};
pub use launch::{Launch, Launcher};
pub use metrics::{all_gather_auroc, all_reduce_metric};
pub use nccl::local_process_groups;
pub use options::{Engine, GroupOptions};
pub use rendezvous::{init_process_group, init_process_group_with};
pub use single::SingleProcess;
pub use sync_batch_norm::{SyncBatchNorm, convert_sync_batchnorm};
