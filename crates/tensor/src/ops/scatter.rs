//! Writing by index tensors: `scatter`, `scatter_add`, `index_add`, and their in-place forms.

use kiln_backend::{
    Arguments, BinaryOp, DType, Dim, Error, IndexAddArgs, Operand, Result, Scalar, ScatterArgs, ScatterMode, Shape,
};
use kiln_derive::located;
use smallvec::smallvec;

use super::{
    check,
    gather::{check_fits, check_list, lifted},
    rhs::Rhs,
};
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, record},
    storage::lock_for_update,
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A copy in which the elements that `index` (integers) selects are replaced by those of `src`, a tensor or a
    /// number: `out[index[i, j], j] = src[i, j]` for dimension 0, `out[i, index[i, j]] = src[i, j]` for dimension 1,
    /// and so on, over the shape of `index`. The index has this tensor's rank; its extents are no larger than those of
    /// `src`, nor than this tensor's except in dimension `dim`. Where an index repeats, the last element in row-major
    /// order wins.
    ///
    /// # Errors
    /// If the dimension or an index is out of range, the shapes do not fit, the index is not of integers, or dtypes or
    /// devices differ.
    pub fn scatter(&self, dim: impl Dim, index: &Tensor, src: impl Into<Rhs>) -> Result<Tensor> {
        let src = src.into();
        let (dim, index) = self.check_scatter("scatter", dim, index, &src)?;
        let index = &index;
        let out = no_grad(|| self.copy())?;
        out.write_scatter("scatter", ScatterMode::Set, dim, index, &src)?;
        match src.tensor() {
            None => {
                let out = record(out, "ScatterBackward1", &[self], &[index], move |ctx| {
                    Ok(smallvec![Some(ctx.grad()?.scatter(dim, &ctx.saved(0)?, 0)?)])
                })?;
                let value = src.scalar().unwrap_or(Scalar::Int(0));
                Ok(out.noted("scatter", &[self, index], || [("dim", dim.into()), ("value", value.into())]))
            }
            Some(source) => {
                let shape = *source.shape();
                let out = record(out, "ScatterBackward0", &[self, source], &[index], move |ctx| {
                    let (grad, index) = (ctx.grad()?, ctx.saved(0)?);
                    let rest = ctx.when(0, || grad.scatter(dim, &index, 0))?;
                    let source = ctx.when(1, || {
                        let stayed = last_writers(grad.shape(), dim, &index)?;
                        pad_to(&shape, &grad.gather(dim, &index)?.keep_where(&stayed)?)
                    })?;
                    Ok(smallvec![rest, source])
                })?;
                Ok(out.noted("scatter", &[self, index, source], || [("dim", dim.into())]))
            }
        }
    }

    /// [`scatter`](Tensor::scatter) in place: `zeros(10).scatter_(0, &label, 1)` is a one-hot vector.
    ///
    /// # Errors
    /// Those of [`scatter`](Tensor::scatter); or if the tensor is a leaf that requires gradients while recording is on.
    pub fn scatter_(&self, dim: impl Dim, index: &Tensor, src: impl Into<Rhs>) -> Result<()> {
        let src = src.into();
        let (dim, index) = self.check_scatter("scatter_", dim, index, &src)?;
        let index = &index;
        if self.records_change("scatter_", src.tensor())? {
            return self.replace_by("scatter_", &self.scatter(dim, index, src)?);
        }
        self.write_scatter("scatter_", ScatterMode::Set, dim, index, &src)
    }

    /// A copy to which the elements of `src` are added at the positions where [`scatter`](Tensor::scatter) would write
    /// them. Repeated indices add up, in row-major order.
    ///
    /// # Errors
    /// Those of [`scatter`](Tensor::scatter).
    pub fn scatter_add(&self, dim: impl Dim, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        cast_operands("scatter_add", [self, src], [], |[x, src], []| x.scatter_add_no_autocast(dim, index, src))
    }

    fn scatter_add_no_autocast(&self, dim: impl Dim, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        let (dim, index) = self.check_scatter("scatter_add", dim, index, &src.into())?;
        let index = &index;
        let out = no_grad(|| self.copy())?;
        out.write_scatter("scatter_add", ScatterMode::Add, dim, index, &src.into())?;
        let shape = *src.shape();
        let out = record(out, "ScatterAddBackward0", &[self, src], &[index], move |ctx| {
            let grad = ctx.grad()?;
            let source = ctx.when(1, || pad_to(&shape, &grad.gather(dim, &ctx.saved(0)?)?))?;
            Ok(smallvec![Some(grad), source])
        })?;
        Ok(out.noted("scatter_add", &[self, index, src], || [("dim", dim.into())]))
    }

    /// [`scatter_add`](Tensor::scatter_add) in place.
    ///
    /// # Errors
    /// Those of [`scatter`](Tensor::scatter); or if the tensor is a leaf that requires gradients while recording is on.
    pub fn scatter_add_(&self, dim: impl Dim, index: &Tensor, src: &Tensor) -> Result<()> {
        let (dim, index) = self.check_scatter("scatter_add_", dim, index, &src.into())?;
        let index = &index;
        if self.records_change("scatter_add_", Some(src))? {
            return self.replace_by("scatter_add_", &self.scatter_add(dim, index, src)?);
        }
        self.write_scatter("scatter_add_", ScatterMode::Add, dim, index, &src.into())
    }

    /// A copy in which slice `i` of `source` along `dim` is added to slice `index[i]`. `index` is a vector of integers;
    /// repeated indices add up, in order.
    ///
    /// # Errors
    /// If the dimension or an index is out of range; the shapes do not fit (`source` has this tensor's, but in `dim`
    /// the index's extent); or dtypes or devices differ.
    pub fn index_add(&self, dim: impl Dim, index: &Tensor, source: &Tensor) -> Result<Tensor> {
        let (dim, index) = self.check_index_add("index_add", dim, index, source)?;
        let index = &index;
        let out = no_grad(|| self.copy())?;
        out.write_index_add("index_add", dim, index, source)?;
        let out = record(out, "IndexAddBackward0", &[self, source], &[index], move |ctx| {
            let grad = ctx.grad()?;
            let source = ctx.when(1, || grad.index_select(dim, &ctx.saved(0)?))?;
            Ok(smallvec![Some(grad), source])
        })?;
        Ok(out.noted("index_add", &[self, index, source], || [("dim", dim.into())]))
    }

    /// [`index_add`](Tensor::index_add) of `alpha` times `source`.
    ///
    /// # Errors
    /// Those of [`index_add`](Tensor::index_add); or if `alpha` is a float and the tensors are integers.
    pub fn index_add_alpha(
        &self,
        dim: impl Dim,
        index: &Tensor,
        source: &Tensor,
        alpha: impl Into<Scalar>,
    ) -> Result<Tensor> {
        self.index_add(dim, index, &scaled("index_add_alpha", source, alpha.into())?)
    }

    /// [`index_add`](Tensor::index_add) in place.
    ///
    /// # Errors
    /// Those of [`index_add`](Tensor::index_add); or if the tensor is a leaf that requires gradients while recording is
    /// on.
    pub fn index_add_(&self, dim: impl Dim, index: &Tensor, source: &Tensor) -> Result<()> {
        let (dim, index) = self.check_index_add("index_add_", dim, index, source)?;
        let index = &index;
        if self.records_change("index_add_", Some(source))? {
            return self.replace_by("index_add_", &self.index_add(dim, index, source)?);
        }
        self.write_index_add("index_add_", dim, index, source)
    }

    /// Checks the arguments, and returns the dimension and the index as `i64`.
    pub(super) fn check_scatter(
        &self,
        op: &'static str,
        dim: impl Dim,
        index: &Tensor,
        src: &Rhs,
    ) -> Result<(usize, Tensor)> {
        let dim = dim.resolve(op, self.rank())?;
        let index = check::indices(op, index)?;
        check::same_device(op, self, &[&index])?;
        check_fits(op, index.shape(), self.shape(), Some(dim))?;
        if let Some(source) = src.tensor() {
            check::same_kind(op, self, &[source])?;
            check_fits(op, index.shape(), source.shape(), None)?;
        }
        Ok((dim, index))
    }

    /// Checks the arguments, and returns the dimension and the index as `i64`.
    fn check_index_add(
        &self,
        op: &'static str,
        dim: impl Dim,
        index: &Tensor,
        source: &Tensor,
    ) -> Result<(usize, Tensor)> {
        let dim = dim.resolve(op, self.rank())?;
        let index = check_list(op, self, index)?;
        if self.rank() == 0 && source.rank() == 0 && index.numel() == 1 {
            check::same_kind(op, self, &[source])?;
            return Ok((0, index));
        }
        self.real_dim(op, dim)?;
        check::same_kind(op, self, &[source])?;
        let expected = self.shape().with_dim(dim, index.numel())?;
        if *source.shape() != expected {
            return Err(Error::shapes(op, self.shape(), source.shape(), format!("the second must be {expected}")));
        }
        Ok((dim, index))
    }

    pub(super) fn write_scatter(
        &self,
        op: &'static str,
        mode: ScatterMode,
        dim: usize,
        index: &Tensor,
        src: &Rhs,
    ) -> Result<()> {
        if index.numel() == 0 {
            return Ok(());
        }
        let index = unshared(index, self)?;
        let (target, places) = (lifted(self.layout())?, lifted(index.layout())?);
        let source = src.tensor().map(|t| unshared(t, self)).transpose()?;
        let from = source.as_ref().map(|t| lifted(t.layout())).transpose()?;
        let source = source.as_ref().zip(from.as_ref()).map(|(t, layout)| (&*t.0.storage, layout));
        let (mut writing, readings) =
            lock_for_update((&self.0.storage, &target), [Some((&*index.0.storage, &places)), source]);
        if let [Some(list), source] = &readings {
            let operand = match (source, src) {
                (Some(source), _) => Operand::Tensor(source.view()),
                (None, Rhs::Scalar(value)) => Operand::Scalar(*value),
                (None, Rhs::Tensor(_)) => return Ok(()),
            };
            let args = ScatterArgs { mode, x: operand, dim, index: list.view(), out: writing.view() };
            args.checked().and_then(|args| self.0.storage.backend.scatter(args)).map_err(|error| error.of_op(op))?;
        }
        drop(writing);
        self.0.storage.bump_version();
        Ok(())
    }

    fn write_index_add(&self, op: &'static str, dim: usize, index: &Tensor, source: &Tensor) -> Result<()> {
        let (index, source) = (unshared(index, self)?, unshared(source, self)?);
        // A scalar is treated as a vector of one element.
        let (target, places, from) = (lifted(self.layout())?, lifted(index.layout())?, lifted(source.layout())?);
        let (mut writing, readings) = lock_for_update(
            (&self.0.storage, &target),
            [Some((&*index.0.storage, &places)), Some((&*source.0.storage, &from))],
        );
        if let [Some(list), Some(source)] = &readings {
            let args = IndexAddArgs { x: source.view(), dim, index: list.view(), out: writing.view() };
            args.checked().and_then(|args| self.0.storage.backend.index_add(args)).map_err(|error| error.of_op(op))?;
        }
        drop(writing);
        self.0.storage.bump_version();
        Ok(())
    }
}

/// `alpha` times the tensor, which keeps its dtype.
fn scaled(op: &'static str, tensor: &Tensor, alpha: Scalar) -> Result<Tensor> {
    if alpha.is_float() && !tensor.dtype().is_float() {
        return Err(Error::dtype(op, tensor.dtype(), "a floating-point `alpha` needs floating-point tensors"));
    }
    tensor.mul(alpha)
}

/// `tensor`, or a copy if it shares the memory that is about to be written.
fn unshared(tensor: &Tensor, target: &Tensor) -> Result<Tensor> {
    if tensor.shares_memory(target) { no_grad(|| tensor.copy()) } else { Ok(tensor.clone()) }
}

/// For each element of `index`, whether the value that it wrote remained: of those with the same target, the last
/// one's.
fn last_writers(shape: &Shape, dim: usize, index: &Tensor) -> Result<Tensor> {
    let options = index.options().dtype(DType::I64);
    let numbers = Tensor::arange(0, index.numel(), options)?.reshape(index.shape())?;
    Tensor::zeros(shape, options)?.scatter(dim, index, &numbers)?.gather(dim, index)?.eq(&numbers)
}

/// `grad` placed at the start of zeros of `shape`.
fn pad_to(shape: &Shape, grad: &Tensor) -> Result<Tensor> {
    if grad.shape() == shape {
        return Ok(grad.clone());
    }
    let out = Tensor::zeros(shape, grad.options())?;
    if grad.numel() > 0 {
        let mut corner = lifted(out.layout())?;
        // A scalar index counts as a vector of one.
        for dim in 0..corner.rank() {
            corner = corner.slice(dim, 0, grad.dims().get(dim).copied().unwrap_or(1), 1);
        }
        let corner = out.alias(corner);
        corner.assign(BinaryOp::Add, &grad.reshape(corner.shape())?)?;
    }
    Ok(out)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::{DType, Result};

    #[test]
    fn a_one_hot_vector() -> Result<()> {
        let y = Tensor::zeros(4, Device::Cpu)?;
        y.scatter_(0, &Tensor::new(2i64, Device::Cpu)?, 1)?;
        assert_eq!(y.to_vec::<f32>()?, [0., 0., 1., 0.]);
        assert!(y.scatter_(0, &Tensor::new(4i64, Device::Cpu)?, 1).is_err());
        assert!(y.scatter_(0, &Tensor::zeros([2, 2], DType::I64)?, 1).is_err());
        Ok(())
    }

    #[test]
    fn gradients_go_to_what_stayed() -> Result<()> {
        let x = Tensor::zeros([2, 3], Device::Cpu)?.requires_grad_(true)?;
        let src = Tensor::new(&[[1f32, 2., 9.], [3., 4., 9.]], Device::Cpu)?.requires_grad_(true)?;
        let index = Tensor::new(&[[0i64, 0], [2, 1]], Device::Cpu)?;
        let y = x.scatter(1, &index, &src)?;
        assert_eq!(y.to_vec::<f32>()?, [2., 0., 0., 0., 4., 3.]);
        y.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 1., 1., 1., 0., 0.]);
        assert_eq!(src.grad().unwrap().to_vec::<f32>()?, [0., 1., 0., 1., 1., 0.]);
        Ok(())
    }

    #[test]
    fn adding_adds_up() -> Result<()> {
        let x = Tensor::ones([3], Device::Cpu)?.requires_grad_(true)?;
        let src = Tensor::new(&[1f32, 2., 4.], Device::Cpu)?.requires_grad_(true)?;
        let index = Tensor::new(&[2i64, 2, 0], Device::Cpu)?;
        let y = x.scatter_add(0, &index, &src)?;
        assert_eq!(y.to_vec::<f32>()?, [5., 1., 4.]);
        let z = x.index_add(0, &index, &src)?;
        assert_eq!(z.to_vec::<f32>()?, [5., 1., 4.]);
        y.add(&z)?.sum(())?.backward()?;
        assert_eq!(src.grad().unwrap().to_vec::<f32>()?, [2., 2., 2.]);
        // In place, from its own memory, with history.
        let w = x.mul(1)?;
        w.scatter_add_(0, &index, &w)?;
        assert_eq!(w.to_vec::<f32>()?, [2., 1., 3.]);
        assert_eq!(w.grad_fn().unwrap().name(), "ScatterAddBackward0");
        Ok(())
    }
}
