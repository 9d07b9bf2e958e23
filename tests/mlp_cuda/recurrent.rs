//! Recurrent layers on a GPU: what a time step launches, and outputs and gradients against the CPU's.

use kiln::{
    nn::{GRU, GRUCell, LSTM, LSTMCell, RNN, RNNNonlinearity, RNNOptions, pack_padded_sequence, pad_packed_sequence},
    prelude::*,
};

use crate::{
    account::recorded_pass,
    support::{TURN, device},
};

fn relu() -> RNNOptions {
    RNNOptions::default().nonlinearity(RNNNonlinearity::ReLU)
}

/// Launches and calls of libraries of a pass forward and back over so many steps; nothing on a GPU.
fn counted(layer: &dyn Module, steps: usize, device: Device) -> kiln::Result<Option<[u64; 2]>> {
    let x = Tensor::rand([steps, 4, 8], Device::Cpu)?.to_device(device)?;
    let account = recorded_pass(device, || layer.forward(&x)?.sum(())?.backward())?;
    let count = |account: &serde_json::Value, name: &str| account["counts"][name].as_u64().unwrap();
    Ok(account.map(|it| [count(&it, "launches") + count(&it, "fills"), count(&it, "library calls")]))
}

/// A time step is one kernel and one product each way, without gates two kernels; inputs and weights have one product for all
/// steps.
#[test]
fn a_time_step_is_a_kernel_and_a_product() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let layers: [(Box<dyn Module>, u64); 4] = [
        (Box::new(LSTM::new(8, 16)?.to(device)?), 1),
        (Box::new(GRU::new(8, 16)?.to(device)?), 1),
        (Box::new(RNN::new(8, 16)?.to(device)?), 2),
        (Box::new(RNN::with_options(8, 16, relu())?.to(device)?), 2),
    ];
    for (layer, kernels) in &layers {
        let (Some(few), Some(many)) = (counted(&**layer, 4, device)?, counted(&**layer, 9, device)?) else {
            return Ok(());
        };
        let name = layer.type_name();
        assert_eq!([many[0] - few[0], many[1] - few[1]], [2 * kernels * 5, 2 * 5], "of 5 more steps of {name}");
    }
    Ok(())
}

/// What `run` makes of a model and an input on the device is what it makes of them on the CPU, gradients included.
fn alike<M: ModuleTree + kiln::nn::Field>(
    name: &str,
    dims: &[usize],
    make: impl Fn(DType) -> kiln::Result<M>,
    run: impl Fn(&M, &Tensor) -> kiln::Result<Vec<Tensor>>,
) -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-5), (DType::F16, 5e-3), (DType::BF16, 4e-2)] {
        let all = |device: Device| -> kiln::Result<Vec<Tensor>> {
            manual_seed(3);
            let model = make(dtype)?.to(device)?;
            let x = Tensor::randn(dims, (dtype, Device::Cpu))?.to_device(device)?.requires_grad_(true)?;
            let outputs = run(&model, &x)?;
            let mut loss = Tensor::zeros((), (DType::F64, device))?;
            for (i, output) in outputs.iter().enumerate() {
                let weights = Tensor::arange(0, output.numel(), (DType::F64, device))?.sin()?.reshape(output.dims())?;
                loss = loss.add(&output.to_dtype(DType::F64)?.mul(&weights)?.sum(())?.mul(1 + i as i64)?)?;
            }
            loss.backward()?;
            let leaves = model.parameters().into_iter().chain([x]);
            let grads = leaves.map(|leaf| leaf.grad().expect("each has a gradient"));
            let tensors = outputs.iter().map(Tensor::detach).chain(grads);
            tensors.map(|tensor| tensor.to_device(Device::Cpu)?.to_dtype(DType::F64)).collect()
        };
        for (i, (got, want)) in all(device)?.iter().zip(&all(Device::Cpu)?).enumerate() {
            let scale = if want.numel() == 0 { 1.0 } else { want.abs()?.max(())?.item::<f64>()?.max(1.0) };
            assert!(got.allclose(want, 0.0, tolerance * scale)?, "{name}, {dtype}: {i}\n{got}\n{want}");
        }
    }
    Ok(())
}

#[test]
fn layers_are_the_cpus() -> kiln::Result<()> {
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let options = |dtype| RNNOptions::default().num_layers(2).bidirectional(true).tensor(dtype);
    let states = |(y, (h, c)): (Tensor, (Tensor, Tensor))| vec![y, h, c];
    // A size of packs of 16 bytes, and an odd one.
    for hidden in [8, 5] {
        alike(
            "LSTM",
            &[3, 2, 4],
            |dtype| LSTM::with_options(4, hidden, options(dtype)),
            |lstm, x| Ok(states(lstm.forward_with_state(x, None)?)),
        )?;
        let gru = |dtype| GRU::with_options(4, hidden, options(dtype));
        alike("GRU", &[3, 2, 4], gru, |gru, x| gru.forward_with_state(x, None).map(|(y, h)| vec![y, h]))?;
        for nonlinearity in [RNNNonlinearity::Tanh, RNNNonlinearity::ReLU] {
            let rnn = |dtype| RNN::with_options(4, hidden, options(dtype).nonlinearity(nonlinearity));
            alike("RNN", &[3, 2, 4], rnn, |rnn, x| rnn.forward_with_state(x, None).map(|(y, h)| vec![y, h]))?;
        }
    }
    alike(
        "LSTM with projections",
        &[3, 2, 4],
        |dtype| LSTM::with_options(4, 8, RNNOptions::default().proj_size(3).tensor(dtype)),
        |lstm, x| Ok(states(lstm.forward_with_state(x, None)?)),
    )?;
    alike(
        "packed GRU",
        &[5, 3, 4],
        |dtype| GRU::with_options(4, 8, options(dtype)),
        |gru, x| {
            let (y, h) = gru.forward_packed(&pack_padded_sequence(x, &[2, 5, 3], false, false)?, None)?;
            Ok(vec![pad_packed_sequence(&y, false, 0.0, None)?.0, h])
        },
    )?;
    alike(
        "LSTMCell",
        &[3, 4],
        |dtype| LSTMCell::with_options(4, 8, true, dtype),
        |cell, x| {
            let (h, c) = cell.forward_with_state(x, None)?;
            let (h, c) = cell.forward_with_state(x, Some((&h, &c)))?;
            Ok(vec![h, c])
        },
    )?;
    alike(
        "GRUCell",
        &[3, 4],
        |dtype| GRUCell::with_options(4, 8, true, dtype),
        |cell, x| {
            let h = cell.forward_with_state(x, None)?;
            Ok(vec![cell.forward_with_state(x, Some(&h))?])
        },
    )
}
