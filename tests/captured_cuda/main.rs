//! Captured steps, on a GPU or on the simulated one: their results are those of eager execution, bit for bit.
//!
//! Without a device it passes, unless `KILN_REQUIRE_DEVICE` is set (`cargo sim test -p kiln-tests --features cuda --test
//! captured_cuda`).

#[path = "../support/account.rs"]
mod account;
mod attention;
mod autocast;
mod low_copies;
mod networks;
mod refused;
mod scaled;
mod state;
#[path = "../support/mod.rs"]
mod support;

use kiln::{
    CapturedStep,
    nn::{CrossEntropyLoss, Dropout, Flatten, Linear, ReLU, Sequential},
    optim::{AdamW, Optimizer},
    prelude::*,
};

/// A network whose steps draw random numbers.
fn dropping(device: Device) -> kiln::Result<Sequential> {
    manual_seed(0);
    let layers = Sequential::new();
    let layers = layers.add(Flatten::new()).add(Linear::new(784, 64)?).add(ReLU::new()).add(Dropout::new(0.5)?);
    layers.add(Linear::new(64, 32)?).add(ReLU::new()).add(Dropout::new(0.25)?).add(Linear::new(32, 10)?).to(device)
}

/// Pictures with labels, another one for each number.
fn batch(number: u64, dims: &[usize], device: Device) -> kiln::Result<(Tensor, Tensor)> {
    let state = kiln::random_state();
    manual_seed(1000 + number);
    let (x, y) = (Tensor::rand(dims, Device::Cpu)?, Tensor::randint(0, 10, dims[0], Device::Cpu)?);
    kiln::set_random_state(state);
    Ok((x.to_device(device)?, y.to_device(device)?))
}

/// The bits of floats, the values of all else.
fn bits(tensor: &Tensor) -> kiln::Result<Vec<u64>> {
    let tensor = no_grad(|| tensor.detach().to_device(Device::Cpu))?;
    match tensor.dtype() {
        DType::I64 => Ok(tensor.to_vec::<i64>()?.into_iter().map(|value| value as u64).collect()),
        DType::F64 => Ok(tensor.to_vec::<f64>()?.into_iter().map(f64::to_bits).collect()),
        DType::U8 => Ok(tensor.to_vec::<u8>()?.into_iter().map(u64::from).collect()),
        _ => Ok(tensor.to_dtype(DType::F32)?.to_vec::<f32>()?.into_iter().map(|v| u64::from(v.to_bits())).collect()),
    }
}

fn loss_of(model: &Sequential, (x, y): &(Tensor, Tensor)) -> kiln::Result<Tensor> {
    CrossEntropyLoss::new().forward(&model.forward(x)?, y)
}

/// What most tests train by: a whole step of the optimizer.
fn training_step(model: &Sequential) -> impl FnMut(&mut AdamW, &(Tensor, Tensor)) -> kiln::Result<Tensor> {
    move |optimizer, batch| {
        optimizer.zero_grad();
        let loss = loss_of(model, batch)?;
        loss.backward()?;
        optimizer.step()?;
        Ok(loss)
    }
}

/// A step whose function returns losses of the state `S`.
fn step<S: ?Sized, F: FnMut(&mut S, &(Tensor, Tensor)) -> kiln::Result<Tensor>>(
    device: Device,
    captured: bool,
    body: F,
) -> CapturedStep<S, (Tensor, Tensor), Tensor, F> {
    let step = CapturedStep::new(device, body);
    if captured { step } else { step.max_graphs(0) }
}
