//! What whole steps of training launch and move, as the simulated device accounts for it, held to the table in steps.txt.
//!
//! CI runs networks of reduced width on small images. `step_of_full_size` is for `cargo sim --account` (docs/simulator.md).

use std::{env, fmt::Write, fs, time::Instant};

use kiln::{
    ErrorKind, autocast,
    models::{LeNet, Mlp, ResNet, ResNetBlock, ResNetOptions, Vgg, VggDepth, VggOptions},
    nn::{CrossEntropyLoss, Module},
    optim::{Optimizer, SGD, SGDOptions},
    prelude::*,
};
use serde_json::Value;

use crate::{
    account::recorded_pass,
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
#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    network: fn(Size) -> kiln::Result<Box<dyn Module>>,
    /// Shapes of the images of both sizes.
    images: [[usize; 4]; 2],
    precision: Precision,
    channels_last: bool,
}

/// What a step computes in. Images are of that dtype, as a loader may give them.
#[derive(Clone, Copy, PartialEq)]
enum Precision {
    F32,
    /// Parameters, too.
    Bf16,
    /// Parameters are in `f32`.
    AutocastBf16,
}

const F32_STEPS: [Step; 5] = [
    step("mlp_f32", |_| Ok(Box::new(Mlp::new(&[784, 512, 512, 10])?)), [[64, 1, 28, 28]; 2]),
    step("lenet_f32", |_| Ok(Box::new(LeNet::new(10)?)), [[8, 1, 32, 32], [64, 1, 32, 32]]),
    step("vgg16_f32", |size| vgg(false, size), [[2, 3, 64, 64], [4, 3, 224, 224]]),
    step("vgg16_bn_f32", |size| vgg(true, size), [[2, 3, 64, 64], [4, 3, 224, 224]]),
    step("resnet50_f32", resnet, [[2, 3, 32, 32], [4, 3, 224, 224]]),
];
const BF16_STEPS: [Step; 7] = [
    bf16(F32_STEPS[2], "vgg16_bf16_nhwc"),
    bf16(F32_STEPS[3], "vgg16_bn_bf16_nhwc"),
    bf16(F32_STEPS[4], "resnet50_bf16_nhwc"),
    autocast_bf16(F32_STEPS[0], "mlp_autocast_bf16"),
    autocast_bf16(bf16(F32_STEPS[2], ""), "vgg16_autocast_bf16_nhwc"),
    autocast_bf16(bf16(F32_STEPS[3], ""), "vgg16_bn_autocast_bf16_nhwc"),
    autocast_bf16(bf16(F32_STEPS[4], ""), "resnet50_autocast_bf16_nhwc"),
];

const fn step(name: &'static str, network: fn(Size) -> kiln::Result<Box<dyn Module>>, images: [[usize; 4]; 2]) -> Step {
    Step { name, network, images, precision: Precision::F32, channels_last: false }
}

/// In half precision and channels-last.
const fn bf16(step: Step, name: &'static str) -> Step {
    Step { name, precision: Precision::Bf16, channels_last: true, ..step }
}

const fn autocast_bf16(step: Step, name: &'static str) -> Step {
    Step { name, precision: Precision::AutocastBf16, ..step }
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

/// What runs a step once.
fn training(
    step: &'static Step,
    size: Size,
    batch: Option<usize>,
    device: Device,
) -> kiln::Result<impl FnMut() -> kiln::Result<()> + use<>> {
    manual_seed(0);
    let (of_parameters, of_images) = match step.precision {
        Precision::F32 => (DType::F32, DType::F32),
        Precision::Bf16 => (DType::BF16, DType::BF16),
        Precision::AutocastBf16 => (DType::F32, DType::BF16),
    };
    let mut model = (step.network)(size)?.to_dtype(of_parameters)?.to(device)?;
    if step.channels_last {
        model.channels_last_()?;
    }
    let options = SGDOptions::new(0.01).momentum(0.9).weight_decay(1e-4);
    let mut optimizer = SGD::new(model.named_parameters(), options)?;
    let mut images = step.images[usize::from(size == Size::Full)];
    images[0] = batch.unwrap_or(images[0]);
    let x = Tensor::rand(images, Device::Cpu)?.to_dtype(of_images)?.to_device(device)?;
    let x = if step.channels_last { x.channels_last()? } else { x };
    let y = Tensor::randint(0, 10, images[0], Device::Cpu)?.to_device(device)?;
    Ok(move || {
        let forward = || CrossEntropyLoss::new().forward(&model.forward(&x)?, &y);
        let loss = if step.precision == Precision::AutocastBf16 { autocast(DType::BF16, forward) } else { forward() }?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()
    })
}

/// The account of the third step; nothing on a GPU.
fn measure(step: &'static Step, size: Size, batch: Option<usize>, device: Device) -> kiln::Result<Option<Value>> {
    let mut run = training(step, size, batch, device)?;
    run()?;
    recorded_pass(device, run)
}

/// The line of a step in the table.
fn line(step: &Step, account: &Value) -> String {
    let count = |name: &str| account["counts"][name].as_u64().unwrap();
    let (moved, least) = (account["moved"].as_u64().unwrap(), account["least"].as_u64().unwrap());
    let (launches, calls) = (count("launches") + count("fills"), count("library calls"));
    let beyond = 100.0 * (moved as f64 / least as f64 - 1.0);
    format!("{:<28}{launches:>10}{calls:>10}{:>14.1}{beyond:>10.1}", step.name, moved as f64 / 1e3)
}

const HEADER: &str = "\
# What a step of training (forward, backward, SGD with momentum) launches and moves on the simulated device: launches of our
# kernels, calls of cuBLASLt and cuDNN, the bytes that all of them read and write, and how many percent more that is than the
# least that they could (docs/simulator.md). tests/mlp_cuda/steps.rs has the networks, holds this table in CI, and writes it.
# step                        launches     calls            KB  beyond %
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
        // The optimizer's launch reads gradients in half precision, and writes the parameters that the next step reads so.
        let casts = account["entries"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["name"].as_str().is_some_and(|name| name.starts_with("cast_")));
        assert_eq!(casts.count(), 0, "{} converts nothing", step.name);
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
    if let Some(account) = measure(find(name), Size::Full, batch, device)? {
        println!("{}", line(find(name), &account));
    }
    Ok(())
}

fn find(name: &str) -> &'static Step {
    F32_STEPS.iter().chain(&BF16_STEPS).find(|step| step.name == name).expect("the step is in steps.txt")
}

/// Prints how long the steps of `scripts/gpu/predicted_steps.txt` take: all of them, or those in `KILN_STEP`.
#[test]
#[ignore = "of use on a GPU: docs/gpu.md"]
fn times_of_steps() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let wanted = env::var("KILN_STEP").unwrap_or_default();
    let table = fs::read_to_string(checkout::path("scripts/gpu/predicted_steps.txt")).unwrap();
    for row in table.lines().filter(|line| !line.starts_with('#')) {
        let mut words = row.split_whitespace();
        let (name, batch) = (words.next().unwrap(), words.next().unwrap());
        if !wanted.is_empty() && !wanted.split(',').any(|wanted| wanted == name) {
            continue;
        }
        let mut run = training(find(name), Size::Full, batch.parse().ok(), device)?;
        let mut time = |steps: u32| -> kiln::Result<f64> {
            device.synchronize()?;
            let start = Instant::now();
            (0..steps).try_for_each(|_| run())?;
            device.synchronize()?;
            Ok(start.elapsed().as_secs_f64() / f64::from(steps))
        };
        match time(3) {
            Err(error) if matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => {
                println!("\nno room for {name} with a batch of {batch}");
                continue;
            }
            other => other?,
        };
        // Where times mean nothing, one is enough.
        let (turns, steps) = if env::var_os("KILN_SIM_REPORT").is_some() { (1, 1) } else { (5, 10) };
        let mut times = (0..turns).map(|_| time(steps)).collect::<kiln::Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        // On a line of its own: libtest may have begun one.
        println!("\nstep {name} {batch} {:e}", times[times.len() / 2]);
    }
    Ok(())
}
