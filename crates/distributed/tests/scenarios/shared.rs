//! The tests that both engines pass: what ranks play, and how many of them.

use crate::{
    EXACT, collectives,
    common::{self, Scenario},
    shared_faults::{self, QUICK, SOON},
    sync_batch_norm, training,
};

/// What ranks play, by name.
pub const SCENARIOS: &[(&str, Scenario)] = &[
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
    ("killed", shared_faults::killed),
    ("other_model", shared_faults::other_model),
    ("other_shape", shared_faults::other_shape),
    ("left", shared_faults::left),
];

#[test]
fn collectives_compute_what_one_process_would() {
    for &ranks in EXACT {
        common::succeeds(ranks, "collectives");
    }
    common::succeeds_with(4, "collectives", &[("KILN_DISTRIBUTED_DEBUG", "1")]);
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

/// Each engine has a scenario of its own for this.
#[test]
fn a_rank_that_is_too_late_is_named() {
    let words = [
        "rank 0 of 2: call 2, all_reduce (sum) of f32[3] (the sum of everything), was not done within 1.5 s",
        "rank 1 has made 1 calls and is busy with something else",
    ];
    let Some(ended) = common::fails(2, "too_late", &QUICK, &words) else { return };
    assert!(ended.time < SOON, "{:?}", ended.time);
}

#[test]
fn a_rank_with_another_model_is_noticed_before_the_first_step() {
    let words = ["different models: rank 0 and rank 1 have weight: f32[2, 4] and weight: f32[3, 4]"];
    common::fails(2, "other_model", &[], &words);
}
