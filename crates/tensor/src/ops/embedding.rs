//! `embedding`: looks up rows of a table.

use kiln_backend::{Arguments, Error, IndexSelectArgs, MAX_RANK, Result, Shape};
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
    /// no gradient.
    ///
    /// # Errors
    /// If this is not a floating-point matrix, an index is out of range, or the indices are not integers.
    pub fn embedding(&self, indices: &Tensor, padding: Option<usize>) -> Result<Tensor> {
        const OP: &str = "embedding";
        check::floats(OP, self)?;
        let indices = &check::indices(OP, indices)?;
        check::same_device(OP, self, &[indices])?;
        if self.rank() != 2 || indices.rank() == MAX_RANK {
            return Err(Error::shapes(OP, self.shape(), indices.shape(), "a table [rows, width] and row numbers"));
        }
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
            let sum = Tensor::zeros(own, grad.options())?;
            sum.index_add_(0, &list, &grad.reshape([list.numel(), width])?)?;
            if let Some(row) = padding {
                sum.narrow(0, row, 1)?.zero_()?;
            }
            Ok(one(sum))
        })?;
        Ok(out.noted("embedding", &[self, indices], || []))
    }
}
