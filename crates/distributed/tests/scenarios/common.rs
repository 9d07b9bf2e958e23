//! Playing scenarios on ranks that `launch` starts: that they succeed, or fail with the right words; and comparing bits.

use std::sync::Arc;

use kiln_distributed::{GroupOptions, ProcessGroup, init_process_group_with};
use kiln_tensor::{Device, Result, Tensor};

use crate::{launch, run::Ended};

pub type Scenario = fn(&Arc<dyn ProcessGroup>) -> Result<()>;

/// Plays the one of the scenarios that the environment names; an error is printed, and is that of the process.
pub fn play(scenarios: &[&[(&str, Scenario)]]) {
    let name = std::env::var("KILN_SCENARIO").expect("this test is started by others");
    let (_, scenario) =
        scenarios.iter().copied().flatten().find(|(known, _)| *known == name).expect("a scenario of the list");
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

/// Plays a scenario that all ranks must end well.
#[track_caller]
pub fn succeeds(ranks: usize, scenario: &str) {
    succeeds_with(ranks, scenario, &[]);
}

#[track_caller]
pub fn succeeds_with(ranks: usize, scenario: &str, variables: &[(&str, &str)]) {
    let Some(run) = launch::start(ranks, scenario, variables) else { return };
    let ended = run.end();
    assert!(ended.success, "{scenario} on {ranks} ranks: {}", ended.text);
    assert_eq!(ended.text.matches("PLAYED").count(), ranks, "{}", ended.text);
}

/// Plays a scenario that ends badly, with all these words among what ranks say.
#[track_caller]
pub fn fails(ranks: usize, scenario: &str, variables: &[(&str, &str)], words: &[&str]) -> Option<Ended> {
    let ended = launch::start(ranks, scenario, variables)?.end();
    assert!(!ended.success, "{scenario} succeeded: {}", ended.text);
    for word in words {
        assert!(ended.text.contains(word), "{word:?} is not in {:?}", ended.text);
    }
    Some(ended)
}

/// The device of a rank: the group's own, or, with `KILN_SCENARIO_DEVICE=cuda`, a GPU whose group is on MPI.
pub fn device_of(group: &Arc<dyn ProcessGroup>) -> Device {
    match std::env::var("KILN_SCENARIO_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda(group.local_rank()),
        _ => group.device(),
    }
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
