//! Training that is stopped after an epoch, and goes on with another number of ranks.

use std::{path::PathBuf, sync::Arc};

use kiln_data::{DataLoader, DistributedSampler, LoaderState, TensorDataset};
use kiln_distributed::{DistributedDataParallel, ProcessGroup};
use kiln_io::Checkpoint;
use kiln_nn::{
    BatchNorm1d, Module, ModuleTree,
    functional::cross_entropy,
    optim::{Adam, Optimizer},
    seq,
};
use kiln_tensor::{DType, Device, Result, manual_seed};

use crate::training::{data, network};

pub fn checkpoint(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (from, to, epochs) =
        (variable("KILN_FROM"), variable("KILN_TO"), variable("KILN_EPOCHS").parse::<u64>().unwrap());
    manual_seed(6);
    let (x, y) = data(96, DType::F32, Device::Cpu)?;
    let model = seq![network(DType::F32, Device::Cpu)?, BatchNorm1d::new(5)?];
    let sampler = DistributedSampler::new(96, group.rank(), group.size())?;
    let loader = DataLoader::builder(TensorDataset::new(vec![x, y])?).batch_size(8).sampler(sampler).build()?;
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
    Ok(())
}
