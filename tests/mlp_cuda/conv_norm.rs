//! A convolution, a batch normalization and ReLU, with and without a residual: what they launch, and that they compute what
//! the CPU does.

use kiln::{
    autograd::{self, BackwardOptions},
    nn::{BatchNorm2d, Conv2d, Conv2dOptions, Module, ReLU, Sequential},
    prelude::*,
};
use serde_json::Value;

use crate::{
    account::recorded_on,
    support::{TURN, device},
};

/// Launches of kernels and calls of libraries in each direction.
const FORWARD: u64 = 3;
const BACKWARD: u64 = 4;

fn calls(account: &Value) -> u64 {
    ["launches", "library calls", "fills"].iter().map(|name| account["counts"][name].as_u64().unwrap()).sum()
}

/// The output, the gradients and the state after a step of training; and the launches of both directions.
type Step = (Vec<Vec<f64>>, Option<[Value; 2]>);

fn numbers(dims: &[usize], device: Device, dtype: DType, channels_last: bool) -> kiln::Result<Tensor> {
    let t = Tensor::randn(dims, Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    if channels_last { t.channels_last()?.copy() } else { Ok(t) }
}

/// A convolution and its normalization.
#[derive(Module)]
#[module(crate = "kiln::nn")]
struct Pair {
    conv: Conv2d,
    norm: BatchNorm2d,
}

struct Case {
    dtype: DType,
    channels_last: bool,
    bias: bool,
    residual: bool,
    dims: [usize; 4],
}

fn step(device: Device, case: &Case) -> kiln::Result<Step> {
    manual_seed(3);
    let Case { dtype, channels_last, bias, residual, dims } = *case;
    let channels = dims[1];
    let conv = Conv2d::with_options(channels, channels, 3, Conv2dOptions::default().padding(1).bias(bias))?;
    let norm = BatchNorm2d::new(channels)?;
    let (model, relu) = (Pair { conv, norm }.to_dtype(dtype)?.to(device)?, ReLU::new());
    let leaf = || numbers(&dims, device, dtype, channels_last)?.requires_grad_(true);
    let (x, z, g) = (leaf()?, leaf()?, numbers(&dims, device, dtype, channels_last)?);
    let (parameters, state) = (model.parameters(), model.state_dict());
    let (out, forward) = if residual {
        recorded_on(device, || model.conv.forward_norm(&x, &model.norm, Some(&z), Some(&relu)))?
    } else {
        let Pair { conv, norm } = model;
        let model = Sequential::new().add(conv).add(norm).add(relu);
        recorded_on(device, || model.forward(&x))?
    };
    let ((), backward) =
        recorded_on(device, || autograd::backward(&[(out.clone(), Some(g.clone()))], BackwardOptions::default()))?;
    let grads = [&x, &z].into_iter().filter_map(Tensor::grad);
    let grads = grads.chain(parameters.iter().filter_map(|p| p.grad()));
    let state = state.into_iter().map(|(_, tensor)| tensor);
    let all = std::iter::once(out.detach()).chain(grads).chain(state);
    let values =
        all.map(|t| no_grad(|| t.to_dtype(DType::F64)?.flatten(0, -1)?.to_vec::<f64>())).collect::<Result<_, _>>()?;
    Ok((values, forward.zip(backward).map(|(a, b)| [a, b])))
}

#[test]
fn convolution_norm_and_relu_are_three_launches_and_four() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (channels_last, dims) in
            [(false, [2, 8, 16, 16]), (true, [2, 8, 16, 16]), (false, [3, 5, 7, 7]), (true, [3, 5, 9, 7])]
        {
            for (bias, residual) in [(true, false), (false, false), (false, true)] {
                let case = Case { dtype, channels_last, bias, residual, dims };
                let name = format!("{dtype:?} {dims:?} channels_last={channels_last} bias={bias} residual={residual}");
                let (got, accounts) = step(device, &case)?;
                let (want, _) = step(Device::Cpu, &case)?;
                assert_eq!(got.len(), want.len());
                let near = match dtype {
                    DType::F32 => 1e-3,
                    DType::F16 => 2e-2,
                    _ => 1e-1,
                };
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let scale = want.iter().fold(1.0f64, |most, value| most.max(value.abs()));
                    let apart = got.iter().zip(want).filter(|(a, b)| (**a - **b).abs() > near * scale).count();
                    // An element that rounding moves across 0 is one that ReLU has let through on one of the devices only.
                    assert!(apart * 100 <= got.len(), "{name}: tensor {i}: {apart} of {} differ", got.len());
                }
                for (account, most) in accounts.iter().flatten().zip([FORWARD, BACKWARD]) {
                    assert!(
                        calls(account) <= most,
                        "{name}: {} instead of {most}: {:#}",
                        calls(account),
                        account["operations"]
                    );
                }
            }
        }
    }
    Ok(())
}
