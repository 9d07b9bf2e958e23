//! Softmax, log-softmax and softmin.

use kiln_backend::{Arguments, Dim, Result, SoftmaxArgs, SoftmaxGradArgs};
use kiln_derive::located;

use super::check;
use crate::{
    autocast::cast_operands,
    autograd::{one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// `exp(x) / sum(exp(x))` along a dimension, without overflow.
    ///
    /// # Errors
    /// If the tensor is not floating-point, or the dimension is out of range.
    pub fn softmax(&self, dim: impl Dim) -> Result<Tensor> {
        self.softmax_along("softmax", "SoftmaxBackward0", dim, false)
    }

    /// The logarithm of [`softmax`](Tensor::softmax), computed without taking a logarithm of 0.
    ///
    /// # Errors
    /// If the tensor is not floating-point, or the dimension is out of range.
    pub fn log_softmax(&self, dim: impl Dim) -> Result<Tensor> {
        self.softmax_along("log_softmax", "LogSoftmaxBackward0", dim, true)
    }

    /// The [`softmax`](Tensor::softmax) of `-x`.
    ///
    /// # Errors
    /// If the tensor is not floating-point, or the dimension is out of range.
    pub fn softmin(&self, dim: impl Dim) -> Result<Tensor> {
        check::floats("softmin", self)?;
        self.neg()?.softmax(dim)
    }

    fn softmax_along(&self, op: &'static str, node: &'static str, dim: impl Dim, log: bool) -> Result<Tensor> {
        cast_operands(op, [self], [], |[x], []| x.softmax_no_autocast(op, node, dim, log))
    }

    fn softmax_no_autocast(&self, op: &'static str, node: &'static str, dim: impl Dim, log: bool) -> Result<Tensor> {
        check::floats(op, self)?;
        let dim = dim.resolve(op, self.rank())?;
        if self.rank() == 0 {
            return self.reshape([1])?.softmax_no_autocast(op, node, 0, log)?.reshape(());
        }
        let reading = self.read();
        let out = Tensor::compute(self.device(), self.dtype(), *self.shape(), |backend, out| {
            backend.softmax(SoftmaxArgs { x: reading.view(), dim, log, out }.checked()?)
        })?;
        drop(reading);
        let y = record(out.clone(), node, &[self], &[&out], move |ctx| {
            let (grad, y) = (ctx.grad()?, ctx.saved(0)?);
            if !ctx.create_graph {
                return Ok(one(y.softmax_grad(&grad, dim, log)?));
            }
            // Half precision is rounded once, at the end.
            let (wide, y) = (grad.widened()?, y.widened()?);
            let of_x = if log {
                wide.sub(&y.exp()?.mul(&wide.sum_keepdim(dim)?)?)?
            } else {
                y.mul(&wide.sub(&wide.mul(&y)?.sum_keepdim(dim)?)?)?
            };
            Ok(one(of_x.to_dtype(grad.dtype())?))
        })?;
        Ok(y.described(op, || [("dim", dim.into())]))
    }

    /// The gradient of the input of softmax or log-softmax, computed from this tensor, its output.
    pub(super) fn softmax_grad(&self, grad: &Tensor, dim: usize, log: bool) -> Result<Tensor> {
        let (g, y) = (grad.read(), self.read());
        Tensor::compute(grad.device(), grad.dtype(), *grad.shape(), |backend, out| {
            backend.softmax_grad(SoftmaxGradArgs { grad: g.view(), y: y.view(), dim, log, out }.checked()?)
        })
    }
}
