//! One training step of the MLP of PyTorch's quickstart tutorial on the CPU: forward, loss, backward, SGD.
//!
//! `cargo bench --bench mlp`; `benches/compare_mlp.py` sets it beside PyTorch.

#![allow(missing_docs)] // criterion's macro makes a public function

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kiln::{
    models::Mlp,
    nn::CrossEntropyLoss,
    optim::{Optimizer, SGD},
    prelude::*,
};

fn training_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mlp training step, cpu");
    group.measurement_time(Duration::from_secs(5)).sample_size(30);
    for batch in [64, 512] {
        group.throughput(Throughput::Elements(batch)); // images
        group.bench_with_input(BenchmarkId::from_parameter(batch), &batch, |bencher, &batch| {
            let mut step = Step::new(batch as usize).expect("the CPU is there");
            bencher.iter(|| black_box(step.run()).expect("shapes fit"));
        });
    }
    group.finish();
}

struct Step {
    model: Mlp,
    loss_fn: CrossEntropyLoss,
    optimizer: SGD,
    x: Tensor,
    y: Tensor,
}

impl Step {
    fn new(batch: usize) -> kiln::Result<Step> {
        manual_seed(0);
        let model = Mlp::new(&[784, 512, 512, 10])?;
        let optimizer = SGD::new(model.named_parameters(), 1e-3)?;
        let x = Tensor::rand([batch, 1, 28, 28], Device::Cpu)?;
        let y = Tensor::randint(0, 10, batch, Device::Cpu)?;
        Ok(Step { model, loss_fn: CrossEntropyLoss::new(), optimizer, x, y })
    }

    fn run(&mut self) -> kiln::Result<()> {
        let loss = self.loss_fn.forward(&self.model.forward(&self.x)?, &self.y)?;
        self.optimizer.zero_grad();
        loss.backward()?;
        self.optimizer.step()
    }
}

criterion_group!(benches, training_step);
criterion_main!(benches);
