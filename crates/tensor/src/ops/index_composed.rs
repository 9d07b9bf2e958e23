//! Writing by index, composed of other operations: `index_fill`, `index_copy`, `masked_scatter`, `take`, `put`,
//! `diag_embed`, `diagonal_scatter`, `select_scatter`, `slice_scatter`.

use kiln_backend::{DType, Dim, Error, Result};
use kiln_derive::located;

use super::{check, pad::PadMode, rhs::Rhs};
use crate::{
    autograd::{no_grad, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A copy in which the slices along `dim` that a vector of integers names are filled with a number, or with a
    /// tensor without dimensions (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.index_fill.html>).
    ///
    /// # Errors
    /// If the dimension or an index is out of range, the index is no vector of integers, or the value has dimensions.
    pub fn index_fill(&self, dim: impl Dim, index: &Tensor, value: impl Into<Rhs>) -> Result<Tensor> {
        const OP: &str = "index_fill";
        let value = value.into();
        if let Rhs::Tensor(tensor) = &value {
            check::same_device(OP, self, &[tensor])?;
            if tensor.rank() > 0 {
                return Err(Error::shape(OP, "a value without dimensions", tensor.shape()));
            }
        }
        let value = match value {
            Rhs::Tensor(tensor) => Rhs::Tensor(tensor.to_dtype(self.dtype())?),
            number => number,
        };
        let (dim, index) = self.listed(OP, dim, index)?;
        let extent = self.dims().get(dim).copied().unwrap_or(1);
        let named = no_grad(|| {
            let counts = Tensor::zeros([extent], (DType::I64, self.device()))?;
            counts.index_add(0, &index, &Tensor::ones([index.numel()], counts.options())?)?.gt(0)
        })?;
        if self.rank() == 0 {
            return self.masked_fill(&named.reshape(())?, value);
        }
        let mut shape = vec![1; self.rank()];
        shape[dim] = extent;
        self.masked_fill(&named.reshape(shape)?, value)
    }

    /// A copy in which slice `index[i]` along `dim` is slice `i` of `source`. If an index occurs twice, the last one counts,
    /// and the gradient goes to each of them, as in PyTorch
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.index_copy.html>).
    ///
    /// # Errors
    /// If the dimension or an index is out of range, the index is no vector of integers, the shapes do not fit, or
    /// dtypes or devices differ.
    pub fn index_copy(&self, dim: impl Dim, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        const OP: &str = "index_copy";
        check::same_kind(OP, self, &[source])?;
        let (dim, index) = self.listed(OP, dim, index)?;
        if self.rank() == 0 {
            if source.numel() != 1 || index.numel() != 1 {
                return Err(Error::shapes(OP, self.shape(), source.shape(), "one element"));
            }
            return self.reshape([1])?.index_copy(0, &index, &source.reshape([1])?)?.reshape(());
        }
        let expected = self.shape().with_dim(dim, index.numel())?;
        if *source.shape() != expected {
            return Err(Error::shapes(OP, self.shape(), source.shape(), format!("the second must be {expected}")));
        }
        let mut shape = vec![1; self.rank()];
        shape[dim] = index.numel();
        let out = no_grad(|| self.scatter(dim, &index.reshape(&shape[..])?.expand(source.dims())?, source))?;
        let copied = *source.shape();
        record(out, "IndexCopyBackward0", &[self, source], &[&index], move |ctx| {
            let (grad, index) = (ctx.grad()?, ctx.saved(0)?);
            // Where there is nothing to copy, the index has not been looked at.
            let is_empty = grad.numel() == 0 || copied.numel() == 0;
            Ok(smallvec::smallvec![
                ctx.when(0, || if is_empty { Ok(grad.clone()) } else { grad.index_fill(dim, &index, 0) })?,
                ctx.when(1, || if is_empty {
                    Tensor::zeros(copied, grad.options())
                } else {
                    grad.index_select(dim, &index)
                })?
            ])
        })
    }

    /// The dimension, and the index as a vector of `i64`.
    pub(super) fn listed(&self, op: &'static str, dim: impl Dim, index: &Tensor) -> Result<(usize, Tensor)> {
        let dim = dim.resolve(op, self.rank())?;
        let index = check::indices(op, index)?;
        check::same_device(op, self, &[&index])?;
        if index.rank() > 1 {
            return Err(Error::shape(op, "a vector of indices", index.shape()));
        }
        Ok((dim, index.flatten_all()?))
    }

    /// A copy in which the elements where the mask is true are those of `source`, in order; the mask broadcasts
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.masked_scatter.html>).
    ///
    /// # Errors
    /// If the mask is not `bool` or does not broadcast with the tensor, `source` has too few elements, or dtypes or devices
    /// differ.
    pub fn masked_scatter(&self, mask: &Tensor, source: &Tensor) -> Result<Tensor> {
        const OP: &str = "masked_scatter";
        check::mask(OP, mask)?;
        check::same_kind(OP, self, &[source])?;
        let shape = kiln_backend::Shape::broadcast(OP, self.shape(), mask.shape())?;
        let (x, mask) = (self.expand(shape.dims())?, mask.expand(shape.dims())?);
        if source.numel() == 0 || x.numel() == 0 {
            if x.numel() > 0 && mask.any(())?.item::<bool>()? {
                return Err(Error::shapes(OP, self.shape(), source.shape(), "an element for each that is masked"));
            }
            return x.copy();
        }
        let places = no_grad(|| mask.flatten_all()?.cumsum(0)?.sub(1)?.clamp_min(0))?;
        let values = source.flatten_all()?.index_select(0, &places)?.reshape(shape.dims())?;
        mask.where_cond(&values, &x)
    }

    /// The elements at these positions in row-major order, in the shape of the index
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.take.html>).
    ///
    /// # Errors
    /// If an index is out of range or not an integer, or devices differ.
    pub fn take(&self, index: &Tensor) -> Result<Tensor> {
        let index = check::indices("take", index)?;
        self.flatten_all()?.take_along_dim(&index.flatten_all()?, 0)?.reshape(index.dims())
    }

    /// A copy in which the elements at these positions in row-major order are those of `source`, or have them added
    /// (`accumulate`) (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.put_.html>).
    ///
    /// # Errors
    /// If an index is out of range or not an integer, there are more or fewer elements than indices, or dtypes or
    /// devices differ.
    pub fn put(&self, index: &Tensor, source: &Tensor, accumulate: bool) -> Result<Tensor> {
        const OP: &str = "put";
        let index = check::indices(OP, index)?;
        check::same_kind(OP, self, &[source])?;
        if index.numel() != source.numel() {
            return Err(Error::shapes(OP, index.shape(), source.shape(), "an element for each index"));
        }
        let written = self.flatten_all()?.index_put(index.flatten_all()?, &source.flatten_all()?, accumulate)?;
        written.reshape(self.dims())
    }

    /// Matrices with the last dimension as diagonal number `offset` and zeros elsewhere, in dimensions `dim1` and
    /// `dim2` of the result (<https://docs.pytorch.org/docs/stable/generated/torch.diag_embed.html>).
    ///
    /// # Errors
    /// If the tensor is a scalar or has 8 dimensions, or a dimension is out of range or both are the same.
    pub fn diag_embed(&self, offset: i64, dim1: impl Dim, dim2: impl Dim) -> Result<Tensor> {
        const OP: &str = "diag_embed";
        let Some(&n) = self.dims().last() else {
            return Err(Error::shape(OP, "at least 1 dimension", self.shape()));
        };
        let (dim1, dim2) = (dim1.resolve(OP, self.rank() + 1)?, dim2.resolve(OP, self.rank() + 1)?);
        if dim1 == dim2 {
            return Err(Error::argument(OP, format!("both dimensions are {dim1}")));
        }
        let (beside, size) = (offset.unsigned_abs() as usize, n.saturating_add(offset.unsigned_abs() as usize));
        // Element `i` is in row `i`, or `i - offset` if that is below the main diagonal.
        let sides = if offset < 0 { [beside as i64, 0] } else { [0, beside as i64] };
        let rows = self.pad(&sides, PadMode::Constant(0.0))?.unsqueeze(-1)?;
        let on_diagonal = no_grad(|| {
            let along = Tensor::arange(0, size as i64, (DType::I64, self.device()))?;
            along.unsqueeze(0)?.sub(&along.unsqueeze(1)?)?.eq(offset)
        })?;
        let zero = Tensor::zeros((), self.options())?;
        let matrices = on_diagonal.where_cond(&rows, &zero)?;
        // The dimensions of the matrices go to their places, the others keep their order.
        let (mut order, mut others) = (Vec::new(), 0..self.rank() - 1);
        for dim in 0..=self.rank() {
            let from = match dim {
                _ if dim == dim1 => self.rank() - 1,
                _ if dim == dim2 => self.rank(),
                _ => others.next().unwrap_or(0),
            };
            order.push(from);
        }
        matrices.permute(order)
    }

    /// The matrix with all elements as diagonal number `offset` and zeros elsewhere
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.diagflat.html>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn diagflat(&self, offset: i64) -> Result<Tensor> {
        self.flatten_all()?.diag(offset)
    }

    /// A copy whose [`diagonal`](Tensor::diagonal) is `src`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.diagonal_scatter.html>).
    ///
    /// # Errors
    /// Those of [`diagonal`](Tensor::diagonal); or if `src` has another shape than it, or dtypes or devices differ.
    pub fn diagonal_scatter(&self, src: &Tensor, offset: i64, dim1: impl Dim, dim2: impl Dim) -> Result<Tensor> {
        self.with_view("diagonal_scatter", src, |copy| copy.diagonal(offset, dim1, dim2))
    }

    /// A copy in which [`select(dim, index)`](Tensor::select) is `src`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.select_scatter.html>).
    ///
    /// # Errors
    /// Those of [`select`](Tensor::select); or if `src` has another shape than it, or dtypes or devices differ.
    pub fn select_scatter(&self, src: &Tensor, dim: impl Dim, index: i64) -> Result<Tensor> {
        self.with_view("select_scatter", src, |copy| copy.select(dim, index))
    }

    /// A copy in which [`slice(dim, start, end, step)`](Tensor::slice) is `src`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.slice_scatter.html>).
    ///
    /// # Errors
    /// Those of [`slice`](Tensor::slice); or if `src` has another shape than it, or dtypes or devices differ.
    pub fn slice_scatter(&self, src: &Tensor, dim: impl Dim, start: i64, end: i64, step: usize) -> Result<Tensor> {
        self.with_view("slice_scatter", src, |copy| copy.slice(dim, start, end, step))
    }

    /// A copy in which a view is overwritten.
    fn with_view(
        &self,
        op: &'static str,
        src: &Tensor,
        view: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        check::same_kind(op, self, &[src])?;
        let copy = self.copy()?;
        let part = view(&copy)?;
        if part.shape() != src.shape() {
            return Err(Error::shapes(
                op,
                part.shape(),
                src.shape(),
                "the source must have the shape of what it replaces",
            ));
        }
        part.copy_(src)?;
        Ok(copy)
    }
}
