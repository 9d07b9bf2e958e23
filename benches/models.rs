//! Training steps and inference of the MLP, LeNet and VGG16, on the CPU and, with the feature `cuda`, on a GPU.
//!
//! `cargo bench --bench models`; `benches/peers/compare.py` sets it beside other frameworks. For that it starts this program
//! with `KILN_BENCH_TURNS=cpu` (or `cuda`), which times what is asked for on standard input.

#![allow(missing_docs)] // criterion's macro makes a public function

mod devices;
mod turns;

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group};
use kiln::{
    models::{LeNet, Mlp, VggOptions, vgg16},
    nn::CrossEntropyLoss,
    optim::{Optimizer, SGD},
    prelude::*,
};
use turns::Workload;

/// The workloads: a name, which `compare.py` knows as well, and the batches.
const WORKLOADS: [(&str, &[usize]); 6] = [
    ("mlp-train", &[64, 512]),
    ("mlp-infer", &[64, 512]),
    ("lenet-train", &[64]),
    ("lenet-infer", &[64]),
    ("vgg16-train", &[8]),
    ("vgg16-infer", &[1, 8]),
];
/// Batches that only a GPU is given.
const LARGE: [(&str, &[usize]); 2] = [("vgg16-train", &[64]), ("vgg16-infer", &[64])];

fn steps(criterion: &mut Criterion) {
    for (name, batches) in WORKLOADS {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).sampling_mode(SamplingMode::Flat); // steps of seconds, too
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
        for device in devices::all() {
            let large = LARGE.iter().filter(|large| device.is_cuda() && large.0 == name).flat_map(|large| large.1);
            for &batch in batches.iter().chain(large) {
                group.throughput(Throughput::Elements(batch as u64)); // images
                group.bench_function(BenchmarkId::new(devices::name(device), batch), |bencher| {
                    let mut step = Step::new(name, batch, device).expect("the device has room");
                    step.step().expect("shapes fit"); // what is made once
                    step.wait().expect("the device works");
                    devices::time(bencher, device, || black_box(step.step()).expect("shapes fit"));
                });
            }
        }
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
    fn new(name: &str, batch: usize, device: Device) -> kiln::Result<Step> {
        manual_seed(0);
        let (mut model, image): (Box<dyn Module>, [usize; 3]) = match name.split('-').next() {
            Some("mlp") => (Box::new(Mlp::new(&[784, 512, 512, 10])?), [1, 28, 28]),
            Some("lenet") => (Box::new(LeNet::new(10)?), [1, 32, 32]),
            _ => {
                let options = VggOptions::default().width(if devices::only_tested() { 0.125 } else { 1.0 });
                (Box::new(vgg16(options)?), [3, 224, 224])
            }
        };
        model.to_device_(device)?;
        let training = name.ends_with("train");
        let optimizer = if training { Some(SGD::new(model.named_parameters(), 1e-3)?) } else { None };
        if !training {
            model.eval();
        }
        let [c, h, w] = image;
        let x = Tensor::rand([batch, c, h, w], device)?;
        let y = Tensor::randint(0, 10, batch, device)?;
        Ok(Step { model, loss_fn: CrossEntropyLoss::new(), optimizer, x, y })
    }
}

impl Workload for Step {
    fn step(&mut self) -> anyhow::Result<()> {
        let Some(optimizer) = &mut self.optimizer else {
            return Ok(no_grad(|| self.model.forward(&self.x).map(drop))?);
        };
        let loss = self.loss_fn.forward(&self.model.forward(&self.x)?, &self.y)?;
        optimizer.zero_grad();
        loss.backward()?;
        Ok(optimizer.step()?)
    }

    fn wait(&self) -> anyhow::Result<()> {
        Ok(self.x.device().synchronize()?)
    }
}

criterion_group!(benches, steps);

fn main() -> anyhow::Result<()> {
    if let Some(device) = std::env::var_os("KILN_BENCH_TURNS") {
        let device = if device == "cuda" { Device::cuda(0)? } else { Device::Cpu };
        return turns::serve(|name, batch| Ok(Step::new(name, batch, device)?));
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
