//! `embedding`: looks up rows of a table; `embedding_renorm_` shortens them.

use kiln_backend::{Arguments, DType, Error, IndexSelectArgs, MAX_RANK, Result, Shape};
use kiln_derive::located;
use smallvec::SmallVec;

use super::check;
use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// The rows of this table `[rows, width]` at `indices` (integers, of any shape): `[…, width]`. Row `padding` gets
    /// no gradient. With `scale_grad_by_freq`, the gradient of a row is divided by the number of times that it was looked up
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.embedding.html>).
    ///
    /// # Errors
    /// If this is not a floating-point matrix, an index is out of range, or the indices are not integers.
    pub fn embedding(&self, indices: &Tensor, padding: Option<usize>, scale_grad_by_freq: bool) -> Result<Tensor> {
        const OP: &str = "embedding";
        let indices = &self.row_numbers(OP, indices)?;
        let (rows, width) = self.dims2()?;
        if let Some(row) = padding.filter(|&row| row >= rows) {
            return Err(Error::index(OP, row as i64, rows, "the rows"));
        }
        let list = no_grad(|| indices.reshape([indices.numel()]))?;
        let mut dims: SmallVec<[usize; MAX_RANK]> = indices.dims().into();
        dims.push(width);
        let (x, numbers) = (self.read(), list.read());
        let out = Tensor::compute(self.device(), self.dtype(), Shape::new(&[list.numel(), width])?, |backend, out| {
            backend.index_select(IndexSelectArgs { x: x.view(), dim: 0, index: numbers.view(), out }.checked()?)
        })
        .map_err(|error| error.of_op(OP))?;
        drop((x, numbers));
        let own = *self.shape();
        let out = record(out.with_shape(Shape::new(&dims)?), "EmbeddingBackward0", &[self], &[&list], move |ctx| {
            let (grad, list) = (ctx.grad()?, ctx.saved(0)?);
            let each = grad.reshape([list.numel(), width])?;
            let sum = if scale_grad_by_freq {
                let each = each.widened()?.mul(&shares(&list, rows, each.dtype().accumulator())?)?;
                let sum = Tensor::zeros(own, each.options())?;
                sum.index_add_(0, &list, &each)?;
                sum.to_dtype(grad.dtype())?
            } else {
                let sum = Tensor::zeros(own, grad.options())?;
                sum.index_add_(0, &list, &each)?;
                sum
            };
            if let Some(row) = padding {
                sum.narrow(0, row, 1)?.zero_()?;
            }
            Ok(one(sum))
        })?;
        Ok(out.noted("embedding", &[self, indices], || []))
    }

    /// Shortens the rows of this table `[rows, width]` at `indices` (integers, of any shape) whose norm of order `norm_type` is
    /// above `max_norm` to that length, in place, as an embedding with `max_norm` does before it looks them up. Nothing is
    /// recorded.
    ///
    /// # Errors
    /// If this is not a floating-point matrix, an index is out of range, the indices are not integers, `norm_type` is not
    /// positive, or `max_norm` is negative.
    pub fn embedding_renorm_(
        &self,
        indices: &Tensor,
        max_norm: impl Into<f64>,
        norm_type: impl Into<f64>,
    ) -> Result<()> {
        const OP: &str = "embedding_renorm_";
        let indices = self.row_numbers(OP, indices)?;
        let (max_norm, norm_type): (f64, f64) = (max_norm.into(), norm_type.into());
        no_grad(|| {
            let list = indices.flatten_all()?;
            let rows = self.index_select(0, &list)?.renorm(norm_type, 0, max_norm)?.to_dtype(self.dtype())?;
            // A row that is listed twice is written twice, the same both times.
            self.index_put_(&list, &rows, false)
        })
        .map_err(|error| error.of_op(OP))
    }

    /// Row numbers as `i64`, if this is a table and they are of its rows' kind.
    fn row_numbers(&self, op: &'static str, indices: &Tensor) -> Result<Tensor> {
        check::floats(op, self)?;
        let indices = check::indices(op, indices)?;
        check::same_device(op, self, &[&indices])?;
        if self.rank() != 2 || indices.rank() == MAX_RANK {
            return Err(Error::shapes(op, self.shape(), indices.shape(), "a table [rows, width] and row numbers"));
        }
        Ok(indices)
    }
}

/// For each row number `1 / n`, if the list has it `n` times: `[numbers, 1]`.
pub(super) fn shares(list: &Tensor, rows: usize, dtype: DType) -> Result<Tensor> {
    no_grad(|| {
        let counts = Tensor::zeros([rows], (dtype, list.device()))?;
        counts.index_add_(0, list, &Tensor::ones([list.numel()], counts.options())?)?;
        counts.index_select(0, list)?.reciprocal()?.unsqueeze(1)
    })
}
