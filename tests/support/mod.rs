//! Helpers for the tests on a GPU, real or simulated.

#[allow(dead_code, reason = "not every test trains")]
pub mod rounding;

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
