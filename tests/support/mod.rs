//! Helpers for the tests on a GPU, real or simulated.

use std::{env, sync::Mutex};

use kiln::prelude::*;

/// What a step asks of the driver is counted for the whole process, so nothing else may run beside it.
pub static TURN: Mutex<()> = Mutex::new(());

/// The first GPU; `None` where there is none and none is required.
pub fn device() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(env::var_os("KILN_REQUIRE_DEVICE").is_none(), "a device is required: {error}");
            None
        }
    }
}

/// Asserts that the losses of a training in `f32` on a device are those of the same training on the CPU: `exact` in `f64`, from
/// the same numbers, `single` in `f32`. `terms` is the length of the longest sum of products.
///
/// A sum of n products in `f32`, in whatever order, is within n · 2⁻²⁴ of its magnitude (Higham, "Accuracy and Stability of
/// Numerical Algorithms", section 3.1), in the forward pass and on the way back. What training makes of such errors from step
/// to step depends on the network: the CPU's own `f32` shows it. Another order of the same sums, with fewer partial sums,
/// has up to ten times its errors (the square root of the CPU's 16 lanes times 8 blocks).
#[allow(dead_code, reason = "not every test trains")]
pub fn assert_trained_alike(got: &[f32], single: &[f32], exact: &[f64], terms: usize) {
    assert_eq!((got.len(), got.len()), (single.len(), exact.len()));
    let mut drift = 0.0f64;
    for (step, ((got, single), exact)) in got.iter().zip(single).zip(exact).enumerate() {
        drift = drift.max((f64::from(*single) - exact).abs());
        let most = 2.0 * terms as f64 * 2f64.powi(-24) * exact.abs().max(1.0) + 10.0 * drift;
        let apart = (f64::from(*got) - exact).abs();
        assert!(apart <= most, "step {step}: {got}, not {exact}: {apart:e} apart, of {most:e}; {single} on the CPU");
    }
}
