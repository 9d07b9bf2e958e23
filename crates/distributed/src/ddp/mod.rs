//! Data parallel training: every process has the whole model and a share of each batch, and gradients are averaged.

mod bucket;
mod reducer;

use std::sync::Arc;

use kiln_derive::located;
use kiln_nn::ModuleTree;
use kiln_tensor::{Error, Result, Tensor, autograd::HookHandle, no_grad};
use reducer::Reducer;
pub use reducer::StepReport;

use crate::{DistributedError, ProcessGroup};

/// How [`DistributedDataParallel`] works.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct DdpOptions {
    find_unused: bool,
    broadcast_buffers: bool,
    first_bucket_bytes: usize,
    bucket_bytes: usize,
}

impl Default for DdpOptions {
    fn default() -> Self {
        let (first_bucket_bytes, bucket_bytes) = (1 << 20, 25 << 20);
        DdpOptions { find_unused: false, broadcast_buffers: true, first_bucket_bytes, bucket_bytes }
    }
}

impl DdpOptions {
    /// Whether a backward pass may leave parameters out, PyTorch's `find_unused_parameters`; `false` by default, and it is an
    /// error that lists them. With it, a parameter that no rank uses in a step keeps the gradient that it has, and one that
    /// some ranks use gets the average, to which the others add 0. It takes another small collective a step.
    pub fn find_unused(self, find_unused: bool) -> Self {
        DdpOptions { find_unused, ..self }
    }

    /// Whether the model's buffers (running statistics) become rank 0's after each backward pass that averages gradients;
    /// `true` by default, as in PyTorch, where it happens before the next forward pass.
    pub fn broadcast_buffers(self, broadcast_buffers: bool) -> Self {
        DdpOptions { broadcast_buffers, ..self }
    }

    /// How many bytes of gradients are averaged at once: of the first bucket, which is ready when the backward pass has
    /// hardly begun, and of the others. 1 MiB and 25 MiB by default, PyTorch's.
    pub fn bucket_bytes(self, first: usize, others: usize) -> Self {
        DdpOptions { first_bucket_bytes: first, bucket_bytes: others, ..self }
    }
}

/// Averages the gradients of a model over the processes of a group: PyTorch's `DistributedDataParallel`.
///
/// When it is made, all ranks get the parameters and buffers of rank 0. From then on each `backward` leaves the average of
/// all ranks' gradients in [`grad`](Tensor::grad), so that equal optimizers make equal steps. Gradients lie in flat buckets,
/// of which each parameter's `grad` is a view; a bucket's average is begun as soon as its last gradient has come, while the
/// backward pass goes on.
///
/// The model is used as before. This holds its parameters as they are now: move the model to its device and dtype first.
/// Gradients are averaged as long as this lives.
///
/// - The loss of each rank is the mean over its share, and shares are of one size ([`DistributedSampler`] makes them so):
///   then the average is the gradient of the whole batch.
/// - [`no_sync`](DistributedDataParallel::no_sync) accumulates gradients over several batches.
/// - Gradients are clipped after `backward`, on all ranks alike.
///
/// (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020;
/// <https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html>)
///
/// [`DistributedSampler`]: https://docs.rs/kiln-data
#[must_use = "gradients are averaged as long as it lives"]
pub struct DistributedDataParallel {
    reducer: Arc<Reducer>,
    hooks: Vec<HookHandle>,
}

#[located(site)]
impl DistributedDataParallel {
    /// Makes the model that of rank 0 on all ranks, and its gradients averages from now on.
    ///
    /// # Errors
    /// Ranks have different models (the message names the first parameter that differs), nothing is trained, a parameter was
    /// wrapped before, or a collective fails.
    pub fn new(model: &(impl ModuleTree + ?Sized), group: &Arc<dyn ProcessGroup>) -> Result<DistributedDataParallel> {
        DistributedDataParallel::with_options(model, group, DdpOptions::default())
    }

    /// [`new`](DistributedDataParallel::new) with options.
    ///
    /// # Errors
    /// As [`new`](DistributedDataParallel::new).
    pub fn with_options(
        model: &(impl ModuleTree + ?Sized),
        group: &Arc<dyn ProcessGroup>,
        options: DdpOptions,
    ) -> Result<DistributedDataParallel> {
        let (parameters, buffers) = (model.named_parameters(), model.named_buffers());
        let made = make(parameters, buffers, group, options);
        if let Err(error) = &made {
            group.abort(&error.to_string());
        }
        made
    }

    /// Calls `f`, whose backward passes add to the gradients of this rank and average nothing; the next backward pass outside
    /// averages the sums. With one process it changes nothing.
    pub fn no_sync<T>(&self, f: impl FnOnce() -> T) -> T {
        let _resumed = self.reducer.pause();
        f()
    }

    /// The group.
    pub fn group(&self) -> &Arc<dyn ProcessGroup> {
        &self.reducer.group
    }

    /// Gives all ranks the buffers of rank 0, for a model that is used without a backward pass before it.
    ///
    /// # Errors
    /// A collective fails.
    pub fn sync_buffers(&self) -> Result<()> {
        self.reducer.sync_buffers()
    }

    /// How the latest backward pass that averaged gradients went.
    pub fn last_step(&self) -> StepReport {
        self.reducer.report()
    }
}

impl Drop for DistributedDataParallel {
    fn drop(&mut self) {
        self.hooks.drain(..).for_each(HookHandle::remove);
    }
}

fn make(
    parameters: Vec<(String, Tensor)>,
    buffers: Vec<(String, Tensor)>,
    group: &Arc<dyn ProcessGroup>,
    options: DdpOptions,
) -> Result<DistributedDataParallel> {
    compare(&parameters, &buffers, group)?;
    let state = parameters.iter().chain(&buffers).map(|(_, tensor)| tensor.detach());
    no_grad(|| bucket::broadcast(state.collect(), &**group, "parameters and buffers"))?;
    let trained: Vec<_> = parameters.into_iter().filter(|(_, tensor)| tensor.requires_grad()).collect();
    if trained.is_empty() {
        return Err(Error::argument("DistributedDataParallel", "no parameter of the model requires gradients"));
    }
    let buffers = buffers.into_iter().map(|(_, tensor)| tensor).collect();
    let reducer = Arc::new(Reducer::new(trained, buffers, group.clone(), options)?);
    let hooks = Reducer::watch(&reducer)?;
    Ok(DistributedDataParallel { reducer, hooks })
}

/// Sees to it that all ranks have the same model.
fn compare(parameters: &[(String, Tensor)], buffers: &[(String, Tensor)], group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let line = |(name, tensor): &(String, Tensor)| {
        let frozen = if tensor.requires_grad() { "" } else { ", without gradients" };
        format!("{name}: {}{}{frozen}\n", tensor.dtype(), tensor.shape())
    };
    let own: String = parameters.iter().chain(buffers).map(line).collect();
    let all = group.gather_texts(&own, "the model's parameters")?;
    let Some(other) = all.iter().position(|text| *text != all[0]) else { return Ok(()) };
    let (mut first, mut second) = (all[0].lines(), all[other].lines());
    let difference = loop {
        match (first.next(), second.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => break format!("{} and {}", a.unwrap_or("nothing more"), b.unwrap_or("nothing more")),
        }
    };
    let calls = format!("DistributedDataParallel of different models: rank 0 and rank {other} have {difference}");
    Err(DistributedError::Mismatch { rank: group.rank(), size: group.size(), calls }.into())
}
