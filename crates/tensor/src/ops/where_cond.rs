//! `where_cond`: chooses between two operands by a mask.

use kiln_backend::{Arguments, DType, Error, Result, Scalar, Shape, WhereCondArgs};
use kiln_derive::located;
use smallvec::SmallVec;

use super::{check, promotion::result_type, rhs::Rhs};
use crate::{autograd::record, tensor::Tensor};

#[located]
impl Tensor {
    /// `a` where this `bool` tensor is true, `b` elsewhere: PyTorch's `torch.where(self, a, b)`. All three broadcast;
    /// `a` and `b` may be numbers. Different dtypes of `a` and `b` are promoted by PyTorch's rules.
    /// # Errors
    /// If this tensor is not `bool`, the shapes do not broadcast, or devices differ.
    pub fn where_cond(&self, a: impl Into<Rhs>, b: impl Into<Rhs>) -> Result<Tensor> {
        const OP: &str = "where_cond";
        let (a, b) = (a.into(), b.into());
        if self.dtype() != DType::Bool {
            return Err(Error::dtype(OP, self.dtype(), "the condition is bool; compare, or convert with `to_dtype`"));
        }
        let dtype = result_type(&[&a, &b]);
        let (a, b) = (a.to_dtype(dtype)?, b.to_dtype(dtype)?);
        let tensors: SmallVec<[&Tensor; 2]> = [a.tensor(), b.tensor()].into_iter().flatten().collect();
        if let Some((first, rest)) = tensors.split_first() {
            check::same_device(OP, first, rest)?;
            check::same_device(OP, first, &[self])?;
        }
        let mut shape = *self.shape();
        for tensor in &tensors {
            shape = Shape::broadcast(OP, &shape, tensor.shape())?;
        }
        let out = self.choose(&a, &b, &shape, dtype)?;
        let shapes = [a.tensor(), b.tensor()].map(|t| t.map(|t| *t.shape()));
        let out = record(out, "WhereBackward0", &tensors, &[self], move |ctx| {
            let (grad, condition) = (ctx.grad()?, ctx.saved(0)?);
            let zero = Rhs::Scalar(Scalar::Int(0));
            let mut grads = SmallVec::new();
            for (is_a, shape) in [(true, shapes[0]), (false, shapes[1])] {
                let Some(shape) = shape else { continue };
                let input = grads.len();
                grads.push(ctx.when(input, || {
                    let value = Rhs::from(&grad);
                    let (a, b) = if is_a { (&value, &zero) } else { (&zero, &value) };
                    let chosen = if ctx.create_graph {
                        condition.where_cond(a, b)?
                    } else {
                        condition.choose(a, b, grad.shape(), grad.dtype())?
                    };
                    chosen.sum_to(&shape)
                })?);
            }
            Ok(grads)
        })?;
        let mut inputs: SmallVec<[&Tensor; 3]> = smallvec::smallvec![self];
        inputs.extend(tensors);
        Ok(match [a.scalar(), b.scalar()] {
            [Some(a), Some(b)] => out.noted(OP, &inputs, || [("lhs", a.into()), ("rhs", b.into())]),
            [Some(a), _] => out.noted(OP, &inputs, || [("lhs", a.into())]),
            [_, Some(b)] => out.noted(OP, &inputs, || [("rhs", b.into())]),
            [None, None] => out.noted(OP, &inputs, || []),
        })
    }

    fn choose(&self, a: &Rhs, b: &Rhs, shape: &Shape, dtype: DType) -> Result<Tensor> {
        let (condition, layout) = (self.read(), self.layout().expand("where_cond", shape)?);
        let (a, b) = (a.lock("where_cond", shape)?, b.lock("where_cond", shape)?);
        Tensor::compute(self.device(), dtype, *shape, |backend, out| {
            backend.where_cond(
                WhereCondArgs { condition: condition.through(&layout), a: a.operand(), b: b.operand(), out }
                    .checked()?,
            )
        })
    }
}
