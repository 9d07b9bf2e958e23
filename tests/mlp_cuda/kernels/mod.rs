//! The hot kernels (`scripts/cost/hot.py`), each by a call of the backend that launches it: the simulated device tells whether it
//! does, and whether it moves the bytes that the call is said to move. `times_of_kernels` measures them on a GPU.

mod cases;

use std::{env, fs};

use cases::{Case, Maker};
use kiln_backend::{Backend, DType, GatedCell, MemoryBackend, OptimRule, Result};
use kiln_cuda::{CudaBackend, Event};

use crate::{account::recorded, checkout, support::TURN};

fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "f32" | "bits32" => DType::F32,
        "f16" | "bits16" => DType::F16,
        "bf16" => DType::BF16,
        _ => return None,
    })
}

fn rule(name: &str) -> Option<OptimRule> {
    let (weight_decay, eps, maximize) = (0.0, 1e-8, false);
    Some(match name {
        "sgd" => OptimRule::Sgd { momentum: 0.9, dampening: 0.0, nesterov: false, weight_decay, maximize },
        "adam" => {
            OptimRule::Adam { beta1: 0.9, beta2: 0.999, eps, weight_decay, decoupled: false, amsgrad: true, maximize }
        }
        "rmsprop" => OptimRule::RmsProp { alpha: 0.99, eps, weight_decay, momentum: 0.9, centered: true, maximize },
        "adagrad" => OptimRule::Adagrad { lr_decay: 0.0, weight_decay, eps, maximize },
        _ => return None,
    })
}

/// The case of a kernel; `None` if nobody has said what to measure it on.
fn case(on: &'static dyn Backend, kernel: &str, full: bool) -> Option<Result<Case>> {
    let (family, of) = kernel.rsplit_once('_')?;
    let make = Maker { on, dtype: dtype(of)?, full };
    let n = make.numel();
    let is_last = family.contains("pixels") || family.ends_with("across");
    Some(match family {
        "unary_relu" => make.unary(n),
        "unary_grad_relu" => make.unary_grad(n),
        "binary_add" => make.add(n),
        "copy_same" => make.copy(make.dtype, n),
        "relu_bias_grad_packed_along" | "relu_bias_grad_packed_across" => make.relu_bias_grad(is_last),
        "max_pool_packed_pixels_2" | "max_pool_packed_rows16_2" => make.max_pool(2, is_last, false),
        "max_pool_packed_pixels_3" | "max_pool_packed_rows16_3" => make.max_pool(3, is_last, false),
        "max_pool_packed_grad_pixels_2" | "max_pool_packed_grad_rows16_2" => make.max_pool(2, is_last, true),
        "max_pool_packed_grad_pixels_3" | "max_pool_packed_grad_rows16_3" => make.max_pool(3, is_last, true),
        "mean_packed_grad_pixels" | "mean_packed_grad_planes" => make.mean_grad(is_last),
        "dropout_apply" => make.dropout(n),
        "reduce_sum" => make.sum(n),
        "softmax_packed_plain" => make.softmax(false),
        "softmax_packed_log" => make.softmax(true),
        "softmax_packed_grad_plain" => make.softmax_grad(false),
        "softmax_packed_grad_log" => make.softmax_grad(true),
        "class_loss_packed_labels" => make.class_loss(false),
        "class_loss_packed_grad_labels" => make.class_loss(true),
        "norm_packed_along" | "norm_packed_across" => make.batch_norm(is_last),
        "norm_packed_grad_along" | "norm_packed_grad_across" => make.batch_norm_grad(is_last),
        "norm_packed_rows" => make.layer_norm(),
        "norm_packed_grad_rows" => make.layer_norm_grad(false),
        "norm_packed_grad_columns" => make.layer_norm_grad(true),
        "rnn_cell_lstm_packed" => make.rnn_cell(GatedCell::Lstm),
        "rnn_cell_gru_packed" => make.rnn_cell(GatedCell::Gru),
        "rnn_cell_grad_lstm_packed" => make.rnn_cell_grad(GatedCell::Lstm),
        "rnn_cell_grad_gru_packed" => make.rnn_cell_grad(GatedCell::Gru),
        "unscale_grads" => make.unscale(n),
        _ => {
            if let Some(from) = family.strip_prefix("cast_") {
                return Some(make.copy(dtype(from)?, n));
            }
            let name = family.strip_prefix("optim_")?;
            match name.split_once('_') {
                Some((name, of_grad)) => make.optim(rule(name)?, dtype(of_grad)?),
                None => make.optim(rule(name)?, make.dtype),
            }
        }
    })
}

/// The names of all hot kernels.
fn hot_kernels() -> Vec<String> {
    let table = fs::read_to_string(checkout::path("scripts/kernel_budgets.txt")).unwrap();
    let names = table.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "kernel").map(str::to_owned).collect()
}

/// The device, if there is one.
fn backend() -> Option<&'static CudaBackend> {
    crate::support::device()?;
    kiln_cuda::backend(0).ok()
}

#[test]
fn each_hot_kernel_has_something_to_be_measured_on() -> Result<()> {
    let Some(on) = backend() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for kernel in hot_kernels() {
        let Case { bytes, mut run, .. } = case(on, &kernel, false).unwrap_or_else(|| panic!("{kernel} has no case"))?;
        on.synchronize()?;
        let ((), account) = recorded(|| {
            run()?;
            on.synchronize()
        })?;
        let Some(account) = account else { return Ok(()) };
        let (mut own, mut others) = (0, 0);
        for entry in account["entries"].as_array().unwrap() {
            let moved = entry["read"].as_u64().unwrap() + entry["written"].as_u64().unwrap();
            *(if entry["name"] == kernel.as_str() { &mut own } else { &mut others }) += moved;
        }
        let bytes = bytes as u64;
        assert!(own.abs_diff(bytes) * 10 < bytes, "{kernel} moves {own} bytes, not {bytes}: {account}");
        assert!(others * 10 < bytes, "{kernel} is launched beside others: {account}");
    }
    Ok(())
}

/// Prints how long each hot kernel takes.
#[test]
#[ignore = "of use on a GPU: docs/gpu.md"]
fn times_of_kernels() -> Result<()> {
    let Some(on) = backend() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // Where times mean nothing, one of something small is enough.
    let full = env::var_os("KILN_SIM_REPORT").is_none();
    let (turns, times) = if full { (7, 10) } else { (1, 1) };
    let [start, end] = [Event::new(on)?, Event::new(on)?];
    for kernel in hot_kernels() {
        let Case { elements, bytes, mut run } =
            case(on, &kernel, full).unwrap_or_else(|| panic!("{kernel} has no case"))?;
        let mut time = |times: u16| -> Result<f32> {
            start.record()?;
            (0..times).try_for_each(|_| run())?;
            end.record()?;
            Ok(start.elapsed_time(&end)? / f32::from(times))
        };
        time(2)?;
        let mut milliseconds = (0..turns).map(|_| time(times)).collect::<Result<Vec<f32>>>()?;
        milliseconds.sort_by(f32::total_cmp);
        println!("\nkernel {kernel} {elements} {bytes} {:e}", milliseconds[milliseconds.len() / 2] / 1e3);
        on.empty_cache();
    }
    Ok(())
}
