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
mod runs;
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
    ("other_ranks_resume", resume::checkpoint),
    ("sync_batch_norm", sync_batch_norm::as_one_batch),
    ("late", faults::late),
    ("too_late", faults::too_late),
    ("killed", faults::killed),
    ("other_model", faults::other_model),
    ("other_shape", faults::other_shape),
    ("left", faults::left),
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
    common::play(SCENARIOS);
}
