//! Reads what the simulated device has counted in a part of a program, between the driver's `cuProfilerStart` and
//! `cuProfilerStop`.

use std::{env, fs, path::PathBuf, process};

use kiln::Device;
use serde_json::Value;

/// Calls a function of the driver that takes nothing.
fn profiler(name: &str) {
    // SAFETY: the driver is loaded already; `cuProfilerStart` and `cuProfilerStop` take nothing and return a status.
    unsafe {
        let driver = libloading::Library::new("libcuda.so.1").unwrap();
        let call = driver.get::<unsafe extern "C" fn() -> u32>(name.as_bytes()).unwrap();
        assert_eq!(call(), 0, "{name}");
    }
}

/// What the simulator has noted between the last `cuProfilerStart` and `cuProfilerStop`.
fn account() -> Option<Value> {
    let reports = env::var_os("KILN_SIM_REPORT").map(PathBuf::from)?;
    let path = |number: u32| reports.join(format!("{}-{number}.json", process::id()));
    let last = (1..).take_while(|&number| path(number).exists()).last().expect("the simulator leaves an account");
    Some(serde_json::from_str(&fs::read_to_string(path(last)).unwrap()).unwrap())
}

/// What `run` returns, and what the simulated device has counted meanwhile; on a GPU nothing is counted.
pub fn recorded<T, E>(run: impl FnOnce() -> Result<T, E>) -> Result<(T, Option<Value>), E> {
    profiler("cuProfilerStart");
    let result = run();
    profiler("cuProfilerStop");
    Ok((result?, account()))
}

/// The same of what may run on the CPU, for which nothing is counted.
#[allow(dead_code, reason = "not every test compares with the CPU")]
pub fn recorded_on<T>(device: Device, run: impl FnOnce() -> kiln::Result<T>) -> kiln::Result<(T, Option<Value>)> {
    if !device.is_cuda() {
        return Ok((run()?, None));
    }
    device.synchronize()?;
    recorded(run)
}

/// What is counted of the second of two passes, when all that the first one makes is there.
#[allow(dead_code, reason = "not every test needs passes alone")]
pub fn recorded_pass(device: Device, mut pass: impl FnMut() -> kiln::Result<()>) -> kiln::Result<Option<Value>> {
    pass()?;
    let wait_for = || {
        pass()?;
        device.synchronize()
    };
    Ok(recorded_on(device, wait_for)?.1)
}

/// Whether freed device memory is kept, so that a step finds everything at the addresses of the step before.
pub fn caching() -> bool {
    env::var_os("KILN_CUDA_NO_MEMORY_CACHING").is_none_or(|value| value != "1")
}
