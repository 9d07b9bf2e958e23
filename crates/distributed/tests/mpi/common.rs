//! Launching ranks, and helpers that they share.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kiln_distributed::{GroupOptions, ProcessGroup, init_process_group_with};
use kiln_tensor::{Result, Tensor};

pub type Scenario = fn(&Arc<dyn ProcessGroup>) -> Result<()>;

/// Longer than any scenario takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Plays the scenario that the environment names; an error is printed, and is that of the process.
pub fn play(scenarios: &[(&str, Scenario)]) {
    let name = std::env::var("KILN_SCENARIO").expect("this test is started by others");
    let (_, scenario) = scenarios.iter().find(|(known, _)| *known == name).expect("a scenario of the list");
    let group = init_process_group_with(GroupOptions::from_env().unwrap()).unwrap();
    let played = scenario(&group);
    // Before it leaves: a launcher ends all that are left when the first one ends with an error.
    if let Err(error) = &played {
        eprintln!("ENDED WITH {error}");
    }
    drop(group);
    if played.is_err() {
        std::process::exit(3);
    }
    println!("PLAYED");
}

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

/// What became of ranks.
pub struct Ended {
    pub success: bool,
    pub text: String,
    pub time: Duration,
}

/// A run that has begun.
pub struct Run {
    child: Child,
    started: Instant,
}

impl Run {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for all ranks.
    pub fn end(self) -> Ended {
        let Run { child, started } = self;
        let id = child.id();
        let (finished, watched) = std::sync::mpsc::channel::<()>();
        let watchdog = std::thread::spawn(move || {
            if watched.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
            }
        });
        let output = child.wait_with_output().unwrap();
        drop(finished);
        watchdog.join().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ended { success: output.status.success(), text, time: started.elapsed() }
    }
}

/// Begins a scenario on this many ranks; `None` if there is no `mpiexec`.
pub fn start(ranks: usize, scenario: &str, variables: &[(&str, &str)]) -> Option<Run> {
    let mut command = Command::new(mpiexec()?);
    command.args(["-n", &ranks.to_string()]).arg(std::env::current_exe().unwrap());
    command.args(["rank", "--exact", "--ignored", "--nocapture"]);
    command.env("KILN_SCENARIO", scenario).env("RUST_BACKTRACE", "0").envs(variables.iter().copied());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    Some(Run { child, started: Instant::now() })
}

/// Plays a scenario that all ranks must end well.
#[track_caller]
pub fn succeeds(ranks: usize, scenario: &str) {
    succeeds_with(ranks, scenario, &[]);
}

#[track_caller]
pub fn succeeds_with(ranks: usize, scenario: &str, variables: &[(&str, &str)]) {
    let Some(run) = start(ranks, scenario, variables) else { return };
    let ended = run.end();
    assert!(ended.success, "{scenario} on {ranks} ranks: {}", ended.text);
    assert_eq!(ended.text.matches("PLAYED").count(), ranks, "{}", ended.text);
}

/// Plays a scenario that ends badly, with all these words among what ranks say.
#[track_caller]
pub fn fails(ranks: usize, scenario: &str, variables: &[(&str, &str)], words: &[&str]) -> Option<Ended> {
    let ended = start(ranks, scenario, variables)?.end();
    assert!(!ended.success, "{scenario} succeeded: {}", ended.text);
    for word in words {
        assert!(ended.text.contains(word), "{word:?} is not in {:?}", ended.text);
    }
    Some(ended)
}

/// The bytes of a float tensor, for comparing bit by bit.
pub fn bits(tensor: &Tensor) -> Result<Vec<u64>> {
    Ok(tensor.to_dtype(kiln_tensor::DType::F64)?.to_vec::<f64>()?.into_iter().map(f64::to_bits).collect())
}

/// Sees to it that all ranks have the same bits.
pub fn assert_same_on_all_ranks(tensor: &Tensor, group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let all = Tensor::zeros([group.size(), tensor.numel()], (tensor.dtype(), tensor.device()))?;
    group.all_gather(&all, &tensor.detach())?;
    for rank in 1..group.size() {
        assert_eq!(bits(&all.select(0, rank as i64)?)?, bits(&all.select(0, 0)?)?, "ranks 0 and {rank}");
    }
    Ok(())
}
