//! What whole steps of training launch and move, as the simulated device accounts for it, held to the table in steps.txt.
//!
//! CI runs networks of reduced width on small images. `step_of_full_size` is for `cargo sim --account` (docs/simulator.md).

use std::{env, fmt::Write, fs};

use kiln::{
    models::{LeNet, Mlp, ResNet, ResNetBlock, ResNetOptions, Vgg, VggDepth, VggOptions},
    nn::{CrossEntropyLoss, Module},
    optim::{Optimizer, SGD, SGDOptions},
    prelude::*,
};
use serde_json::Value;

use crate::{
    account::{account, profiler},
    checkout,
    support::{TURN, device},
};

/// The size of a network: reduced for CI, or its own.
#[derive(Clone, Copy, PartialEq)]
enum Size {
    Reduced,
    Full,
}

/// A step of training.
struct Step {
    name: &'static str,
    network: fn(Size) -> kiln::Result<Box<dyn Module>>,
    /// Shapes of the images of both sizes.
    images: [[usize; 4]; 2],
    dtype: DType,
    channels_last: bool,
}

const F32_STEPS: [Step; 5] = [
    step("mlp_f32", |_| Ok(Box::new(Mlp::new(&[784, 512, 512, 10])?)), [[64, 1, 28, 28]; 2]),
    step("lenet_f32", |_| Ok(Box::new(LeNet::new(10)?)), [[8, 1, 32, 32], [64, 1, 32, 32]]),
    step("vgg16_f32", |size| vgg(false, size), [[2, 3, 64, 64], [4, 3, 224, 224]]),
    step("vgg16_bn_f32", |size| vgg(true, size), [[2, 3, 64, 64], [4, 3, 224, 224]]),
    step("resnet50_f32", resnet, [[2, 3, 32, 32], [4, 3, 224, 224]]),
];
const BF16_STEPS: [Step; 3] = [
    channels_last(step("vgg16_bf16_nhwc", |size| vgg(false, size), [[2, 3, 64, 64], [4, 3, 224, 224]])),
    channels_last(step("vgg16_bn_bf16_nhwc", |size| vgg(true, size), [[2, 3, 64, 64], [4, 3, 224, 224]])),
    channels_last(step("resnet50_bf16_nhwc", resnet, [[2, 3, 32, 32], [4, 3, 224, 224]])),
];

const fn step(name: &'static str, network: fn(Size) -> kiln::Result<Box<dyn Module>>, images: [[usize; 4]; 2]) -> Step {
    Step { name, network, images, dtype: DType::F32, channels_last: false }
}

const fn channels_last(step: Step) -> Step {
    Step { dtype: DType::BF16, channels_last: true, ..step }
}

fn vgg(batch_norm: bool, size: Size) -> kiln::Result<Box<dyn Module>> {
    let options = VggOptions::default().batch_norm(batch_norm);
    let reduced = options.width(1.0 / 16.0).num_classes(10);
    Ok(Box::new(Vgg::new(VggDepth::Vgg16, if size == Size::Full { options } else { reduced })?))
}

/// ResNet-50, or one bottleneck in each of its stages.
fn resnet(size: Size) -> kiln::Result<Box<dyn Module>> {
    let (blocks, classes) = if size == Size::Full { ([3, 4, 6, 3], 1000) } else { ([1; 4], 10) };
    let options =
        ResNetOptions::default().num_classes(classes).width_per_group(if size == Size::Full { 64 } else { 8 });
    Ok(Box::new(ResNet::new(ResNetBlock::Bottleneck, blocks, options)?))
}

/// The account of the third step; nothing on a GPU.
fn measure(step: &Step, size: Size, batch: Option<usize>, device: Device) -> kiln::Result<Option<Value>> {
    manual_seed(0);
    let mut model = (step.network)(size)?.to_dtype(step.dtype)?.to(device)?;
    if step.channels_last {
        model.channels_last_()?;
    }
    let options = SGDOptions::new(0.01).momentum(0.9).weight_decay(1e-4);
    let mut optimizer = SGD::new(model.named_parameters(), options)?;
    let mut images = step.images[usize::from(size == Size::Full)];
    images[0] = batch.unwrap_or(images[0]);
    let x = Tensor::rand(images, Device::Cpu)?.to_dtype(step.dtype)?.to_device(device)?;
    let x = if step.channels_last { x.channels_last()? } else { x };
    let y = Tensor::randint(0, 10, images[0], Device::Cpu)?.to_device(device)?;
    for turn in 0..3 {
        device.synchronize()?;
        if turn == 2 {
            profiler("cuProfilerStart");
        }
        let loss = CrossEntropyLoss::new().forward(&model.forward(&x)?, &y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        device.synchronize()?;
    }
    profiler("cuProfilerStop");
    Ok(account())
}

/// The line of a step in the table.
fn line(step: &Step, account: &Value) -> String {
    let count = |name: &str| account["counts"][name].as_u64().unwrap();
    let (moved, least) = (account["moved"].as_u64().unwrap(), account["least"].as_u64().unwrap());
    let (launches, calls) = (count("launches") + count("fills"), count("library calls"));
    let beyond = 100.0 * (moved as f64 / least as f64 - 1.0);
    format!("{:<24}{launches:>10}{calls:>10}{:>14.1}{beyond:>10.1}", step.name, moved as f64 / 1e3)
}

const HEADER: &str = "\
# What a step of training (forward, backward, SGD with momentum) launches and moves on the simulated device: launches of our
# kernels, calls of cuBLASLt and cuDNN, the bytes that all of them read and write, and how many percent more that is than the
# least that they could (docs/simulator.md). tests/mlp_cuda/steps.rs has the networks, holds this table in CI, and writes it.
# step                    launches     calls            KB  beyond %
";

#[test]
fn steps_move_what_the_table_says() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let path = checkout::path("tests/mlp_cuda/steps.txt");
    let mut table = HEADER.to_owned();
    for step in F32_STEPS.iter().chain(&BF16_STEPS) {
        let Some(account) = measure(step, Size::Reduced, None, device)? else { return Ok(()) };
        writeln!(table, "{}", line(step, &account)).unwrap();
    }
    if env::var_os("KILN_WRITE_STEPS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let held = fs::read_to_string(&path).unwrap();
    assert!(
        held == table,
        "tests/mlp_cuda/steps.txt says\n{held}\nbut the steps are\n{table}\n(KILN_WRITE_STEPS=1 writes it)"
    );
    Ok(())
}

#[test]
#[ignore = "takes minutes and some GB: docs/simulator.md"]
fn step_of_full_size() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // A name, and perhaps a batch size, as in `vgg16_f32:2`.
    let wanted = env::var("KILN_STEP").unwrap_or_else(|_| "lenet_f32".into());
    let (name, batch) = wanted.split_once(':').map_or((&*wanted, None), |(name, batch)| (name, batch.parse().ok()));
    let step = F32_STEPS.iter().chain(&BF16_STEPS).find(|step| step.name == name).expect("KILN_STEP is in steps.txt");
    if let Some(account) = measure(step, Size::Full, batch, device)? {
        println!("{}", line(step, &account));
    }
    Ok(())
}
