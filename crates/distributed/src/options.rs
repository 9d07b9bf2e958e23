//! Options of a process group, and the environment variables for them.

use std::{env, time::Duration};

use kiln_tensor::Result;

use crate::error::DistributedError;

/// The communication library of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// NCCL if each process has a usable GPU, that of its local rank, else MPI.
    #[default]
    Auto,
    /// MPI, between processes that `mpiexec` has launched. Tensors of GPUs are copied to the host, and back.
    Mpi,
    /// NCCL, between GPUs.
    Nccl,
}

/// Options of a process group.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct GroupOptions {
    pub(crate) engine: Engine,
    pub(crate) timeout: Duration,
    pub(crate) debug: bool,
}

/// PyTorch's timeout for NCCL.
const TIMEOUT: Duration = Duration::from_secs(600);

impl Default for GroupOptions {
    fn default() -> Self {
        GroupOptions { engine: Engine::Auto, timeout: TIMEOUT, debug: false }
    }
}

impl GroupOptions {
    /// The defaults: 10 minutes, without comparing calls. The variables `KILN_DISTRIBUTED_TIMEOUT` (seconds),
    /// `KILN_DISTRIBUTED_DEBUG` (`1`) and `KILN_DISTRIBUTED_ENGINE` (`mpi`, `nccl`), which must be the same on all ranks,
    /// change them.
    ///
    /// # Errors
    /// If a variable has an invalid value.
    pub fn from_env() -> Result<GroupOptions> {
        let mut options = GroupOptions::default();
        if let Ok(text) = env::var("KILN_DISTRIBUTED_TIMEOUT") {
            let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let seconds = seconds.filter(|seconds| !seconds.is_zero());
            options.timeout = seconds.ok_or_else(|| {
                DistributedError::Rendezvous(format!("KILN_DISTRIBUTED_TIMEOUT={text} is not a number of seconds"))
            })?;
        }
        match env::var("KILN_DISTRIBUTED_ENGINE").as_deref() {
            Err(_) | Ok("" | "auto") => {}
            Ok("mpi") => options.engine = Engine::Mpi,
            Ok("nccl") => options.engine = Engine::Nccl,
            Ok(text) => {
                let text = format!("KILN_DISTRIBUTED_ENGINE={text} is none of auto, mpi, nccl");
                return Err(DistributedError::Rendezvous(text).into());
            }
        }
        match env::var("KILN_DISTRIBUTED_DEBUG").as_deref() {
            Err(_) | Ok("" | "0") => {}
            Ok("1") => options.debug = true,
            Ok(text) => {
                let text = format!("KILN_DISTRIBUTED_DEBUG={text} is neither 0 nor 1");
                return Err(DistributedError::Rendezvous(text).into());
            }
        }
        Ok(options)
    }

    /// Sets the engine.
    pub fn engine(self, engine: Engine) -> Self {
        GroupOptions { engine, ..self }
    }

    /// Sets how long a collective may take, including the wait for late ranks, before it is an error.
    pub fn timeout(self, timeout: Duration) -> Self {
        GroupOptions { timeout, ..self }
    }

    /// Sets whether the calls of all ranks are compared before each collective, so that different ones are an error
    /// immediately instead of after the timeout. This costs another round trip per collective, and must be the same on
    /// all ranks.
    pub fn debug(self, debug: bool) -> Self {
        GroupOptions { debug, ..self }
    }
}
