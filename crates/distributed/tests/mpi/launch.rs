//! Ranks that `mpiexec` starts.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use crate::run::Run;

/// `mpiexec`, from the folder of the Python that is first on `PATH` or from `PATH`.
fn mpiexec() -> Option<PathBuf> {
    let named = std::env::var_os("KILN_MPIEXEC").map(PathBuf::from);
    let found = named.or_else(|| {
        let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
        folders.into_iter().map(|folder| folder.join("mpiexec")).find(|file| file.is_file())
    });
    let required = std::env::var("KILN_REQUIRE_MPI").is_ok_and(|value| value == "1");
    assert!(found.is_some() || !required, "there is no mpiexec on PATH");
    if found.is_none() {
        println!("skipped: there is no mpiexec on PATH (`pip install mpich` brings one)");
    }
    found
}

/// Begins a scenario on this many ranks; `None` if there is no `mpiexec`.
pub fn start(ranks: usize, scenario: &str, variables: &[(&str, &str)]) -> Option<Run> {
    let mut command = Command::new(mpiexec()?);
    command.args(["-n", &ranks.to_string()]).arg(std::env::current_exe().unwrap());
    command.args(["rank", "--exact", "--ignored", "--nocapture"]);
    command.env("KILN_SCENARIO", scenario).env("RUST_BACKTRACE", "0").envs(variables.iter().copied());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    Some(Run { children: vec![child], started: Instant::now() })
}
