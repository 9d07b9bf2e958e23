//! Element-wise operations of one tensor, generated from the table.

use kiln_backend::{
    Arguments, DType, Error, Integers, ReluBiasGradArgs, Result, Saved, UnaryArgs, UnaryGradArgs, UnaryOp, ViewMut,
    unary_table,
};
use kiln_derive::located;

use super::{formula, images::image_layout};
use crate::{
    autocast::cast_operands,
    autograd::{one, record},
    tensor::Tensor,
};

macro_rules! methods {
    ($names:tt $(UNARY($variant:ident, $method:ident, $doc:literal, $($row:tt)*))*) => {
        #[located]
        impl Tensor {$(
            #[doc = $doc]
            ///
            /// Element-wise. Integers and truth values are converted to `f32` if the result is not an integer.
            ///
            /// # Errors
            /// If the tensor is `bool`, which PyTorch's operation does not take, or memory runs out.
            pub fn $method(&self) -> Result<Tensor> {
                self.unary(UnaryOp::$variant)
            }
        )*}
    };
}
unary_table!(methods);

fn of_truth_values(op: UnaryOp) -> Error {
    Error::dtype(op.name(), DType::Bool, "it takes numbers; convert with `to_dtype`")
}

#[located]
impl Tensor {
    fn unary(&self, op: UnaryOp) -> Result<Tensor> {
        cast_operands(op.name(), [self], [], |[x], []| x.unary_no_autocast(op))
    }

    fn unary_no_autocast(&self, op: UnaryOp) -> Result<Tensor> {
        if self.dtype() == DType::Bool {
            use UnaryOp::{
                Gelu, GeluTanh, Hardsigmoid, Hardswish, LogSigmoid, Mish, Relu6, Selu, Sign, Silu, Softplus, Softsign,
                Square, Tanhshrink,
            };
            return match op {
                Sign => self.copy(),
                Square => self.to_dtype(DType::I64)?.unary_no_autocast(op),
                Gelu | GeluTanh | Hardsigmoid | Hardswish | LogSigmoid | Mish | Relu6 | Selu | Silu | Softplus
                | Softsign | Tanhshrink => Err(of_truth_values(op)),
                _ if op.integers() == Integers::Refused => self.to_dtype(DType::F32)?.unary_no_autocast(op),
                _ => Err(of_truth_values(op)),
            };
        }
        if !self.dtype().is_float() && op.integers() == Integers::Refused {
            return self.to_dtype(DType::F32)?.unary_no_autocast(op);
        }
        let reading = self.read();
        let layout = image_layout(self, *self.shape());
        let out = Tensor::compute_in(self.device(), self.dtype(), layout, |backend, out| {
            backend.unary(UnaryArgs { op, x: reading.view(), out }.checked()?)
        })?;
        drop(reading);
        let result = out.clone();
        let saved: &[&Tensor] = match op.saved() {
            Saved::Input => &[self],
            Saved::Output => &[&out],
            Saved::Nothing => &[],
        };
        let out = record(result, op.node_name(), &[self], saved, move |ctx| {
            let grad = ctx.grad()?;
            let saved = if op.saved() == Saved::Nothing { None } else { Some(ctx.saved(0)?) };
            if ctx.create_graph {
                return Ok(one(formula::unary_gradient(op, &grad, saved.as_ref())?));
            }
            let (g, s) = (grad.read(), saved.as_ref().map(Tensor::read));
            let layout = image_layout(&grad, *grad.shape());
            Ok(one(Tensor::compute_in(grad.device(), grad.dtype(), layout, |backend, out| {
                backend.unary_grad(
                    UnaryGradArgs { op, grad: g.view(), saved: s.as_ref().map(|s| s.view()), out }.checked()?,
                )
            })?))
        })?;
        Ok(out.described(op.name(), || []))
    }

    /// The gradient of ReLU: this tensor is the incoming gradient, `output` is ReLU's output.
    pub(crate) fn relu_gradient(&self, output: &Tensor) -> Result<Tensor> {
        let (g, y) = (self.read(), output.read());
        Tensor::compute_in(self.device(), self.dtype(), image_layout(self, *self.shape()), |backend, out| {
            backend
                .unary_grad(UnaryGradArgs { op: UnaryOp::Relu, grad: g.view(), saved: Some(y.view()), out }.checked()?)
        })
    }

    /// [`relu_gradient`](Tensor::relu_gradient) for a layer whose bias belongs to dimension `dim`, and the gradient of
    /// that bias, in one primitive.
    pub(crate) fn relu_bias_gradient(&self, output: &Tensor, dim: usize) -> Result<(Tensor, Tensor)> {
        let bias = Tensor::empty(output.dims()[dim], (self.dtype(), self.device()))?;
        let (g, y) = (self.read(), output.read());
        let masked = {
            let mut buffer = bias.0.storage.write();
            Tensor::compute_in(self.device(), self.dtype(), image_layout(output, *self.shape()), |backend, out| {
                let bias = ViewMut { buffer: &mut **buffer, layout: bias.layout() };
                backend.relu_bias_grad(ReluBiasGradArgs { grad: g.view(), y: y.view(), dim, out, bias }.checked()?)
            })?
        };
        Ok((masked, bias))
    }
}
