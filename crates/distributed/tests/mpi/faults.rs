//! A failure of one rank ends all of them quickly, with an error that says what happened.

use std::{
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use kiln_distributed::{Collective, DistributedError, ProcessGroup, ReduceOp};
#[cfg(target_os = "linux")]
use kiln_io::Checkpoint;
#[cfg(target_os = "linux")]
use kiln_nn::{Linear, ModuleTree};
#[cfg(target_os = "linux")]
use kiln_tensor::Device;
use kiln_tensor::{ErrorKind, Result};

use crate::{
    common, launch,
    shared_faults::{QUICK, SOON, vector},
};

#[test]
fn a_rank_that_is_late_is_waited_for() {
    common::succeeds(2, "late");
}

#[test]
fn a_rank_that_is_killed_ends_all() {
    // `mpiexec` ends the others itself.
    for phase in ["start", "forward", "backward", "step", "save"] {
        let variables = [QUICK[0], ("KILN_PHASE", phase)];
        let Some(ended) = common::fails(2, "killed", &variables, &["EXIT CODE: 9"]) else { return };
        assert!(ended.time < SOON, "{phase}: {:?}", ended.time);
    }
}

/// What `mpiexec` does not see: a rank that does nothing any more, as on a machine that is gone.
#[test]
fn a_rank_that_is_stopped_is_named() {
    for phase in ["forward", "backward"] {
        let variables = [QUICK[0], ("KILN_PHASE", phase), ("KILN_SIGNAL", "-STOP")];
        let words = [
            "ENDED WITH rank 0 of 2: call ",
            "all_reduce (mean) of f32[32] (bucket 0: the gradients of bias to weight), was not done within 1.5 s",
            "rank 1 does not answer: it is dead, or stopped",
        ];
        let Some(ended) = common::fails(2, "killed", &variables, &words) else { return };
        assert!(ended.time < SOON, "{phase}: {:?}", ended.time);
    }
}

#[test]
fn different_calls_are_compared_in_debug_mode() {
    let words = [
        "ranks call different collectives: as call 2, rank 0 all_reduce (sum) of f32[4], rank 1 all_reduce (sum) of f32[5]",
        "; here it is all_reduce (sum) of f32[",
    ];
    common::fails(2, "other_shape", &[("KILN_DISTRIBUTED_DEBUG", "1")], &words);
}

#[test]
fn a_rank_that_ends_early_is_an_error_of_those_that_go_on() {
    let Some(run) = launch::start(2, "left", &[]) else { return };
    let ended = run.end();
    // One rank ends well, and `mpiexec` has been seen to report success then; what counts is the error of the other.
    let words =
        "ENDED WITH rank 0 of 2: broadcast from rank 1 of f32[2] cannot be done: rank 1 has left the group after 3";
    assert!(ended.text.contains(words) && ended.time < SOON, "{:?}: {}", ended.time, ended.text);
}

/// The disk is full after a part of the file: for rank 0, files have a limit then. The checkpoint that was there stays whole.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_on_rank_0_is_an_error_on_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let model = Linear::new(64, 64).unwrap();
    let before = Checkpoint { model: model.state_dict(), ..Checkpoint::now() };
    before.save(&path).unwrap();
    let words = ["ENDED WITH on_main: rank 0 failed: ", "File too large"];
    if common::fails(2, "full_disk", &[("KILN_TO", path.to_str().unwrap())], &words).is_none() {
        return;
    }
    let after = Checkpoint::load(&path, Device::Cpu).unwrap();
    for ((name, a), (_, b)) in before.model.iter().zip(&after.model) {
        assert_eq!(common::bits(a).unwrap(), common::bits(b).unwrap(), "{name}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "nothing else is left");
}

/// By `std::process::exit`, which drops nothing.
#[test]
fn a_rank_that_exits_is_an_error_of_those_that_go_on() {
    let Some(run) = launch::start(2, "exits", &[]) else { return };
    let ended = run.end();
    let words = "ENDED WITH rank 0 of 2: barrier cannot be done: rank 1 has left the group after 1";
    assert!(ended.text.contains(words) && ended.time < SOON, "{:?}: {}", ended.time, ended.text);
}

/// A group that nobody drops is left at the end all the same.
#[test]
fn a_group_in_a_static_is_left_at_the_end() {
    common::succeeds(2, "forgotten");
}

#[test]
fn an_interrupt_ends_all_ranks() {
    let Some(run) = launch::start(2, "endless", &[]) else { return };
    thread::sleep(Duration::from_secs(3));
    assert!(Command::new("kill").args(["-INT", &run.children[0].id().to_string()]).status().unwrap().success());
    let ended = run.end();
    assert!(!ended.success && ended.time < SOON, "{:?}: {}", ended.time, ended.text);
}

#[test]
fn a_launcher_without_mpi_is_an_error_that_says_how_to_start() {
    // As `torchrun --no-python` starts a process.
    let variables = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "localhost")];
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["rank", "--exact", "--ignored", "--nocapture"]).env("KILN_SCENARIO", "late").envs(variables);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    // One of the two, as the library is there or not.
    assert!(
        !output.status.success() && (text.contains("mpiexec -n 2") || text.contains("pip install mpich")),
        "{text}"
    );
}

pub fn late(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    if group.rank() == 1 {
        thread::sleep(Duration::from_secs(2));
    }
    let started = Instant::now();
    let x = vector(3, group)?;
    group.all_reduce(&x, ReduceOp::Sum)?;
    assert_eq!(x.to_vec::<f32>()?, [2.0; 3]);
    assert_eq!(started.elapsed() > Duration::from_secs(1), group.rank() == 0);
    Ok(())
}

pub fn too_late(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    group.barrier()?;
    if group.rank() == 1 {
        thread::sleep(Duration::from_secs(6));
    }
    let x = vector(3, group)?;
    let call = Collective::all_reduce(&x, ReduceOp::Sum).named("the sum of everything");
    let error = group.start(call).and_then(|work| work.wait()).unwrap_err();
    // The tensor can be used, and later calls fail at once.
    assert_eq!(x.numel(), x.add(1)?.to_vec::<f32>()?.len());
    assert!(group.barrier().is_err());
    let ErrorKind::Other(inner) = error.kind() else { return Err(error) };
    let typed = inner.downcast_ref::<DistributedError>();
    if group.rank() == 0 {
        assert!(matches!(typed, Some(DistributedError::Timeout { rank: 0, size: 2, .. })), "{error}");
    }
    Err(error)
}

#[cfg(target_os = "linux")]
pub fn full_disk(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let model = Linear::new(64, 64)?;
    let path = std::env::var("KILN_TO").unwrap();
    group.on_main(|| {
        limit_files(8 << 10);
        Checkpoint { model: model.state_dict(), ..Checkpoint::now() }.save(&path)
    })?;
    Ok(())
}

/// From now on files of this process cannot grow beyond this size: an error, as on a full disk.
#[cfg(target_os = "linux")]
fn limit_files(bytes: u64) {
    unsafe extern "C" {
        fn setrlimit(resource: i32, limit: *const [u64; 2]) -> i32;
        fn signal(signal: i32, action: usize) -> usize;
    }
    const RLIMIT_FSIZE: i32 = 1;
    const SIGXFSZ: i32 = 25;
    const SIG_IGN: usize = 1;
    // SAFETY: the numbers are Linux's; a limit is two numbers, and no signal handler is replaced by code.
    let limited = unsafe {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &[bytes; 2])
    };
    assert_eq!(limited, 0);
}

pub fn forgotten(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    std::mem::forget(group.clone());
    group.barrier()
}

pub fn exits(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    group.barrier()?;
    if group.rank() == 1 {
        std::process::exit(0);
    }
    group.barrier()
}

pub fn endless(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    loop {
        group.barrier()?;
        thread::sleep(Duration::from_millis(20));
    }
}
