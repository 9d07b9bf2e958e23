//! The NCCL engine on two devices: the scenarios of the MPI tests with a process per GPU, which meet by TCP, and what only
//! GPUs have: queues, overlap, captured steps, ranks as threads. On the simulated device (`cargo sim test -p
//! kiln-distributed --features cuda --test nccl`) each process of a test has two devices; elsewhere the tests are skipped
//! unless the machine has two GPUs, and `KILN_REQUIRE_DEVICE=1` makes that a failure.

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
#[path = "../scenarios/shared.rs"]
mod shared;
#[path = "../scenarios/faults.rs"]
mod shared_faults;
#[path = "../scenarios/sync_batch_norm.rs"]
mod sync_batch_norm;
#[path = "../scenarios/training.rs"]
mod training;

use common::Scenario;

/// Numbers of ranks of which the mean is, to the last bit, that of one process: NCCL divides before it adds.
const EXACT: &[usize] = &[2];

/// What ranks play only here, by name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("steps", gpu::steps),
    ("captured", gpu::captured),
    ("too_late", faults::too_late),
    ("hangs", faults::hangs),
    ("early_read", faults::early_read),
];

/// A rank.
#[test]
#[ignore = "started by the other tests"]
fn rank() {
    common::play(&[shared::SCENARIOS, SCENARIOS]);
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
