//! Ranks as processes with the variables of `torchrun`, or started by the real one.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use kiln_tensor::Device;

use crate::common::Run;

/// Whether the device is the simulated one.
pub fn is_simulated() -> bool {
    env::var_os("KILN_SIM_RUNNER").is_some()
}

/// Whether there are two devices. Simulated ones are made for each process.
pub fn has_devices() -> bool {
    let found = is_simulated() || Device::cuda(1).is_ok();
    assert!(found || env::var_os("KILN_REQUIRE_DEVICE").is_none(), "two devices are required");
    if !found {
        println!("skipped: there are no two GPUs, real or simulated");
    }
    found
}

/// A port that nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// One of this program's tests that others start, in a process of its own.
pub fn test(name: &str, scenario: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([name, "--exact", "--ignored", "--nocapture"]);
    prepare(&mut command, scenario, variables);
    command
}

fn prepare(command: &mut Command, scenario: &str, variables: &[(&str, &str)]) {
    command.env("KILN_SCENARIO", scenario).env("RUST_BACKTRACE", "0").env("KILN_SIM_DEVICES", "2");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command.envs(variables.iter().copied());
}

/// Begins a scenario on this many ranks; `None` if there are no devices.
pub fn start(ranks: usize, scenario: &str, variables: &[(&str, &str)]) -> Option<Run> {
    if !has_devices() {
        return None;
    }
    let port = free_port().to_string();
    let (started, size) = (Instant::now(), ranks.to_string());
    let children = (0..ranks).map(|number| {
        let number = number.to_string();
        let own = [
            ("RANK", &*number),
            ("WORLD_SIZE", &*size),
            ("LOCAL_RANK", &*number),
            ("LOCAL_WORLD_SIZE", &*size),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", &*port),
        ];
        test("rank", scenario, &[&own, variables].concat()).spawn().unwrap()
    });
    Some(Run { children: children.collect(), started })
}

/// Begins a scenario with the real `torchrun`, if it is on the path.
pub fn by_torchrun(ranks: usize, scenario: &str) -> Option<Run> {
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let torchrun = folders.into_iter().map(|folder| folder.join("torchrun")).find(|file| file.is_file());
    let Some(torchrun) = torchrun.filter(|_| has_devices()) else {
        println!("skipped: there is no torchrun on PATH (`pip install torch` brings one)");
        return None;
    };
    let mut command = Command::new(torchrun);
    command.args(["--no-python", "--nproc-per-node", &ranks.to_string(), "--master-port", &free_port().to_string()]);
    command.arg(env::current_exe().unwrap()).args(["rank", "--exact", "--ignored", "--nocapture"]);
    prepare(&mut command, scenario, &[]);
    let started = Instant::now();
    Some(Run { children: vec![command.spawn().unwrap()], started })
}
