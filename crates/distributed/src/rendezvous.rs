//! Joins the group of processes that a launcher has started.

use std::{
    env,
    sync::{Arc, Weak},
    time::Duration,
};

use kiln_derive::located;
use kiln_tensor::{Error, Result};
use parking_lot::Mutex;

use crate::{
    error::DistributedError,
    group::ProcessGroup,
    launch::{Launch, Launcher},
    mpi::Mpi,
    single::SingleProcess,
};

/// The communication library of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// The one that fits the launcher.
    #[default]
    Auto,
    /// MPI, between processes that `mpiexec` has launched.
    Mpi,
}

/// Options of a process group.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct GroupOptions {
    engine: Engine,
    timeout: Duration,
    debug: bool,
}

/// PyTorch's timeout for NCCL.
const TIMEOUT: Duration = Duration::from_secs(600);

impl Default for GroupOptions {
    fn default() -> Self {
        GroupOptions { engine: Engine::Auto, timeout: TIMEOUT, debug: false }
    }
}

impl GroupOptions {
    /// The defaults: 10 minutes, without comparing calls. The variables `KILN_DISTRIBUTED_TIMEOUT` (seconds) and
    /// `KILN_DISTRIBUTED_DEBUG` (`1`), which must be the same on all ranks, change them.
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

/// Joins the processes that `mpiexec`, Slurm or `torchrun` has launched, with the options [of the
/// environment](GroupOptions::from_env); a process that was launched alone is a group of one.
///
/// The CPU threads of a machine are divided among its processes, unless `RAYON_NUM_THREADS` says how many each has:
/// call this before the first computation on tensors. Keep the group until the program ends: when its last handle is
/// dropped, the process waits for the others to do the same.
///
/// # Errors
/// [`DistributedError`] if the variables of the launcher are incomplete, or MPI is missing or does not start. If other
/// ranks do not join, the first collective is an error after the timeout.
#[located(site)]
pub fn init_process_group() -> Result<Arc<dyn ProcessGroup>> {
    init_process_group_with(GroupOptions::from_env()?)
}

/// [`init_process_group`] with options.
///
/// # Errors
/// Those of [`init_process_group`].
#[located(site)]
pub fn init_process_group_with(options: GroupOptions) -> Result<Arc<dyn ProcessGroup>> {
    let launch = Launch::from_env()?;
    let wanted = match (options.engine, launch.launcher, launch.size) {
        (Engine::Auto, Launcher::Alone, _) | (Engine::Auto, Launcher::Torchrun | Launcher::Slurm, 1) => {
            return Ok(Arc::new(SingleProcess::new()));
        }
        (Engine::Auto | Engine::Mpi, ..) => Engine::Mpi,
    };
    debug_assert_eq!(wanted, Engine::Mpi);
    share_threads(launch.local_size);
    mpi_group(&launch, options)
}

/// MPI is initialized once per process: later calls return the same group.
fn mpi_group(launch: &Launch, options: GroupOptions) -> Result<Arc<dyn ProcessGroup>> {
    static GROUP: Mutex<Option<Weak<Mpi>>> = Mutex::new(None);
    let mut group = GROUP.lock();
    if let Some(group) = group.as_ref().and_then(Weak::upgrade) {
        return Ok(group);
    }
    let mpi = Mpi::start(options.timeout, options.debug)?;
    if mpi.size() == 1 && launch.size > 1 {
        return Err(Error::from(DistributedError::Rendezvous(format!(
            "{launcher} has started {size} processes, and MPI ({mpi:?}) knows of this one alone. CPU processes communicate \
             by MPI, whose own launcher starts them: `mpiexec -n {size} program`, of the same installation, or with Slurm \
             `srun --mpi=pmi2 program`",
            launcher = launch.launcher,
            size = launch.size,
        ))));
    }
    share_threads(Some(mpi.local_size()));
    let mpi = Arc::new(mpi);
    *group = Some(Arc::downgrade(&mpi));
    Ok(mpi)
}

/// Gives each process of a machine its share of the processors. Has no effect if threads have been started already.
fn share_threads(local_size: Option<usize>) {
    let (Some(processes), true) = (local_size, env::var_os("RAYON_NUM_THREADS").is_none()) else { return };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (processors / processes.max(1)).max(1);
    let _started_before = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}
