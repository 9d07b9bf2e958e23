//! The devices that benches run on, and how a device's work is timed.

use std::time::{Duration, Instant};

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

/// How long `times` calls take the device: on a GPU by its own clock, between two events, which does not count what the host
/// does before the first and after the last call; on the CPU by the host's.
///
/// # Errors
/// A call fails, or the device does.
pub fn elapsed(
    device: Device,
    times: u64,
    mut routine: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(index) = device {
        let backend = kiln_cuda::backend(index)?;
        let [start, end] = [kiln_cuda::Event::new(backend)?, kiln_cuda::Event::new(backend)?];
        start.record()?;
        for _ in 0..times {
            routine()?;
        }
        end.record()?;
        let milliseconds = start.elapsed_time(&end)?;
        return Ok(Duration::from_secs_f64(f64::from(milliseconds) / 1e3));
    }
    let start = Instant::now();
    for _ in 0..times {
        routine()?;
    }
    device.synchronize()?;
    Ok(start.elapsed())
}

/// Times `routine` by criterion. The seconds of a call: the median of the samples.
pub fn time(bencher: &mut Bencher<'_>, device: Device, mut routine: impl FnMut() -> anyhow::Result<()>) -> f64 {
    let mut samples = Vec::new();
    bencher.iter_custom(|times| {
        let time = elapsed(device, times, &mut routine).expect("the device works");
        samples.push(time.as_secs_f64() / times as f64);
        // The simulated device may have no time at all for it, which criterion does not take.
        time.max(Duration::from_nanos(1))
    });
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}
