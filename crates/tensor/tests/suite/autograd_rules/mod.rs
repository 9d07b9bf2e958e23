//! Rules of autograd beyond the tutorial: in-place changes, hooks, custom functions, errors, ReLU's gradient in fused passes.

mod errors;
mod functions;
mod fused_relu;
mod hooks;
mod in_place;

use kiln_tensor::{Device, Result, Tensor, autograd::BackwardOptions};

/// Keeps the graph for another pass.
const RETAIN: BackwardOptions = BackwardOptions::retain_graph();

/// A vector that requires gradients.
fn leaf(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, values.len(), Device::Cpu).unwrap().requires_grad_(true).unwrap()
}

/// A vector that requires none.
fn constant(values: &[f64]) -> Tensor {
    leaf(values).detach()
}

/// Asserts that there is an error whose message has these words.
#[track_caller]
fn assert_error(result: Result<impl Sized>, words: &[&str]) {
    let message = match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    };
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}
