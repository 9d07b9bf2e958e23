//! Scenarios in which one rank fails, on either engine.

use std::{process::Command, sync::Arc, thread, time::Duration};

use kiln_distributed::{Collective, DistributedDataParallel, ProcessGroup, ReduceOp};
use kiln_nn::{Linear, Module, ModuleTree, functional::mse_loss};
use kiln_tensor::{Result, Tensor};

/// Ranks wait for each other for 1.5 s.
pub const QUICK: [(&str, &str); 1] = [("KILN_DISTRIBUTED_TIMEOUT", "1.5")];
/// Long enough to wait for the others' answers as well, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

pub fn vector(length: usize, group: &Arc<dyn ProcessGroup>) -> Result<Tensor> {
    Tensor::ones([length], group.device())
}

/// Ends or stops this process, by the signal that `KILN_SIGNAL` names.
fn kill() {
    let signal = std::env::var("KILN_SIGNAL").unwrap_or_else(|_| "-9".into());
    let _ = Command::new("kill").args([&signal, &std::process::id().to_string()]).status();
    thread::sleep(Duration::from_secs(60));
}

/// Training in which rank 1 ends at a moment that `KILN_PHASE` names.
pub fn killed(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let phase = std::env::var("KILN_PHASE").unwrap();
    let dies = |now: &str, step: usize| {
        if phase == now && group.rank() == 1 && step == 2 {
            kill();
        }
    };
    dies("start", 2);
    let model = Linear::new(4, 2)?.to(group.device())?;
    let _ddp = DistributedDataParallel::new(&model, group)?;
    for step in 0..5 {
        dies("forward", step);
        let x = Tensor::randn([3, 4], group.device())?.requires_grad_(true)?;
        let loss = mse_loss(&model.forward(&x)?, &Tensor::zeros([3, 2], group.device())?)?;
        if phase == "backward" && group.rank() == 1 && step == 2 {
            loss.register_hook(|_| {
                kill();
                Ok(None)
            })?;
        }
        model.zero_grad();
        loss.backward()?;
        dies("step", step);
        loss.item::<f32>()?;
        dies("save", step);
        group.on_main(|| Ok(()))?;
    }
    group.barrier()
}

/// Ranks train different models.
pub fn other_model(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let model = Linear::new(4, 2 + group.rank())?.to(group.device())?;
    DistributedDataParallel::new(&model, group).map(drop)
}

/// Ranks call a collective of different shapes.
pub fn other_shape(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    group.barrier()?;
    let x = vector(4 + group.rank(), group)?;
    group.start(Collective::all_reduce(&x, ReduceOp::Sum).named("x"))?.wait()?;
    x.to_vec::<f32>().map(drop)
}

/// Rank 1 leaves after three calls.
pub fn left(group: &Arc<dyn ProcessGroup>) -> Result<()> {
    let x = vector(2, group)?;
    for _ in 0..3 {
        group.broadcast(&x, 0)?;
    }
    if group.rank() == 1 {
        return Ok(());
    }
    group.broadcast(&x, 1)?;
    x.to_vec::<f32>().map(drop)
}
