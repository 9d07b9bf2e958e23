//! The gradient of a bias followed by ReLU.

use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float, same_shape},
    error::{Error, Result},
    op::UnaryOp,
    ops::{
        reduce::{ReduceArgs, ReduceBackend, ReduceOp},
        unary::{UnaryBackend, UnaryGradArgs},
    },
    view::{View, ViewMut},
};

/// Arguments of [`relu_bias_grad`](ReluBiasGradBackend::relu_bias_grad).
#[derive(Debug)]
pub struct ReluBiasGradArgs<'a> {
    /// The gradient of `y`.
    pub grad: View<'a>,
    /// The output of ReLU, `relu(… + bias)`.
    pub y: View<'a>,
    /// The dimension of `y` that the bias belongs to.
    pub dim: usize,
    /// Receives `grad` where `y` is above 0 (or NaN), and 0 elsewhere.
    pub out: ViewMut<'a>,
    /// Receives the sums of `out` over the other dimensions, `[y's extent along dim]`.
    pub bias: ViewMut<'a>,
}

impl Arguments for ReluBiasGradArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "relu_bias_grad";
        let (dtype, layout) = (self.y.dtype(), self.y.layout);
        is_float(OP, dtype)?;
        for other in [self.grad.dtype(), self.out.dtype(), self.bias.dtype()] {
            has_dtype(OP, dtype, other)?;
        }
        same_shape(OP, &[layout, self.grad.layout, self.out.layout])?;
        let Some(&channels) = layout.dims().get(self.dim) else {
            return Err(Error::dim(OP, self.dim as i64, layout.rank()));
        };
        has_shape(OP, "a bias", self.bias.layout, &[channels])
    }
}

/// Backward through a bias and the ReLU after it.
pub trait ReluBiasGradBackend: UnaryBackend + ReduceBackend {
    /// Backward through a bias and the ReLU after it, in one pass where the device has it.
    fn relu_bias_grad(&self, args: Checked<ReluBiasGradArgs>) -> Result<()> {
        let ReluBiasGradArgs { grad, y, dim, mut out, bias } = args.into_inner();
        self.unary_grad(UnaryGradArgs { op: UnaryOp::Relu, grad, saved: Some(y), out: out.reborrow() }.checked()?)?;
        let mut row = *bias.layout;
        for at in 0..out.layout.rank() {
            if at != dim {
                row = row.unsqueeze(at)?;
            }
        }
        self.reduce(
            ReduceArgs { op: ReduceOp::Sum, x: out.as_view(), out: ViewMut { layout: &row, ..bias } }.checked()?,
        )
    }
}
