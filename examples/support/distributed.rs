//! `--distributed` of the examples. A build without the feature `distributed` has no such option, and is one process.

use clap::Args;
#[cfg(feature = "distributed")]
use kiln::distributed::{DistributedDataParallel, ProcessGroup, SingleProcess, init_process_group};
use kiln::{Result, data::DistributedSampler, prelude::*};

#[derive(Args)]
// `vgg16` has other `Options`, and names of groups must differ.
#[group(id = "distributed_options")]
pub struct Options {
    /// Train together with the other processes that mpiexec or Slurm has started, each on a share of every batch
    #[cfg(feature = "distributed")]
    #[arg(long)]
    distributed: bool,
}

/// The processes that train together.
pub struct Ranks {
    #[cfg(feature = "distributed")]
    group: std::sync::Arc<dyn ProcessGroup>,
}

#[cfg(feature = "distributed")]
impl Ranks {
    pub fn join(options: &Options) -> Result<Ranks> {
        let alone = || std::sync::Arc::new(SingleProcess::new());
        Ok(Ranks { group: if options.distributed { init_process_group()? } else { alone() } })
    }

    /// This process's device: the GPU of its rank on this machine, `otherwise` if it is alone.
    pub fn device(&self, otherwise: Device) -> Device {
        if self.group.size() > 1 { self.group.device() } else { otherwise }
    }

    /// This process's share of `len` samples, in another order in each epoch.
    pub fn share(&self, len: usize) -> Result<DistributedSampler> {
        DistributedSampler::new(len, self.group.rank(), self.group.size())
    }

    /// From now on all processes have the same model, and gradients are averages.
    pub fn share_gradients(&self, model: &dyn Module) -> Result<Option<DistributedDataParallel>> {
        if self.group.size() > 1 { DistributedDataParallel::new(model, &self.group).map(Some) } else { Ok(None) }
    }

    /// What one process does for all, as writing a file. If it fails, all fail.
    pub fn on_main(&self, f: impl FnOnce() -> Result<()>) -> Result<()> {
        self.group.on_main(f).map(drop)
    }
}

#[cfg(not(feature = "distributed"))]
impl Ranks {
    pub fn join(_: &Options) -> Result<Ranks> {
        Ok(Ranks {})
    }

    pub fn device(&self, otherwise: Device) -> Device {
        otherwise
    }

    pub fn share(&self, len: usize) -> Result<DistributedSampler> {
        DistributedSampler::new(len, 0, 1)
    }

    pub fn share_gradients(&self, _: &dyn Module) -> Result<Option<()>> {
        Ok(None)
    }

    pub fn on_main(&self, f: impl FnOnce() -> Result<()>) -> Result<()> {
        f()
    }
}
