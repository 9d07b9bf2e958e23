//! Data parallel training: every process has the whole model and a share of each batch, and gradients are averaged.

mod bucket;
mod options;
mod reducer;

use std::sync::Arc;

use kiln_derive::located;
use kiln_nn::ModuleTree;
use kiln_tensor::{Error, Result, Tensor, autograd::HookHandle, no_grad};

use self::reducer::Reducer;
pub use self::{options::DdpOptions, reducer::StepReport};
use crate::{error::DistributedError, group::ProcessGroup};

/// Averages the gradients of a model over the processes of a group: PyTorch's `DistributedDataParallel`.
///
/// On construction, all ranks get the parameters and buffers of rank 0. From then on each `backward` leaves the average
/// of all ranks' gradients in [`grad`](Tensor::grad), so that identical optimizers make identical steps. Gradients are
/// stored in flat buckets, of which each parameter's `grad` is a view; averaging a bucket begins as soon as its last
/// gradient has arrived, while the backward pass continues.
///
/// The model itself is used as before. The wrapper refers to its present parameters, so move the model to its device
/// and dtype first. Gradients are averaged as long as the wrapper lives.
///
/// - If the loss of each rank is the mean over its share, and all shares have the same size ([`DistributedSampler`]
///   makes them so), the average is the gradient of the whole batch.
/// - [`no_sync`](DistributedDataParallel::no_sync) accumulates gradients over several batches.
/// - Clip gradients after `backward`, in the same way on all ranks.
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
    /// Copies rank 0's parameters and buffers to all ranks, and averages gradients from now on.
    ///
    /// # Errors
    /// If ranks have different models (the message names the first parameter that differs), no parameter requires
    /// gradients, a parameter was wrapped before, or a collective fails.
    pub fn new(model: &(impl ModuleTree + ?Sized), group: &Arc<dyn ProcessGroup>) -> Result<DistributedDataParallel> {
        DistributedDataParallel::with_options(model, group, DdpOptions::default())
    }

    /// [`new`](DistributedDataParallel::new) with options.
    ///
    /// # Errors
    /// Those of [`new`](DistributedDataParallel::new).
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

    /// Calls `f` without averaging: its backward passes add to the gradients of this rank, and the next backward pass
    /// outside averages the sums. With one process it has no effect.
    pub fn no_sync<T>(&self, f: impl FnOnce() -> T) -> T {
        let _resumed = self.reducer.pause();
        f()
    }

    /// The process group.
    pub fn group(&self) -> &Arc<dyn ProcessGroup> {
        &self.reducer.group
    }

    /// Gives all ranks the buffers of rank 0, for a model that is used without a preceding backward pass.
    ///
    /// # Errors
    /// If a collective fails.
    pub fn sync_buffers(&self) -> Result<()> {
        self.reducer.sync_buffers()
    }

    /// A report on the latest backward pass that averaged gradients.
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

/// Verifies that all ranks have the same model.
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
