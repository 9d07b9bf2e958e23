//! Tests with real processes: each test starts this program again with `mpiexec`, and each rank runs a scenario.
//! Without `mpiexec` of a library with MPI's standard ABI (`pip install mpich`) they are skipped, with a message;
//! `KILN_REQUIRE_MPI=1` makes that a failure.

#[path = "../scenarios/collectives.rs"]
mod collectives;
#[path = "../scenarios/common.rs"]
mod common;
mod faults;
mod launch;
mod resume;
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

/// Numbers of ranks of which the mean is, to the last bit, that of one process.
const EXACT: &[usize] = &[2, 3];

/// What ranks play only here, by name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("other_ranks_resume", resume::checkpoint),
    ("late", faults::late),
    ("too_late", faults::too_late),
    #[cfg(target_os = "linux")]
    ("full_disk", faults::full_disk),
    ("exits", faults::exits),
    ("forgotten", faults::forgotten),
    ("endless", faults::endless),
];

/// A rank.
#[test]
#[ignore = "started by the other tests"]
fn rank() {
    common::play(&[shared::SCENARIOS, SCENARIOS]);
}
