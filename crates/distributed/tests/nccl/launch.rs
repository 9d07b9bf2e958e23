//! Ranks as processes with the variables of `torchrun` or of Slurm, or started by the real `torchrun`.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use kiln_tensor::Device;

use crate::run::Run;

/// Variables of a process, which only one of the ranks has, or all.
pub type Variables<'a> = &'a [(&'a str, &'a str)];

/// Whether the device is the simulated one.
pub fn is_simulated() -> bool {
    env::var_os("KILN_SIM_RUNNER").is_some()
}

/// Whether there are so many devices, of which two may be required. Simulated ones are made for each process.
pub fn has_devices(count: usize) -> bool {
    let found = is_simulated() || Device::cuda(count - 1).is_ok();
    assert!(found || count > 2 || env::var_os("KILN_REQUIRE_DEVICE").is_none(), "two devices are required");
    if !found {
        println!("skipped: there are no {count} GPUs, real or simulated");
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
    command.env("KILN_SCENARIO", scenario).env("RUST_BACKTRACE", "0").env("KILN_SIM_DEVICES", "4");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command.envs(variables.iter().copied());
}

/// Begins a scenario on this many ranks; `None` if there are no devices.
pub fn start(ranks: usize, scenario: &str, variables: Variables<'_>) -> Option<Run> {
    start_differently(scenario, variables, &vec![&[][..]; ranks])
}

/// Begins a scenario on ranks that have variables of their own besides those of all.
pub fn start_differently(scenario: &str, variables: Variables<'_>, of_ranks: &[Variables<'_>]) -> Option<Run> {
    let ranks = of_ranks.len();
    if !has_devices(ranks) {
        return None;
    }
    let port = free_port().to_string();
    let (started, size) = (Instant::now(), ranks.to_string());
    let children = (0..ranks).map(|rank| {
        let number = rank.to_string();
        let own = [
            ("RANK", &*number),
            ("WORLD_SIZE", &*size),
            ("LOCAL_RANK", &*number),
            ("LOCAL_WORLD_SIZE", &*size),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", &*port),
        ];
        test("rank", scenario, &[&own, variables, of_ranks[rank]].concat()).spawn().unwrap()
    });
    Some(Run { children: children.collect(), started })
}

/// Begins a scenario as `srun` without MPI does, on one node.
pub fn by_slurm(ranks: usize, scenario: &str) -> Option<Run> {
    if !has_devices(ranks) {
        return None;
    }
    // The port comes from the number of the job.
    let job = (0..15_000).find(|job| TcpListener::bind(("127.0.0.1", 15_000 + job)).is_ok()).unwrap().to_string();
    let (started, size) = (Instant::now(), ranks.to_string());
    let children = (0..ranks).map(|rank| {
        let number = rank.to_string();
        let variables = [
            ("SLURM_PROCID", &*number),
            ("SLURM_NTASKS", &*size),
            ("SLURM_LOCALID", &*number),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_JOB_ID", &*job),
            ("SLURM_STEP_NODELIST", "localhost"),
        ];
        test("rank", scenario, &variables).spawn().unwrap()
    });
    Some(Run { children: children.collect(), started })
}

/// Begins a scenario with the real `torchrun`, if it is on the path.
pub fn by_torchrun(ranks: usize, scenario: &str) -> Option<Run> {
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let torchrun = folders.into_iter().map(|folder| folder.join("torchrun")).find(|file| file.is_file());
    let Some(torchrun) = torchrun.filter(|_| has_devices(ranks)) else {
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
