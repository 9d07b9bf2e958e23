//! One training step of the MLP of PyTorch's quickstart tutorial on the CPU: forward, loss, backward, SGD.
//!
//! `cargo bench --bench mlp`; `benches/compare_mlp.py` sets it beside PyTorch. For that it starts this program with
//! `KILN_BENCH_TURNS=1`, which times what is asked for on standard input, so that the two can take short turns.

#![allow(missing_docs)] // criterion's macro makes a public function

use std::{
    collections::{HashMap, hash_map::Entry},
    hint::black_box,
    io::BufRead,
    time::{Duration, Instant},
};

use anyhow::Context;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
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

/// Answers each line `batch steps` by the milliseconds that a step took.
fn take_turns() -> anyhow::Result<()> {
    let mut made = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (batch, steps) = line.split_once(' ').context("a line is `batch steps`")?;
        let (batch, steps): (usize, u32) = (batch.parse()?, steps.parse()?);
        let step = match made.entry(batch) {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(place) => place.insert(Step::new(batch)?),
        };
        step.run()?; // wakes the threads
        let start = Instant::now();
        for _ in 0..steps {
            step.run()?;
        }
        println!("{}", start.elapsed().as_secs_f64() * 1e3 / f64::from(steps));
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    if std::env::var_os("KILN_BENCH_TURNS").is_some() {
        return take_turns();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
