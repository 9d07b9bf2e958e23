//! The devices that benches run on, and how a device's work is timed.

use std::time::Instant;

use criterion::Bencher;
use kiln::prelude::*;

/// The CPU, and the first GPU if this build and this machine have one.
pub fn all() -> Vec<Device> {
    [Device::Cpu].into_iter().chain(Device::cuda(0)).collect()
}

/// What a device is called in reports.
pub fn name(device: Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

/// Whether everything runs only once, to see that it works (`-- --test`): then with small shapes.
pub fn only_tested() -> bool {
    std::env::args().any(|argument| argument == "--test")
}

/// Times `routine`, and what the device has left to do when the last call of a sample returns. The seconds of a call: the
/// median of the samples.
pub fn time(bencher: &mut Bencher<'_>, device: Device, mut routine: impl FnMut()) -> f64 {
    let mut samples = Vec::new();
    bencher.iter_custom(|times| {
        let start = Instant::now();
        for _ in 0..times {
            routine();
        }
        device.synchronize().expect("the device works");
        let time = start.elapsed();
        samples.push(time.as_secs_f64() / times as f64);
        time
    });
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}
