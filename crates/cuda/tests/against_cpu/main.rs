//! Every primitive on the device against the CPU backend, over layouts and dtypes.
//!
//! Needs a device: a GPU, or the simulated one. Without a device the tests pass, unless `KILN_REQUIRE_DEVICE` is set.

mod alignment;
mod attention;
mod basics;
mod convolution;
mod elementwise;
mod images;
mod indexing;
mod losses;
mod normalization;
mod numbers;
mod optimizers;
mod pooling;
mod products;
mod recurrent;
mod reductions;
mod reference;
mod relu_bias_grad;
mod special_values;
mod sums;
mod support;
mod turns;
mod volumes;
mod wild_indices;

use std::{collections::BTreeSet, env, process::Command};

use support::device;

#[test]
fn the_device_is_named() {
    match device() {
        Some(device) => {
            let info = device.info();
            assert!(!info.name.is_empty() && info.total_memory > 0 && info.compute_capability.0 > 0, "{info:?}");
            println!("on {device:?}: {info:?}");
        }
        None => println!("nothing is compared"),
    }
}

/// The GPU bundle runs the suite group by group, under compute-sanitizer: its list has every module with tests.
#[test]
fn the_bundle_lists_every_group() {
    let sections = include_str!("../../../../scripts/gpu/sections.sh");
    let (_, groups) = sections.split_once("\nKERNEL_GROUPS='").unwrap();
    let groups: BTreeSet<&str> = groups.split_once('\'').unwrap().0.split_whitespace().collect();
    let tests = Command::new(env::current_exe().unwrap()).arg("--list").output().unwrap();
    let tests = String::from_utf8(tests.stdout).unwrap();
    let tested =
        tests.lines().filter(|line| line.ends_with(": test")).filter_map(|line| Some(line.split_once("::")?.0));
    assert_eq!(groups, tested.collect());
}
