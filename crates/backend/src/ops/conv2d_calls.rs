//! Records the convolutions that a program computes, so that plans can be built for them ahead of time.

use std::cell::RefCell;

use super::conv2d_rule::Conv2d;
use crate::{dtype::DType, error::Result, layout::Layout, shape::Shape};

/// The three computations of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conv2dDirection {
    /// The convolution itself.
    Forward,
    /// The gradient with respect to the input.
    GradInput,
    /// The gradient with respect to the weight.
    GradWeight,
}

/// What a backend may fuse to a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conv2dFusion {
    /// A bias.
    Bias,
    /// A bias and ReLU.
    BiasRelu,
    /// A tensor of the result's shape, a bias and ReLU.
    ResidualBiasRelu,
    /// The gradient of the ReLU that the input is the output of.
    ReluGrad,
    /// The same, and the gradient of the bias before that ReLU.
    ReluBiasGrad,
}

/// A convolution that a backend was called for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dCall {
    /// The computation.
    pub direction: Conv2dDirection,
    /// Stride, padding, dilation and groups.
    pub rule: Conv2d,
    /// The dtype of all operands.
    pub dtype: DType,
    /// The layouts of the layer's input, its weight, and its output.
    pub operands: [Layout; 3],
    /// The operations that the same primitive applies to its result.
    pub fusion: Option<Conv2dFusion>,
}

impl Conv2dCall {
    /// The same convolution with another batch size and another dtype.
    ///
    /// # Errors
    /// If the number of elements overflows.
    pub fn of_batch(&self, batch: usize, dtype: DType) -> Result<Conv2dCall> {
        let [x, w, y] = &self.operands;
        let of = |image: &Layout| {
            let mut dims = image.dims().to_vec();
            if let Some(first) = dims.first_mut() {
                *first = batch;
            }
            Layout::strided(Shape::new(&dims)?, image.strides(), 0)
        };
        Ok(Conv2dCall { dtype, operands: [of(x)?, *w, of(y)?], ..*self })
    }
}

thread_local! {
    static CALLS: RefCell<Option<Vec<Conv2dCall>>> = const { RefCell::new(None) };
}

/// Runs `body`, and returns the convolutions that this thread called backends for meanwhile, each once. An outer call
/// does not see those of an inner one.
pub fn with_conv2d_calls<R>(body: impl FnOnce() -> R) -> (R, Vec<Conv2dCall>) {
    /// Restores the previous list when dropped, including when `body` panics.
    struct Restore(Option<Vec<Conv2dCall>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CALLS.replace(self.0.take());
        }
    }
    let _restore = Restore(CALLS.replace(Some(Vec::new())));
    let result = body();
    (result, CALLS.take().unwrap_or_default())
}

/// Records a call after its check, if a recording is active.
pub(super) fn note(
    direction: Conv2dDirection,
    rule: Conv2d,
    dtype: DType,
    operands: [&Layout; 3],
    fusion: Option<Conv2dFusion>,
) {
    CALLS.with_borrow_mut(|calls| {
        let Some(calls) = calls else { return };
        let call = Conv2dCall { direction, rule, dtype, operands: operands.map(|layout| *layout), fusion };
        if !calls.contains(&call) {
            calls.push(call);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contract::Arguments,
        ops::conv2d::{Conv2dArgs, Conv2dGradWeightArgs},
        testing::{Memory, layout},
    };

    #[test]
    fn convolutions_are_noted_once_and_only_where_that_is_asked_for() {
        let (rule, memory, mut to) = (Conv2d::default(), Memory(DType::F32), Memory(DType::F32));
        let (x, w, y) = (layout(&[2, 4, 5, 5]), layout(&[6, 4, 3, 3]), layout(&[2, 6, 3, 3]));
        let mut ask = || {
            let out = to.view_mut(&y);
            Conv2dArgs { rule, x: memory.view(&x), w: memory.view(&w), bias: None, residual: None, relu: true, out }
                .check()
                .unwrap();
            let (grad, out) = (memory.view(&y), to.view_mut(&w));
            Conv2dGradWeightArgs { rule, grad, x: memory.view(&x), out }.check().unwrap();
            let out = to.view_mut(&x);
            Conv2dArgs { rule, x: memory.view(&x), w: memory.view(&w), bias: None, residual: None, relu: true, out }
                .check()
                .unwrap_err();
        };
        ask();
        let (((), inner), calls) = with_conv2d_calls(|| {
            let inner = with_conv2d_calls(&mut ask);
            ask();
            ask();
            inner
        });
        assert_eq!(inner, calls);
        let of = |direction| Conv2dCall { direction, rule, dtype: DType::F32, operands: [x, w, y], fusion: None };
        assert_eq!(calls, [of(Conv2dDirection::Forward), of(Conv2dDirection::GradWeight)]);
        let larger = calls[0].of_batch(64, DType::F16).unwrap();
        assert_eq!(larger.operands, [layout(&[64, 4, 5, 5]), w, layout(&[64, 6, 3, 3])]);
        assert!(calls[0].of_batch(usize::MAX, DType::F16).is_err());
        assert!(std::panic::catch_unwind(|| with_conv2d_calls(|| panic!())).is_err());
        ask();
    }
}
