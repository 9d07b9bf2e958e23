//! A failure of one rank ends all of them, with an error that says what happened; and mistakes in the order of work that
//! the simulated device must find.

use std::{sync::Arc, thread, time::Duration};

use kiln_distributed::{Collective, DistributedError, ProcessGroup, ReduceOp};
use kiln_tensor::{ErrorKind, Result, Tensor};

use crate::{
    common, launch, mpiexec,
    shared_faults::{QUICK, SOON, vector},
};

#[test]
fn a_rank_that_is_killed_ends_all() {
    let phases = [("start", "-9"), ("forward", "-9"), ("backward", "-9"), ("step", "-9"), ("save", "-9")];
    // As Slurm and Kubernetes end a process. (SIGINT is ignored by processes that a shell has started in the background.)
    for (phase, signal) in phases.into_iter().chain([("forward", "-TERM")]) {
        let words = ["ENDED WITH", "rank 1 has failed: its process has ended, or its connection"];
        let variables = [("KILN_PHASE", phase), ("KILN_SIGNAL", signal)];
        let Some(ended) = common::fails(2, "killed", &variables, &words) else { return };
        assert!(ended.time < SOON, "{phase}: {:?}", ended.time);
    }
}

/// A call of the library that does not return, on rank 1: whoever notices it first says which call of which rank it is.
#[test]
fn a_call_that_hangs_in_the_library_is_named() {
    if !launch::is_simulated() {
        return;
    }
    let call = "call 2, all_reduce (sum) of f32[3] (the sum of everything)";
    let noticed_by_0 =
        format!("rank 0 of 2: {call}, was not done within 1.5 s; rank 1 is in a call of NCCL that does not");
    let noticed_by_1 = format!("rank 1 of 2: {call}, was not done within 1.5 s; rank 0 waits in {call}");
    let (hangs, quick) = (("KILN_SIM_HANG_COLLECTIVE", "2"), QUICK[0]);
    let forever = ("KILN_SIM_HANG_FOREVER", "1");
    // The call returns when the communicator is aborted, or else the process has to end.
    let process_ends = "The call has not returned although its communicator was aborted";
    let cases: [([launch::Variables<'_>; 2], &str, bool); 3] = [
        ([&[quick], &[hangs]], &noticed_by_0, true),
        ([&[], &[quick, hangs]], &noticed_by_1, true),
        ([&[], &[quick, hangs, forever]], &noticed_by_1, false),
    ];
    for (of_ranks, notice, returns) in cases {
        let Some(run) = launch::start_differently("hangs", &[], &of_ranks) else { return };
        let ended = run.end();
        assert!(!ended.success && ended.text.contains(notice), "{notice:?} is not in {}", ended.text);
        assert_eq!(ended.text.matches("ENDED WITH").count(), if returns { 2 } else { 1 }, "{}", ended.text);
        assert_eq!(ended.text.contains(process_ends), !returns, "{}", ended.text);
        assert!(ended.time < SOON, "{:?}", ended.time);
    }
}

/// MPI's notes say as much as those by TCP.
#[test]
fn ranks_of_mpiexec_end_with_the_same_errors() {
    if !launch::has_devices(2) {
        return;
    }
    let left = "rank 0 of 2: broadcast from rank 1 of f32[2] cannot be done: rank 1 has left the group after 3";
    let late = "was not done within 1.5 s; rank 1 has made 1 calls and is busy with something else";
    for (scenario, words) in [("left", left), ("too_late", late)] {
        let variables = [("KILN_SIM_DEVICES", "2"), QUICK[0]];
        let Some(run) = mpiexec::start(2, scenario, &variables) else { return };
        let ended = run.end();
        assert!(ended.text.contains(words), "{words:?} is not in {}", ended.text);
        assert!(ended.time < SOON, "{scenario}: {:?}", ended.time);
    }
}

#[test]
fn a_rank_that_is_stopped_is_named() {
    if !launch::has_devices(2) {
        return;
    }
    let variables = [QUICK[0], ("KILN_PHASE", "forward"), ("KILN_SIGNAL", "-STOP")];
    let words =
        ["of f32[32] (bucket 0: the gradients of bias to weight), was not done within 1.5 s", "does not answer"];
    let Some(mut run) = launch::start(2, "killed", &variables) else { return };
    // Its process never ends by itself.
    let mut stopped = run.children.pop().unwrap();
    let ended = run.end();
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    assert!(words.iter().all(|word| ended.text.contains(word)), "{}", ended.text);
}

#[test]
fn different_calls_are_compared_in_debug_mode() {
    let words = [
        "ranks call different collectives: as call 3, rank 0 all_reduce (sum) of f32[4], rank 1 all_reduce (sum) of f32[5]",
    ];
    common::fails(2, "other_shape", &[("KILN_DISTRIBUTED_DEBUG", "1")], &words);
}

#[test]
fn a_rank_that_ends_early_is_an_error_of_those_that_go_on() {
    let words = ["rank 0 of 2: broadcast from rank 1 of f32[2] cannot be done: rank 1 has left the group after 3"];
    common::fails(2, "left", &[], &words);
}

/// Runs a scenario on the simulated device, and returns what that has found.
fn findings(scenario: &str, variables: &[(&str, &str)]) -> Option<String> {
    if !launch::is_simulated() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let reports = [("KILN_SIM_REPORT", folder.path().to_str().unwrap())];
    let ended = launch::start(2, scenario, &[&reports, variables].concat())?.end();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let texts = files.filter(|file| file.extension().is_some_and(|end| end == "txt"));
    let lines: Vec<String> = texts.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    Some(lines.concat() + &ended.text)
}

/// Planted: a gradient is read before its average is there, and its memory is written while it is being averaged.
#[test]
fn what_does_not_wait_for_a_collective_is_found() {
    for (plant, count) in [("none", 0), ("read", 1), ("write", 1)] {
        let Some(found) = findings("early_read", &[("KILN_PLANT", plant)]) else { return };
        let unordered = found.lines().any(|line| line.contains("unordered access") && line.contains("ncclAllReduce"));
        assert_eq!(unordered, count > 0, "{plant}: {found}");
    }
}

/// Planted: ranks make the same calls in another order. Without the comparison the device finds it.
#[test]
fn another_order_is_found() {
    let Some(found) = findings("other_shape", &QUICK) else { return };
    assert!(found.contains("ranks call different collectives as number"), "{found}");
    assert!(found.contains("was not done within 1.5 s"), "{found}");
}

pub fn early_read(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let x = vector(1 << 10, group)?;
    let work = group.all_reduce_async(&x, ReduceOp::Sum)?;
    let plant = std::env::var("KILN_PLANT").unwrap();
    let early = match plant.as_str() {
        "read" => Some(x.add(1)?),
        "write" => {
            x.add_(1)?;
            None
        }
        _ => None,
    };
    work.wait()?;
    group.device().synchronize()?;
    drop(early);
    // Memory that nobody else holds is not handed out while it is being averaged, nor when nobody waits for that.
    for waits in [true, false] {
        let given_up = vector(1 << 12, group)?;
        let work = group.all_reduce_async(&given_up, ReduceOp::Sum)?;
        drop(given_up);
        let next = Tensor::full([1 << 12], 2.0, group.device())?;
        if waits {
            work.wait()?;
        } else {
            drop(work);
        }
        let last = Tensor::full([1 << 12], 3.0, group.device())?;
        assert_eq!((next.to_vec::<f32>()?[7], last.to_vec::<f32>()?[7]), (2.0, 3.0));
    }
    group.barrier()
}

pub fn too_late(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    group.barrier()?;
    if group.rank() == 1 {
        thread::sleep(Duration::from_secs(6));
    }
    let x = vector(3, group)?;
    let call = Collective::all_reduce(&x, ReduceOp::Sum).named("the sum of everything");
    // The device's queue waits, and not the host, which notices when it reads.
    let read = group.start(call).and_then(|work| work.wait()).and_then(|()| x.to_vec::<f32>());
    let error = read.unwrap_err();
    // Later calls fail at once.
    let later = group.barrier().unwrap_err();
    let ErrorKind::Other(inner) = later.kind() else { return Err(later) };
    assert!(matches!(inner.downcast_ref::<DistributedError>(), Some(DistributedError::Aborted { .. })), "{later}");
    Err(error)
}

pub fn hangs(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    group.barrier()?;
    let x = vector(3, group)?;
    let call = Collective::all_reduce(&x, ReduceOp::Sum).named("the sum of everything");
    group.start(call)?.wait()?;
    x.to_vec::<f32>().map(drop)
}
