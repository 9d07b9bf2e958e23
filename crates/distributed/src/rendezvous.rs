//! Joins the group of processes that a launcher has started.

use std::{
    env,
    sync::{Arc, Weak},
};

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result};
use parking_lot::Mutex;

use crate::{
    error::DistributedError,
    group::ProcessGroup,
    launch::{Launch, Launcher},
    mpi::Mpi,
    nccl::{self, Nccl},
    options::{Engine, GroupOptions},
    single::SingleProcess,
};

/// Joins the processes that `mpiexec`, Slurm or `torchrun` has launched, with the options [of the
/// environment](GroupOptions::from_env); a process that was launched alone is a group of one. If each process has a GPU, that
/// of its local rank, they communicate by NCCL, else by MPI ([`Engine`]).
///
/// The CPU threads of a machine are divided among its processes, unless `RAYON_NUM_THREADS` says how many each has:
/// call this before the first computation on tensors. Keep the group until the program ends: when its last handle is
/// dropped, the process waits for the others to do the same.
///
/// # Errors
/// [`DistributedError`] if the variables of the launcher are incomplete, the library is missing or does not start, or other
/// ranks do not join before the timeout.
#[located(site)]
pub fn init_process_group() -> Result<Arc<dyn ProcessGroup>> {
    init_process_group_with(GroupOptions::from_env()?)
}

/// [`init_process_group`] with options. As long as a group of several processes lives, later calls return the same one.
///
/// # Errors
/// Those of [`init_process_group`].
#[located(site)]
pub fn init_process_group_with(options: GroupOptions) -> Result<Arc<dyn ProcessGroup>> {
    static GROUP: Mutex<Option<Weak<dyn ProcessGroup>>> = Mutex::new(None);
    let mut group = GROUP.lock();
    if let Some(group) = group.as_ref().and_then(Weak::upgrade) {
        return Ok(group);
    }
    let joined = join(options)?;
    if joined.size() > 1 {
        *group = Some(Arc::downgrade(&joined));
    }
    Ok(joined)
}

/// Joins the group with the engine that fits the launcher and the devices.
fn join(options: GroupOptions) -> Result<Arc<dyn ProcessGroup>> {
    let launch = Launch::from_env()?;
    match (options.engine, launch.launcher, launch.size) {
        (Engine::Auto | Engine::Nccl, Launcher::Alone, _) | (Engine::Auto, Launcher::Torchrun | Launcher::Slurm, 1) => {
            return Ok(Arc::new(SingleProcess::new()));
        }
        _ => share_threads(launch.local_size),
    }
    let has_mpi = launch.launcher == Launcher::Mpi;
    let gpu = match options.engine {
        Engine::Mpi => return Ok(mpi_group(&launch, options, false)?),
        Engine::Auto | Engine::Nccl => nccl::usable(Device::Cuda(launch.local_rank)),
    };
    if !has_mpi && (gpu.is_ok() || options.engine == Engine::Nccl) {
        return Ok(Arc::new(Nccl::by_tcp(&launch, &options)?));
    }
    let mpi = mpi_group(&launch, options, gpu.is_ok())?;
    if options.engine == Engine::Auto && !mpi.all_have_gpus() {
        return Ok(mpi);
    }
    gpu?;
    Ok(Arc::new(Nccl::by_mpi(mpi, &options)?))
}

/// The group on MPI, which is initialized once per process.
fn mpi_group(launch: &Launch, options: GroupOptions, has_gpu: bool) -> Result<Arc<Mpi>> {
    let mpi = Mpi::start(options.timeout, options.debug, has_gpu)?;
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
    Ok(Arc::new(mpi))
}

/// Gives each process of a machine its share of the processors. Has no effect if threads have been started already.
fn share_threads(local_size: Option<usize>) {
    let (Some(processes), true) = (local_size, env::var_os("RAYON_NUM_THREADS").is_none()) else { return };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (processors / processes.max(1)).max(1);
    let _started_before = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
}
