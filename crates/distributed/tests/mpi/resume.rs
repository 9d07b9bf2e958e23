//! Training that is stopped after an epoch, and goes on with another number of ranks. All numbers of ranks share the same
//! batches, and batch normalization has the statistics of all shares, so that they differ by rounding only.

use std::{path::PathBuf, sync::Arc};

use kiln_data::{DataLoader, DistributedSampler, LoaderState, TensorDataset};
use kiln_distributed::{DistributedDataParallel, ProcessGroup, convert_sync_batchnorm};
use kiln_io::Checkpoint;
use kiln_nn::{
    BatchNorm1d, Module, ModuleTree,
    functional::cross_entropy,
    optim::{Adam, Optimizer},
    seq,
};
use kiln_tensor::{DType, Device, Result, manual_seed};

use crate::{
    common::{self, assert_same_on_all_ranks, bits},
    training::{data, network},
};

/// A run of two ranks that is stopped after an epoch goes on as if it had not been. Other numbers of ranks go on from its
/// checkpoint within rounding, and each of them twice with the same bits.
#[test]
fn any_number_of_ranks_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = |ranks: usize, from: &str, epochs: &str, to: &str| {
        let variables = [("KILN_FROM", &*at(from)), ("KILN_EPOCHS", epochs), ("KILN_TO", &*at(to))];
        common::succeeds_with(ranks, "other_ranks_resume", &variables);
    };
    run(2, "none", "2", "whole");
    if !PathBuf::from(at("whole")).exists() {
        return;
    }
    run(2, "none", "1", "half");
    run(2, "half", "2", "resumed");
    let parameters = |name: &str| Checkpoint::load(at(name), Device::Cpu).unwrap().model;
    let assert_equal = |one: &str, other: &str| {
        for ((name, a), (_, b)) in parameters(one).iter().zip(&parameters(other)) {
            assert_eq!(bits(a).unwrap(), bits(b).unwrap(), "{name} of {one} and {other}");
        }
    };
    assert_equal("whole", "resumed");
    for (ranks, name) in [(1, "one"), (3, "three"), (4, "four")] {
        run(ranks, "half", "2", name);
        assert_eq!(Checkpoint::load(at(name), Device::Cpu).unwrap().epoch, 2);
        for ((tensor, a), (_, b)) in parameters("whole").iter().zip(&parameters(name)) {
            let difference = a.to_dtype(DType::F64).unwrap().sub(&b.to_dtype(DType::F64).unwrap()).unwrap();
            let difference = difference.abs().unwrap().amax(()).unwrap().item::<f64>().unwrap();
            assert!(difference < 1e-9, "{tensor} with {ranks} ranks: {difference}");
        }
    }
    run(3, "half", "2", "again");
    assert_equal("three", "again");
}

pub fn checkpoint(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (from, to, epochs) =
        (variable("KILN_FROM"), variable("KILN_TO"), variable("KILN_EPOCHS").parse::<u64>().unwrap());
    manual_seed(6);
    let (x, y) = data(96, DType::F64, Device::Cpu)?;
    let model = seq![network(DType::F64, Device::Cpu)?, BatchNorm1d::new(5)?].to_dtype(DType::F64)?;
    convert_sync_batchnorm(&model, group);
    let sampler = DistributedSampler::new(96, group.rank(), group.size())?;
    let batch_size = 24 / group.size();
    let loader =
        DataLoader::builder(TensorDataset::new(vec![x, y])?).batch_size(batch_size).sampler(sampler).build()?;
    let mut optimizer = Adam::new(model.named_parameters(), 1e-2)?;
    let mut done = 0;
    if PathBuf::from(&from).exists() {
        let checkpoint = Checkpoint::load(&from, Device::Cpu)?;
        model.load_state_dict(&checkpoint.model, true)?;
        optimizer.load_state_dict(&checkpoint.optimizer)?;
        loader.set_state(checkpoint.get::<LoaderState>("loader")?)?;
        checkpoint.restore_random_state();
        done = checkpoint.epoch;
    }
    let _ddp = DistributedDataParallel::new(&model, group)?;
    for epoch in done..epochs {
        for batch in &loader {
            let batch = batch?;
            optimizer.zero_grad();
            cross_entropy(&model.forward(&batch[0])?, &batch[1])?.backward()?;
            optimizer.step()?;
        }
        group.on_main(|| {
            let mut checkpoint = Checkpoint {
                model: model.state_dict(),
                optimizer: optimizer.state_dict()?,
                epoch: epoch + 1,
                ..Checkpoint::now()
            };
            checkpoint.put("loader", &loader.state())?;
            checkpoint.save(&to)
        })?;
    }
    for (_, tensor) in model.named_parameters().iter().chain(&model.named_buffers()) {
        assert_same_on_all_ranks(tensor, group)?;
    }
    Ok(())
}
