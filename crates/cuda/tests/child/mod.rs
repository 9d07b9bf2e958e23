//! Runs a part of a test, itself an ignored test, in a separate process on a simulated device with other settings,
//! because a process has one device.

use std::{
    env, fs,
    path::Path,
    process::{Command, Output},
};

/// Turns the caching of freed memory off.
pub const NO_CACHING: &str = "KILN_CUDA_NO_MEMORY_CACHING";

/// Runs one of the ignored tests of this program on a device with these settings, and hands back what it printed. `None`
/// where the device is not simulated.
pub fn child(name: &str, settings: &[(&str, &str)]) -> Option<String> {
    let runner = env::var_os("KILN_SIM_RUNNER")?;
    let mut command = Command::new(runner);
    command.arg(env::current_exe().unwrap()).args(["--exact", name, "--ignored", "--nocapture"]);
    // Where real libraries would be found.
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "CUDNN_PATH", "CUDNN_HOME", "CUDA_HOME", "CUDA_PATH", "KILN_CUDA_PATH"]
    {
        command.env_remove(name);
    }
    command.env_remove("HOME").env_remove("PYTHONUSERBASE");
    // Figures are those of the caching allocator where nothing else is said.
    command.env_remove(NO_CACHING);
    let Output { status, stdout, stderr } = command.env("PATH", "").envs(settings.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success() && text.contains("1 passed"), "{name} with {settings:?}:\n{text}");
    Some(text)
}

/// [`child`], and what the simulated device has noted about it.
#[allow(dead_code, reason = "not every test reads it")]
pub fn child_with_report(name: &str, settings: &[(&str, &str)]) -> Option<(String, Report)> {
    let text = child(name, settings)?;
    // The device's line names the process, whose report the runner hands on.
    let (_, rest) = text.split_once("(process ").expect("the device says which process used it");
    let (process, _) = rest.split_once(')').unwrap();
    let reports = env::var_os("KILN_SIM_REPORT").expect("the runner says where reports go");
    let path = Path::new(&reports).join(process).with_extension("json");
    let report = Report(fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    Some((text, report))
}

/// Calls a function of the driver that takes nothing: `cuProfilerStart` begins a [window](Report::window), `cuProfilerStop`
/// ends it.
#[allow(dead_code, reason = "not every test watches a part of a program")]
pub fn profiler(name: &str) {
    // SAFETY: the driver is loaded already; `cuProfilerStart` and `cuProfilerStop` take nothing and return a status.
    unsafe {
        let driver = libloading::Library::new("libcuda.so.1").unwrap();
        let call = driver.get::<unsafe extern "C" fn() -> u32>(name.as_bytes()).unwrap();
        assert_eq!(call(), 0, "{name}");
    }
}

/// The report of a process, as JSON, a member a line.
pub struct Report(String);

#[allow(dead_code, reason = "not every test reads it")]
impl Report {
    /// A list of texts.
    pub fn list(&self, name: &str) -> Vec<&str> {
        let start = format!("\"{name}\": [");
        let line = self.0.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no {name}"));
        line.split('"').skip(1).step_by(2).collect()
    }

    /// A list of texts of what happened between `cuProfilerStart` and `cuProfilerStop`, the first time.
    pub fn window(&self, name: &str) -> Vec<&str> {
        let (_, windows) = self.0.split_once("\"windows\": [").expect("windows");
        let (_, list) = windows.split_once(&format!("\"{name}\": [")).unwrap_or_else(|| panic!("no {name}"));
        let (list, _) = list.split_once(']').unwrap();
        list.split('"').skip(1).step_by(2).collect()
    }

    /// A count.
    pub fn count(&self, name: &str) -> u64 {
        let (_, rest) = self.0.split_once(&format!("\"{name}\": ")).unwrap_or_else(|| panic!("no count of {name}"));
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    }
}
