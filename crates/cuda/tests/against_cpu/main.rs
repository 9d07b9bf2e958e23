//! Every primitive on the device against the CPU backend, over layouts and dtypes.
//!
//! Needs a device: a GPU, or the simulated one. Without a device the tests pass, unless `KILN_REQUIRE_DEVICE` is set.

#![cfg(feature = "kernels")]

mod alignment;
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
mod reductions;
mod relu_bias_grad;
mod special_values;
mod sums;
mod support;
mod turns;
mod wild_indices;

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
