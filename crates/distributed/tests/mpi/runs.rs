//! The scenarios of training on ranks that `mpiexec` starts.

use std::path::PathBuf;

use kiln_io::Checkpoint;
use kiln_tensor::{DType, Device};

use crate::common::{self, bits};

#[test]
fn collectives_compute_what_one_process_would() {
    for ranks in [2, 3] {
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

/// A run of two ranks that is stopped after an epoch goes on as if it had not been. Other numbers of ranks go on from its
/// checkpoint within rounding, and each of them twice with the same bits.
#[test]
fn any_number_of_ranks_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |ranks: usize, from: &str, epochs: &str, to: &str| {
        let variables = [("KILN_FROM", &*at(from)), ("KILN_EPOCHS", epochs), ("KILN_TO", &*at(to))];
        common::succeeds_with(ranks, "other_ranks_resume", &variables);
    };
    run(2, "none", "2", "whole");
    if !PathBuf::from(at("whole")).exists() {
        return;
    }
    run(2, "none", "1", "half");
    run(2, "half", "2", "resumed");
    let parameters = |name: &str| Checkpoint::load(at(name), Device::Cpu).unwrap().model;
    let assert_equal = |one: &str, other: &str| {
        for ((name, a), (_, b)) in parameters(one).iter().zip(&parameters(other)) {
            assert_eq!(bits(a).unwrap(), bits(b).unwrap(), "{name} of {one} and {other}");
        }
    };
    assert_equal("whole", "resumed");
    for (ranks, name) in [(1, "one"), (3, "three"), (4, "four")] {
        run(ranks, "half", "2", name);
        assert_eq!(Checkpoint::load(at(name), Device::Cpu).unwrap().epoch, 2);
        for ((tensor, a), (_, b)) in parameters("whole").iter().zip(&parameters(name)) {
            let difference = a.to_dtype(DType::F64).unwrap().sub(&b.to_dtype(DType::F64).unwrap()).unwrap();
            let difference = difference.abs().unwrap().amax(()).unwrap().item::<f64>().unwrap();
            assert!(difference < 1e-9, "{tensor} with {ranks} ranks: {difference}");
        }
    }
    run(3, "half", "2", "again");
    assert_equal("three", "again");
}

#[test]
fn statistics_are_those_of_all_batches() {
    for ranks in [2, 3] {
        common::succeeds(ranks, "sync_batch_norm");
    }
}
