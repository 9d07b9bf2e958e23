//! The NCCL engine on two devices: the scenarios of the MPI tests with a process per GPU, which meet by TCP, and what only
//! GPUs have: queues, overlap, captured steps, ranks as threads. On the simulated device (`cargo sim test -p
//! kiln-distributed --features cuda --test nccl`) each process of a test has two devices; elsewhere the tests are skipped
//! unless the machine has two GPUs, and `KILN_REQUIRE_DEVICE=1` makes that a failure.
#![cfg(feature = "cuda")]

#[path = "../scenarios/collectives.rs"]
mod collectives;
#[path = "../scenarios/common.rs"]
mod common;
mod faults;
mod gpu;
mod launch;
#[path = "../mpi/launch.rs"]
mod mpiexec;
#[path = "../scenarios/run.rs"]
mod run;
#[path = "../scenarios/sync_batch_norm.rs"]
mod sync_batch_norm;
#[path = "../scenarios/training.rs"]
mod training;

use common::Scenario;

/// What ranks play, by name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("collectives", collectives::all_of_them),
    ("helpers", collectives::helpers),
    ("bit_equal", training::bit_equal),
    ("as_one_process", training::as_one_process),
    ("accumulation", training::accumulation),
    ("unused", training::unused),
    ("unused_error", training::unused_error),
    ("overlap", training::overlap),
    ("mixed_precision", training::mixed_precision),
    ("sync_batch_norm", sync_batch_norm::as_one_batch),
    ("steps", gpu::steps),
    ("captured", gpu::captured),
    ("too_late", faults::too_late),
    ("hangs", faults::hangs),
    ("other_model", faults::other_model),
    ("killed", faults::killed),
    ("other_shape", faults::other_shape),
    ("left", faults::left),
    ("early_read", faults::early_read),
];

/// A rank.
#[test]
#[ignore = "started by the other tests"]
fn rank() {
    common::play(SCENARIOS);
}

#[test]
fn collectives_compute_what_one_process_would() {
    common::succeeds(2, "collectives");
    common::succeeds_with(4, "collectives", &[("KILN_DISTRIBUTED_DEBUG", "1")]);
}

/// MPI has started the ranks: it carries NCCL's id, or all of the data, by way of the host.
#[test]
fn ranks_of_mpiexec_use_either_engine() {
    if !launch::has_devices(2) {
        return;
    }
    let by_host = [
        ("KILN_SIM_DEVICES", "2"),
        ("KILN_DISTRIBUTED_ENGINE", "mpi"),
        ("KILN_EXPECTED_ENGINE", "MPI"),
        ("KILN_SCENARIO_DEVICE", "cuda"),
    ];
    for (scenario, variables) in [("collectives", &by_host[..1]), ("collectives", &by_host), ("bit_equal", &by_host)] {
        let Some(run) = mpiexec::start(2, scenario, variables) else { return };
        let ended = run.end();
        assert!(ended.success && ended.text.matches("PLAYED").count() == 2, "{scenario} {variables:?}: {}", ended.text);
    }
}

#[test]
fn sums_texts_and_errors_go_to_all_ranks() {
    common::succeeds(2, "helpers");
}

#[test]
fn parameters_stay_equal_bit_for_bit() {
    common::succeeds(2, "bit_equal");
    common::succeeds(4, "bit_equal");
}

#[test]
fn two_halves_of_a_batch_are_the_batch() {
    common::succeeds(2, "as_one_process");
}

#[test]
fn gradients_accumulate_and_are_clipped() {
    common::succeeds(2, "accumulation");
}

#[test]
fn unused_and_frozen_parameters() {
    common::succeeds_with(2, "unused", &[("KILN_DISTRIBUTED_DEBUG", "1")]);
    let words = ["of 2: the backward pass", "right.weight, right.bias, never.weight, never.bias", "find_unused(true)"];
    common::fails(2, "unused_error", &[], &words);
}

#[test]
fn averages_begin_during_the_backward_pass() {
    common::succeeds(2, "overlap");
}

#[test]
fn ranks_decide_alike_about_scaled_steps() {
    common::succeeds(2, "mixed_precision");
}

#[test]
fn statistics_are_those_of_all_batches() {
    for ranks in [2, 3] {
        common::succeeds(ranks, "sync_batch_norm");
    }
}
