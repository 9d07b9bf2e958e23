//! The device that suites run on which compare operations and modules with PyTorch's results.

use kiln_tensor::Device;

/// The CPU; the first GPU, real or simulated, if `KILN_TEST_DEVICE` is `cuda`.
pub fn suite_device() -> Device {
    match std::env::var("KILN_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::cuda(0).unwrap_or_else(|error| panic!("{error}")),
        Ok("cpu") | Err(_) => Device::Cpu,
        Ok(other) => panic!("KILN_TEST_DEVICE={other} is not cpu or cuda"),
    }
}
