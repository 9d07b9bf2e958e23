//! LeNet and VGG16 on the CPU: inference and training steps.
//!
//! `cargo bench --bench convnets`; `benches/compare_convnets.py` sets it beside PyTorch. For that it starts this program
//! with `KILN_BENCH_TURNS=1`, which times what is asked for on standard input, so that the two can take short turns.

#![allow(missing_docs)] // criterion's macro makes a public function

use std::{
    collections::HashMap,
    hint::black_box,
    io::BufRead,
    time::{Duration, Instant},
};

use anyhow::Context;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use kiln::{
    models::{LeNet, VggOptions, vgg16},
    nn::CrossEntropyLoss,
    optim::{Optimizer, SGD},
    prelude::*,
};

/// The workloads: a name, which `compare_convnets.py` knows as well, and the batch.
const WORKLOADS: [(&str, usize); 5] =
    [("lenet-train", 64), ("lenet-infer", 64), ("vgg16-infer", 8), ("vgg16-infer", 1), ("vgg16-train", 8)];

fn steps(criterion: &mut Criterion) {
    for (name, batch) in WORKLOADS {
        let mut group = criterion.benchmark_group(format!("{name}, cpu"));
        group.measurement_time(Duration::from_secs(5)).sample_size(10);
        group.throughput(Throughput::Elements(batch as u64)); // images
        group.bench_with_input(BenchmarkId::from_parameter(batch), &batch, |bencher, &batch| {
            let mut step = Step::new(name, batch).expect("the CPU is there");
            bencher.iter(|| black_box(step.run()).expect("shapes fit"));
        });
        group.finish();
    }
}

struct Step {
    model: Box<dyn Module>,
    loss_fn: CrossEntropyLoss,
    optimizer: Option<SGD>,
    x: Tensor,
    y: Tensor,
}

impl Step {
    fn new(name: &str, batch: usize) -> kiln::Result<Step> {
        manual_seed(0);
        let lenet = name.starts_with("lenet");
        let model: Box<dyn Module> =
            if lenet { Box::new(LeNet::new(10)?) } else { Box::new(vgg16(VggOptions::default())?) };
        let training = name.ends_with("train");
        let optimizer = if training { Some(SGD::new(model.named_parameters(), 1e-3)?) } else { None };
        if !training {
            model.eval();
        }
        let x = if lenet {
            Tensor::rand([batch, 1, 32, 32], Device::Cpu)?
        } else {
            Tensor::rand([batch, 3, 224, 224], Device::Cpu)?
        };
        let y = Tensor::randint(0, 10, batch, Device::Cpu)?;
        Ok(Step { model, loss_fn: CrossEntropyLoss::new(), optimizer, x, y })
    }

    fn run(&mut self) -> kiln::Result<()> {
        let Some(optimizer) = &mut self.optimizer else {
            return no_grad(|| self.model.forward(&self.x).map(drop));
        };
        let loss = self.loss_fn.forward(&self.model.forward(&self.x)?, &self.y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()
    }
}

criterion_group!(benches, steps);

/// Answers each line `workload batch steps` by the milliseconds that a step took, and the most memory that tensors held.
fn take_turns() -> anyhow::Result<()> {
    let mut made = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let [name, batch, steps] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("a line is `workload batch steps`");
        };
        let (batch, steps): (usize, u32) = (batch.parse()?, steps.parse()?);
        let key = (name.to_owned(), batch);
        if !made.contains_key(&key) {
            // One workload at a time: VGG16 fills memory.
            made.clear();
            made.insert(key.clone(), Step::new(name, batch)?);
        }
        let step = made.get_mut(&key).context("was just made")?;
        step.run()?; // wakes the threads
        Device::Cpu.reset_peak_memory()?;
        let start = Instant::now();
        for _ in 0..steps {
            step.run()?;
        }
        let time = start.elapsed().as_secs_f64() * 1e3 / f64::from(steps);
        println!("{time} {}", Device::Cpu.memory_stats()?.peak_allocated);
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
