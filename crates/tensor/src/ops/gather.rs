//! Reading by index tensors: `index_select`, `gather`, `take_along_dim`.

use kiln_backend::{Arguments, Dim, Error, GatherArgs, IndexSelectArgs, Layout, Result, Shape};
use kiln_derive::located;

use super::{check, one_or_all::OneOrAll};
use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// The slices of a dimension at the positions in `index`, a vector (or scalar) of integers; the dimension gets the
    /// index's extent. Indices may repeat; negative ones are an error, as in PyTorch (but [`i`](Tensor::i) accepts
    /// them). A scalar has one slice, itself.
    ///
    /// # Errors
    /// If the dimension or an index is out of range, or the index is not of integers or has more than 1 dimension.
    pub fn index_select(&self, dim: impl Dim, index: &Tensor) -> Result<Tensor> {
        self.index_select_as("index_select", "IndexSelectBackward0", dim, index)
    }

    pub(super) fn index_select_as(
        &self,
        op: &'static str,
        node: &'static str,
        dim: impl Dim,
        index: &Tensor,
    ) -> Result<Tensor> {
        if self.rank() == 0 && index.numel() == 1 {
            dim.resolve(op, 0)?;
            return self.reshape([1])?.index_select_as(op, node, 0, index)?.reshape(());
        }
        let dim = self.real_dim(op, dim)?;
        let index = &check_list(op, self, index)?;
        let shape = self.shape().with_dim(dim, index.numel())?;
        let (x, list) = (self.read(), index.read());
        let list_layout = lifted(index.layout())?;
        let out = Tensor::compute(self.device(), self.dtype(), shape, |backend, out| {
            backend
                .index_select(IndexSelectArgs { x: x.view(), dim, index: list.through(&list_layout), out }.checked()?)
        })
        .map_err(|error| error.of_op(op))?;
        let own = *self.shape();
        let out = record(out, node, &[self], &[index], move |ctx| {
            let grad = ctx.grad()?;
            let sum = Tensor::zeros(own, grad.options())?;
            sum.index_add_(dim, &ctx.saved(0)?, &grad)?;
            Ok(one(sum))
        })?;
        Ok(out.noted("index_select", &[self, index], || [("dim", dim.into())]))
    }

    /// Takes one element for each element of `index` (integers): `out[i, j] = x[index[i, j], j]` for dimension 0, `x[i,
    /// index[i, j]]` for dimension 1, and so on. The result has the shape of the index, which has this tensor's rank
    /// and no larger extents except in dimension `dim`.
    ///
    /// # Errors
    /// If the dimension or an index is out of range, the shapes do not fit, or the index is not of integers.
    pub fn gather(&self, dim: impl Dim, index: &Tensor) -> Result<Tensor> {
        self.gather_as("gather", dim.resolve("gather", self.rank())?, index)
    }

    fn gather_as(&self, op: &'static str, dim: usize, index: &Tensor) -> Result<Tensor> {
        let index = &check::indices(op, index)?;
        check::same_device(op, self, &[index])?;
        check_fits(op, index.shape(), self.shape(), Some(dim))?;
        let (from, places) = (lifted(self.layout())?, lifted(index.layout())?);
        let (x, list) = (self.read(), index.read());
        let out = Tensor::compute(self.device(), self.dtype(), *places.shape(), |backend, out| {
            if places.numel() == 0 {
                return Ok(());
            }
            backend.gather(GatherArgs { x: x.through(&from), dim, index: list.through(&places), out }.checked()?)
        })
        .map_err(|error| error.of_op(op))?;
        let own = *self.shape();
        let out = record(out.with_shape(*index.shape()), "GatherBackward0", &[self], &[index], move |ctx| {
            let grad = ctx.grad()?;
            let sum = Tensor::zeros(own, grad.options())?;
            sum.scatter_add_(dim, &ctx.saved(0)?, &grad)?;
            Ok(one(sum))
        })?;
        Ok(out.noted("gather", &[self, index], || [("dim", dim.into())]))
    }

    /// [`gather`](Tensor::gather) with an index that broadcasts with this tensor in the other dimensions, e.g. the
    /// result of [`argsort`](Tensor::argsort) or [`argmax_keepdim`](Tensor::argmax_keepdim). Negative indices count
    /// from the end. If `dim` is `()`, both are flattened in row-major order.
    ///
    /// # Errors
    /// If the dimension or an index is out of range, or the shapes do not broadcast.
    pub fn take_along_dim(&self, index: &Tensor, dim: impl OneOrAll) -> Result<Tensor> {
        const OP: &str = "take_along_dim";
        let Some(dim) = dim.dim() else {
            return self.flatten_all()?.take_along_dim(&index.flatten_all()?, 0);
        };
        let dim = self.real_dim(OP, dim)?;
        let index = &check::indices(OP, index)?;
        check::same_device(OP, self, &[index])?;
        if index.rank() != self.rank() {
            return Err(Error::shapes(OP, self.shape(), index.shape(), "the ranks must be equal"));
        }
        let (own, places) = (self.dims()[dim], index.dims()[dim]);
        let shape = Shape::broadcast(OP, &self.shape().with_dim(dim, 1)?, &index.shape().with_dim(dim, 1)?)?;
        let from_front = no_grad(|| index.lt(0)?.where_cond(&index.add(own)?, index))?;
        self.expand(shape.with_dim(dim, own)?)?.gather_as(OP, dim, &from_front.expand(shape.with_dim(dim, places)?)?)
    }

    /// The memory of a new contiguous tensor under another shape, not recorded on the tape.
    pub(super) fn with_shape(&self, shape: Shape) -> Tensor {
        if *self.shape() == shape {
            return self.clone();
        }
        Tensor::from_storage(self.0.storage.clone(), Layout::contiguous(shape)).noted("reshape", &[self], || [])
    }
}

/// A scalar as a vector with one element, for primitives that work along a dimension.
pub(super) fn lifted(layout: &Layout) -> Result<Layout> {
    if layout.rank() == 0 { layout.unsqueeze(0) } else { Ok(*layout) }
}

/// `index` as a list of positions; it must have at most 1 dimension.
pub(super) fn check_list(op: &'static str, x: &Tensor, index: &Tensor) -> Result<Tensor> {
    let index = check::indices(op, index)?;
    check::same_device(op, x, &[&index])?;
    if index.rank() > 1 {
        return Err(Error::shape(op, "an index with 1 dimension", index.shape()));
    }
    Ok(index)
}

/// Checks that `index` has the rank of `shape` (a scalar counts as a vector) and no larger extent, except in dimension
/// `free`.
pub(super) fn check_fits(op: &'static str, index: &Shape, shape: &Shape, free: Option<usize>) -> Result<()> {
    let at = |s: &Shape, d: usize| s.get(d).copied().unwrap_or(1);
    let rank = index.rank().max(1);
    let too_large = |d: usize| Some(d) != free && at(index, d) > at(shape, d);
    // An index without elements always fits, as in PyTorch.
    if index.numel() > 0 && (rank != shape.rank().max(1) || (0..rank).any(too_large)) {
        let but = free.map_or_else(String::new, |dim| format!(", except in dimension {dim}"));
        let expected = format!("the index (second) must have the same rank and no larger extent{but}");
        return Err(Error::shapes(op, shape, index, expected));
    }
    Ok(())
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::{DType, Result};

    fn x() -> Result<Tensor> {
        Tensor::arange(0., 6., Device::Cpu)?.reshape([2, 3])?.requires_grad_(true)
    }

    #[test]
    fn index_select_repeats() -> Result<()> {
        let x = x()?;
        let y = x.index_select(-1, &Tensor::new(&[2i64, 2, 0], Device::Cpu)?)?;
        assert_eq!(y.to_vec::<f32>()?, [2., 2., 0., 5., 5., 3.]);
        y.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 0., 2., 1., 0., 2.]);
        assert_eq!(x.index_select(0, &Tensor::new(1i64, Device::Cpu)?)?.dims(), [1, 3]);
        assert_eq!(x.index_select(0, &Tensor::new(&[] as &[i64], Device::Cpu)?)?.dims(), [0, 3]);
        assert!(x.index_select(0, &Tensor::new(&[2i64], Device::Cpu)?).is_err());
        assert!(x.index_select(0, &x).is_err());
        Ok(())
    }

    #[test]
    fn gather_and_its_gradient() -> Result<()> {
        let x = x()?;
        let y = x.gather(1, &Tensor::new(&[[0i64, 0, 2, 1]], Device::Cpu)?)?;
        assert_eq!(y.to_vec::<f32>()?, [0., 0., 2., 1.]);
        y.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [2., 1., 1., 0., 0., 0.]);
        let s = Tensor::new(3f32, Device::Cpu)?;
        assert_eq!(s.gather(0, &Tensor::new(&[0i64, 0], Device::Cpu)?)?.to_vec::<f32>()?, [3., 3.]);
        assert!(x.gather(1, &Tensor::zeros([3, 1], DType::I64)?).is_err());
        let index = Tensor::new(&[[1i64], [0]], Device::Cpu)?;
        assert_eq!(x.take_along_dim(&index, 1)?.to_vec::<f32>()?, [1., 3.]);
        Ok(())
    }
}
