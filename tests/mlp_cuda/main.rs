//! The quickstart tutorial's network on a GPU, or on the simulated one: its losses are the CPU's, and a step after
//! warm-up makes no unnecessary driver calls.
//!
//! Without a device it passes, unless `KILN_REQUIRE_DEVICE` is set. The simulator counts a step's driver calls (`cargo
//! sim test -p kiln-tests --features cuda --test mlp_cuda`) between the driver's `cuProfilerStart` and
//! `cuProfilerStop`; on a GPU the same calls delimit the step for a profiler.

#[path = "../support/account.rs"]
mod account;
mod attention;
mod attention_values;
#[path = "../support/checkout.rs"]
mod checkout;
mod conv_norm;
mod gates;
mod kernels;
mod metrics;
mod recurrent;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod unit_gradient;

use std::{env, process};

use account::{caching, recorded, recorded_on};
use kiln::{
    Float32Precision,
    data::{DataLoader, FashionMNIST},
    models::Mlp,
    nn::{CrossEntropyLoss, Dropout, Flatten, Linear, ReLU, Sequential, StateDict},
    optim::{Adam, AdamW, AdamWOptions, Optimizer, SGD},
    prelude::*,
    random_state, set_float32_matmul_precision, set_random_state,
};
use serde_json::Value;
use support::{
    TURN, device,
    rounding::{Errors, assert_trained_alike},
};

/// Launches of kernels and of the library in one step.
const MOST_CALLS: u64 = 10;

fn loader(device: Device) -> kiln::Result<DataLoader> {
    let data = FashionMNIST::train().root(checkout::path("crates/data/assets/fashion-mnist")).load()?;
    DataLoader::builder(data).batch_size(64).shuffle(true).seed(0).device(device).build()
}

fn network(device: Device) -> kiln::Result<Mlp> {
    manual_seed(0);
    Mlp::new(&[784, 512, 512, 10])?.to(device)
}

fn step(model: &Mlp, optimizer: &mut dyn Optimizer, x: &Tensor, y: &Tensor) -> kiln::Result<Tensor> {
    let loss = CrossEntropyLoss::new().forward(&model.forward(x)?, y)?;
    optimizer.zero_grad();
    loss.backward()?;
    optimizer.step()?;
    Ok(loss.detach())
}

/// [`step`] with errors in its sums.
fn step_with(
    model: &Mlp,
    optimizer: &mut dyn Optimizer,
    x: &Tensor,
    y: &Tensor,
    errors: &Errors,
) -> kiln::Result<Tensor> {
    optimizer.zero_grad();
    let loss = errors.during(&model.parameters(), x, y.numel(), || {
        let loss = CrossEntropyLoss::new().forward(&model.forward(x)?, y)?;
        loss.backward()?;
        Ok(loss.detach())
    })?;
    optimizer.step()?;
    Ok(loss)
}

/// Makes an optimizer for a model.
type MakeOptimizer = dyn Fn(&Mlp) -> kiln::Result<Box<dyn Optimizer>>;

/// The losses of the first steps of a run.
fn losses(
    device: Device,
    dtype: DType,
    optimizer: &MakeOptimizer,
    steps: usize,
    errors: &Errors,
) -> kiln::Result<Vec<f64>> {
    let model = network(device)?.to_dtype(dtype)?;
    let mut optimizer = optimizer(&model)?;
    let loader = loader(device)?;
    let mut losses = Vec::new();
    while losses.len() < steps {
        for batch in loader.iter().take(steps - losses.len()) {
            let (x, y) = batch?;
            losses.push(step_with(&model, &mut *optimizer, &x.to_dtype(dtype)?, &y, errors)?);
        }
    }
    Tensor::stack(&losses, 0)?.to_dtype(DType::F64)?.to_vec()
}

/// Compares losses with the CPU's, with factors rounded to TensorFloat-32 or not.
fn compare(optimizer: &MakeOptimizer, steps: usize, precision: Float32Precision) -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    set_float32_matmul_precision(precision);
    let got = losses(device, DType::F32, optimizer, steps, &Errors::none());
    let compared = got.and_then(|got| {
        let got: Vec<f32> = got.into_iter().map(|loss| loss as f32).collect();
        assert_trained_alike(&[&got], |errors| losses(Device::Cpu, errors.computed(), optimizer, steps, errors))
    });
    set_float32_matmul_precision(Float32Precision::Highest);
    compared
}

#[test]
fn twenty_steps_of_adam_are_those_of_the_cpu() -> kiln::Result<()> {
    compare(&|model| Ok(Box::new(Adam::new(model.named_parameters(), 1e-3)?)), 20, Float32Precision::Highest)
}

#[test]
fn fifty_steps_of_sgd_are_those_of_the_cpu() -> kiln::Result<()> {
    compare(&|model| Ok(Box::new(SGD::new(model.named_parameters(), 0.05)?)), 50, Float32Precision::Highest)
}

#[test]
fn ten_steps_in_tf32_are_those_of_the_cpu() -> kiln::Result<()> {
    compare(&|model| Ok(Box::new(SGD::new(model.named_parameters(), 0.05)?)), 10, Float32Precision::High)
}

#[test]
fn a_step_after_warm_up_asks_little_of_the_driver() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let model = network(device)?;
    let mut optimizer = SGD::new(model.named_parameters(), 1e-3)?;
    let batches: Vec<_> = loader(Device::Cpu)?.iter().take(6).collect::<Result<_, _>>()?;
    let (last, warm_up) = batches.split_last().expect("there are six");
    let send = |(x, y): &(Tensor, Tensor)| Ok::<_, kiln::Error>((x.to_device(device)?, y.to_device(device)?));
    for batch in warm_up {
        let (x, y) = send(batch)?;
        step(&model, &mut optimizer, &x, &y)?;
    }
    device.synchronize()?;
    let before = device.memory_stats()?;
    let (loss, account) = recorded(|| {
        let (x, y) = send(last)?;
        step(&model, &mut optimizer, &x, &y)
    })?;
    assert!(loss.item::<f32>()?.is_finite());
    let after = device.memory_stats()?;
    assert!(!caching() || after.system_allocations == before.system_allocations, "the allocator had everything");

    let Some(account) = account else { return Ok(()) };
    let count = |name: &str| account["counts"][name].as_u64().unwrap();
    let calls = count("launches") + count("library calls") + count("fills");
    println!("{calls} launches and library calls: {account:#}");
    assert!(!caching() || count("device allocations") == 0, "{account:#}");
    assert_eq!(count("pinned allocations"), 0);
    assert_eq!(count("copies"), 2, "the images and the labels: {account:#}");
    assert_eq!(count("bytes to device"), 64 * 784 * 4 + 64 * 8);
    assert_eq!(count("bytes to host"), 0);
    assert_eq!(count("synchronizations"), 0, "{account:#}");
    // Pinned memory that a batch is copied through is used again once the device has read what it held before, which
    // keeps the host from running ahead without end.
    assert!(count("event waits") <= 2, "{account:#}");
    assert!(calls <= MOST_CALLS, "{calls} launches and library calls: {account:#}");
    Ok(())
}

/// A network whose steps draw random numbers.
fn dropping(device: Device) -> kiln::Result<Sequential> {
    manual_seed(0);
    let layers = Sequential::new();
    let layers = layers.add(Flatten::new()).add(Linear::new(784, 64)?).add(ReLU::new()).add(Dropout::new(0.5)?);
    layers.add(Linear::new(64, 32)?).add(ReLU::new()).add(Dropout::new(0.25)?).add(Linear::new(32, 10)?).to(device)
}

/// What differs from step to step (counts of steps, positions of random numbers, learning rates) is in the device's memory,
/// so that a step could be captured once and launched again and again: its launches are the same each time, and it
/// learns all the same.
#[test]
fn the_launches_of_a_step_are_those_of_the_step_before() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |device: Device, dtype: DType, errors: &Errors| -> kiln::Result<(Vec<Value>, Vec<f64>)> {
        let model = dropping(device)?.to_dtype(dtype)?;
        let (some, others): (Vec<_>, Vec<_>) =
            model.named_parameters().into_iter().partition(|(name, _)| name.ends_with("weight"));
        let mut optimizer = AdamW::with_groups([(some, AdamWOptions::new(1e-3)), (others, AdamWOptions::new(1e-2))])?;
        let (x, y) = batch(16, device)?;
        let x = x.to_dtype(dtype)?;
        let (mut accounts, mut losses) = (Vec::new(), Vec::new());
        for i in 0..8 {
            if i == 6 {
                // It counts from the next step on, and takes launches of its own, ahead of the step.
                optimizer.set_lr(1e-4)?;
            }
            let (loss, account) = recorded_on(device, || {
                let loss = errors.during(&model.parameters(), &x, 16, || {
                    let loss = CrossEntropyLoss::new().forward(&model.forward(&x)?, &y)?;
                    loss.backward()?;
                    Ok(loss)
                })?;
                optimizer.step()?;
                optimizer.zero_grad();
                Ok(loss)
            })?;
            accounts.extend(account);
            losses.push(loss.detach().to_dtype(DType::F64)?.item()?);
        }
        Ok((accounts, losses))
    };
    let (accounts, got) = run(device, DType::F32, &Errors::none())?;
    let got: Vec<f32> = got.into_iter().map(|loss| loss as f32).collect();
    assert_trained_alike(&[&got], |errors| Ok(run(Device::Cpu, errors.computed(), errors)?.1))?;
    assert!(got.windows(2).all(|pair| pair[0] != pair[1]), "{got:?}");
    if accounts.is_empty() || !caching() {
        return Ok(());
    }
    // The first step makes what the later ones use, and brings the seed to the device.
    for (i, pair) in accounts.windows(2).enumerate().skip(2).filter(|(i, _)| ![5, 6].contains(i)) {
        for what in ["operations", "arguments"] {
            assert_eq!(pair[0][what], pair[1][what], "steps {i} and {}", i + 1);
        }
    }
    let kernels = |account: &Value| account["arguments"].as_array().map_or(0, Vec::len);
    assert_eq!(kernels(&accounts[6]), kernels(&accounts[5]) + 2, "the learning rates of two groups are written");
    assert_eq!(accounts[7]["arguments"], accounts[5]["arguments"]);
    Ok(())
}

/// What the device counts (steps, random numbers) is saved with the rest, whatever other seeds are drawn from in between.
#[test]
fn a_run_on_the_device_goes_on_where_it_was_saved() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let (x, y) = batch(16, device)?;
    let steps = |model: &Sequential, optimizer: &mut AdamW| -> kiln::Result<Vec<f32>> {
        let mut losses = Vec::new();
        for _ in 0..3 {
            let loss = CrossEntropyLoss::new().forward(&model.forward(&x)?, &y)?;
            optimizer.zero_grad();
            loss.backward()?;
            optimizer.step()?;
            losses.push(loss.detach());
        }
        Tensor::stack(&losses, 0)?.to_vec()
    };
    let copies = |state: StateDict| -> kiln::Result<StateDict> {
        state.into_iter().map(|(name, tensor)| Ok((name, tensor.copy()?))).collect()
    };
    let model = dropping(device)?;
    let mut optimizer = AdamW::new(model.named_parameters(), 1e-3)?;
    let before = steps(&model, &mut optimizer)?;
    let saved = no_grad(|| Ok::<_, kiln::Error>((copies(model.state_dict())?, copies(optimizer.state_dict()?)?)))?;
    let random = random_state();
    let went_on = steps(&model, &mut optimizer)?;

    let model = dropping(device)?;
    let mut optimizer = AdamW::new(model.named_parameters(), 1e-2)?;
    // Other draws, other counts.
    manual_seed(7);
    steps(&model, &mut optimizer)?;
    model.load_state_dict(&saved.0, true)?;
    optimizer.load_state_dict(&saved.1)?;
    set_random_state(random);
    assert_eq!(steps(&model, &mut optimizer)?, went_on, "bit for bit");
    assert_ne!(before, went_on);
    Ok(())
}

/// Runs one of the ignored tests below on the simulator with these faults, in a process of its own.
fn child(name: &str, faults: &[(&str, &str)]) {
    let Some(runner) = env::var_os("KILN_SIM_RUNNER") else { return };
    let mut command = process::Command::new(runner);
    command.arg(env::current_exe().unwrap()).args(["--exact", name, "--ignored", "--nocapture"]);
    // Figures are those of the caching allocator.
    command.env_remove("KILN_CUDA_NO_MEMORY_CACHING");
    let process::Output { status, stdout, stderr } = command.envs(faults.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success() && text.contains("1 passed"), "{name} with {faults:?}:\n{text}");
}

/// A few steps with small batches, against the CPU.
fn trains(device: Device) -> kiln::Result<()> {
    let run = |device: Device, dtype: DType, errors: &Errors| -> kiln::Result<Tensor> {
        let model = network(device)?.to_dtype(dtype)?;
        let mut optimizer = SGD::new(model.named_parameters(), 0.05)?;
        let (x, y) = batch(16, device)?;
        let x = x.to_dtype(dtype)?;
        let step = |_| step_with(&model, &mut optimizer, &x, &y, errors);
        Tensor::stack(&(0..3).map(step).collect::<kiln::Result<Vec<_>>>()?, 0)
    };
    let got: Vec<f32> = run(device, DType::F32, &Errors::none())?.to_vec()?;
    assert_trained_alike(&[&got], |errors| run(Device::Cpu, errors.computed(), errors)?.to_dtype(DType::F64)?.to_vec())
}

fn batch(n: usize, device: Device) -> kiln::Result<(Tensor, Tensor)> {
    manual_seed(1);
    let (x, y) = (Tensor::rand([n, 1, 28, 28], Device::Cpu)?, Tensor::randint(0, 10, n, Device::Cpu)?);
    Ok((x.to_device(device)?, y.to_device(device)?))
}

#[test]
fn training_goes_on_after_a_batch_that_no_memory_holds() {
    child("child_recovers_from_a_batch_that_is_too_large", &[("KILN_SIM_MEMORY", "50331648")]);
}

#[test]
#[ignore = "a child"]
fn child_recovers_from_a_batch_that_is_too_large() -> kiln::Result<()> {
    let device = Device::cuda(0)?;
    trains(device)?;
    let before = device.memory_stats()?.allocated;
    {
        let model = network(device)?;
        let mut optimizer = SGD::new(model.named_parameters(), 0.05)?;
        let (x, y) = batch(4096, device)?;
        let error = step(&model, &mut optimizer, &x, &y).unwrap_err();
        assert!(matches!(error.kind(), kiln::ErrorKind::OutOfMemory { .. }), "{error}");
    }
    assert_eq!(device.memory_stats()?.allocated, before, "the failed step has left nothing");
    trains(device)
}

#[test]
fn a_launch_that_fails_in_training_is_an_error_and_no_more() {
    // In the forward pass, in the backward pass, in the optimizer's step, and after the first step.
    for launch in ["2", "5", "9", "14", "17", "25"] {
        child("child_recovers_from_a_launch_that_fails", &[("KILN_SIM_FAIL_LAUNCH", launch)]);
    }
}

#[test]
#[ignore = "a child"]
fn child_recovers_from_a_launch_that_fails() -> kiln::Result<()> {
    let device = Device::cuda(0)?;
    let error = trains(device).unwrap_err().to_string();
    assert!(error.contains("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES") || error.contains("EXECUTION_FAILED"), "{error}");
    assert_eq!(device.memory_stats()?.allocated, 512, "the device's own record is all that is left");
    trains(device)
}

#[test]
fn training_needs_no_epilogue() {
    child("child_trains", &[("KILN_SIM_NO_EPILOGUES", "2,4,6,130,134,136,152,256,512")]);
}

#[test]
#[ignore = "a child"]
fn child_trains() -> kiln::Result<()> {
    trains(Device::cuda(0)?)
}
