//! Invalid input is a typed error that names the operation and what is wrong with it, never a panic.

use kiln::{
    Error, ErrorKind, Result,
    data::{FashionMNIST, TensorDataset},
    io::{self, Checkpoint},
    nn::{CrossEntropyLoss, Linear, functional},
    optim::{Optimizer, SGD},
    prelude::*,
};

/// The error's message, after a check of its kind.
#[track_caller]
fn refused<T>(result: Result<T>, is_kind: impl Fn(&ErrorKind) -> bool, parts: &[&str]) {
    let Err(error) = result else { panic!("it was accepted") };
    let message = error.to_string();
    assert!(is_kind(error.kind()), "another kind: {message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, Device::Cpu).unwrap()
}

#[test]
fn shapes_that_do_not_fit() {
    let (a, b) = (zeros(&[2, 3]), zeros(&[4, 5]));
    refused(a.add(&b), |k| matches!(k, ErrorKind::Broadcast { op: "add", .. }), &["add", "[2, 3]", "[4, 5]"]);
    refused(a.matmul(&b), |k| matches!(k, ErrorKind::ShapeMismatch { .. }), &["matmul", "[2, 3]", "[4, 5]"]);
    refused(a.reshape([7]), |k| matches!(k, ErrorKind::Argument { .. }), &["reshape", "[2, 3]", "[7]"]);
    refused(a.sum(2), |k| matches!(k, ErrorKind::DimOutOfRange { .. }), &["sum", "2"]);
    refused(a.i(5), |k| matches!(k, ErrorKind::IndexOutOfRange { .. }), &["5"]);
    refused(a.dims4(), |k| matches!(k, ErrorKind::Shape { .. }), &["dims4", "[2, 3]"]);
    refused(Tensor::new([vec![1f32], vec![1.0, 2.0]], Device::Cpu), |_| true, &["new", "1", "2"]);
    let layer = Linear::new(4, 2).unwrap();
    refused(layer.forward(&a), |_| true, &["linear", "[2, 3]", "[2, 4]"]);
    refused(functional::mse_loss(&a, &b), |_| true, &["[2, 3]", "[4, 5]"]);
    refused(TensorDataset::new((a, b)), |_| true, &["2", "4"]);
}

#[test]
fn dtypes_that_do_not_mix() {
    let a = zeros(&[2]);
    let b = Tensor::zeros(2, DType::F64).unwrap();
    refused(a.dot(&b), |k| matches!(k, ErrorKind::DTypeMismatch { .. }), &["dot", "f32", "f64", "to_dtype"]);
    let labels = Tensor::zeros(2, DType::I64).unwrap();
    // Arithmetic promotes, but in place a float does not become an integer.
    let is_dtype = |k: &ErrorKind| matches!(k, ErrorKind::DType { .. });
    refused(labels.add_(&a), is_dtype, &["add_: dtype i64", "the result is f32"]);
    refused(labels.add_alpha_(1, 0.5), is_dtype, &["add_alpha", "i64"]);
    refused(labels.div_(2), is_dtype, &["div_", "i64"]);
    refused(labels.mul_(0.5), is_dtype, &["mul_", "i64"]);
    refused(labels.clamp_(0.5, &a), is_dtype, &["clamp_", "the result is f32"]);
    refused(labels.requires_grad_(true), |_| true, &["i64"]);
    refused(a.to_vec::<i64>(), |k| matches!(k, ErrorKind::DType { .. }), &["to_vec", "f32", "i64"]);
}

#[test]
fn devices_that_are_not_there() {
    refused(Device::cuda(0), |k| matches!(k, ErrorKind::DeviceUnavailable { .. }), &["cuda:0"]);
    refused(zeros(&[1]).to_device(Device::Cuda(3)), |k| matches!(k, ErrorKind::DeviceUnavailable { .. }), &["cuda:3"]);
    refused("tpu".parse::<Device>(), |_| true, &["tpu"]);
    assert_eq!(Device::cuda_if_available(), Device::Cpu);
}

#[test]
fn labels_out_of_range() {
    let logits = zeros(&[2, 10]);
    for label in [10i64, -1] {
        let labels = Tensor::new([3, label], Device::Cpu).unwrap();
        let loss = CrossEntropyLoss::new().forward(&logits, &labels);
        refused(loss, |k| matches!(k, ErrorKind::IndexOutOfRange { .. }), &[&label.to_string(), "10"]);
    }
}

#[test]
fn misused_autograd() {
    let w = zeros(&[3]).requires_grad_(true).unwrap();
    let is_autograd = |k: &ErrorKind| matches!(k, ErrorKind::Autograd { .. });
    refused(w.add_(1), is_autograd, &["add_", "no_grad"]);
    refused(w.mul(2).unwrap().backward(), |_| true, &["backward", "[3]"]);
    let loss = w.square().unwrap().sum(()).unwrap();
    loss.backward().unwrap();
    refused(loss.backward(), is_autograd, &["retain"]);
    let mut optimizer = SGD::new([("w", zeros(&[1]).requires_grad_(true).unwrap())], 0.1).unwrap();
    refused(optimizer.step(), is_autograd, &["gradient"]);
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let name = path.to_str().unwrap();
    refused(io::load(&path, Device::Cpu), |k| matches!(k, ErrorKind::Io { .. }), &[name]);
    std::fs::write(&path, b"not a model").unwrap();
    refused(io::load(&path, Device::Cpu), |k| matches!(k, ErrorKind::File { .. }), &[name]);
    io::save(&path, &Linear::new(2, 2).unwrap().state_dict()).unwrap();
    refused(Checkpoint::load(&path, Device::Cpu), |k| matches!(k, ErrorKind::File { .. }), &[name, "checkpoint"]);
    refused(FashionMNIST::train().root(folder.path()).load(), |_| true, &[folder.path().to_str().unwrap()]);
}

#[test]
fn state_dicts_of_other_models() {
    let model = Linear::new(2, 3).unwrap();
    let mut state = model.state_dict();
    let bias = state.shift_remove("bias").unwrap();
    state.insert("bais".into(), bias);
    let is_state_dict = |k: &ErrorKind| matches!(k, ErrorKind::StateDict { .. });
    refused(model.load_state_dict(&state, true), is_state_dict, &["\"bias\"", "\"bais\""]);
    let other = Linear::new(5, 3).unwrap().state_dict();
    refused(model.load_state_dict(&other, true), is_state_dict, &["weight", "[3, 5]", "[3, 2]"]);
}

#[test]
fn errors_of_the_users_own_code_pass_through() {
    let error: Error = Error::other("the sensor is unplugged");
    assert_eq!(error.to_string(), "the sensor is unplugged");
}
