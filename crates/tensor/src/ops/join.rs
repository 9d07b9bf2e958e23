//! Joining tensors: `cat` and `stack`.

use std::borrow::Borrow;

use kiln_backend::{Arguments, CopyArgs, Dim, Error, Layout, MAX_RANK, Result, Shape, ViewMut};
use kiln_derive::located;
use smallvec::SmallVec;

use super::check;
use crate::{autograd::record, tensor::Tensor};

#[located]
impl Tensor {
    /// Concatenates tensors along an existing dimension: `Tensor::cat(&[&a, &b], 0)`. All other extents must be equal.
    /// As in PyTorch, tensors of shape `[0]` are ignored whatever the rank of the others is. Different dtypes are
    /// promoted to one that holds them all: floats over integers, wider over narrower, `f32` for `f16` with `bf16`.
    ///
    /// # Errors
    /// If there are no tensors, or scalars among them; shapes or devices differ; the dimension is out of range.
    pub fn cat(tensors: &[impl Borrow<Tensor>], dim: impl Dim) -> Result<Tensor> {
        let tensors: SmallVec<[&Tensor; 8]> = tensors.iter().map(Borrow::borrow).collect();
        cat(&tensors, dim.number())
    }

    /// Concatenates tensors of the same shape along a new dimension `dim` (at most their rank; -1 appends it). Dtypes
    /// are promoted as in [`cat`](Tensor::cat).
    ///
    /// # Errors
    /// If there are no tensors; shapes or devices differ; the position is out of range.
    pub fn stack(tensors: &[impl Borrow<Tensor>], dim: impl Dim) -> Result<Tensor> {
        let tensors: SmallVec<[&Tensor; 8]> = tensors.iter().map(Borrow::borrow).collect();
        stack(&tensors, dim.number())
    }
}

fn cat(tensors: &[&Tensor], dim: i64) -> Result<Tensor> {
    const OP: &str = "cat";
    let converted = of_one_dtype(OP, tensors)?;
    let all: SmallVec<[&Tensor; 8]> = converted.iter().collect();
    let Some(&any) = all.first() else {
        return Err(Error::argument(OP, "there are no tensors to join"));
    };
    let is_blank = |t: &Tensor| t.dims() == [0];
    let first = all.iter().copied().find(|t| !is_blank(t)).unwrap_or(any);
    let dim = first.real_dim(OP, dim)?;
    let mut extent = 0;
    // The start of each tensor; an ignored one takes no space.
    let mut starts: SmallVec<[Option<usize>; 8]> = SmallVec::new();
    for tensor in &all {
        let differs = |d: usize| d != dim && tensor.dims()[d] != first.dims()[d];
        if is_blank(tensor) && first.rank() != 1 {
            starts.push(None);
            continue;
        }
        if tensor.rank() != first.rank() || (0..first.rank()).any(differs) {
            let expected = format!("all extents but that of dimension {dim} must be equal");
            return Err(Error::shapes(OP, first.shape(), tensor.shape(), expected));
        }
        starts.push(Some(extent));
        extent += tensor.dims()[dim];
    }
    let out = write_parts(&all, first.shape().with_dim(dim, extent)?, |whole, i| {
        starts[i].map(|start| (whole.slice(dim, start, start + all[i].dims()[dim], 1), *all[i].layout()))
    })?;
    let shapes: SmallVec<[Shape; 8]> = all.iter().map(|t| *t.shape()).collect();
    let out = record(out, "CatBackward0", &all, &[], move |ctx| {
        let grad = ctx.grad()?;
        let part = |i: usize| match starts[i] {
            Some(start) => grad.narrow(dim, start, shapes[i][dim]),
            None => Tensor::zeros(shapes[i], grad.options()),
        };
        (0..shapes.len()).map(|i| ctx.when(i, || part(i))).collect()
    })?;
    Ok(out.described("cat", || [("dim", dim.into())]))
}

fn stack(tensors: &[&Tensor], dim: i64) -> Result<Tensor> {
    const OP: &str = "stack";
    let converted = of_one_dtype(OP, tensors)?;
    let all: SmallVec<[&Tensor; 8]> = converted.iter().collect();
    let Some(&first) = all.first() else {
        return Err(Error::argument(OP, "there are no tensors to join"));
    };
    let dim = dim.resolve(OP, first.rank() + 1)?;
    if let Some(other) = all.iter().find(|t| t.shape() != first.shape()) {
        return Err(Error::shapes(OP, first.shape(), other.shape(), "all must be equal"));
    }
    if first.rank() == MAX_RANK {
        return Err(Error::shape(OP, format!("at most {} dimensions", MAX_RANK - 1), first.shape()));
    }
    let shape = *Layout::contiguous(*first.shape()).unsqueeze(dim)?.shape();
    let shape = shape.with_dim(dim, all.len())?;
    let out = write_parts(&all, shape, |whole, i| Some((whole.select(dim, i), *all[i].layout())))?;
    let count = all.len();
    let out = record(out, "StackBackward0", &all, &[], move |ctx| {
        let grad = ctx.grad()?;
        (0..count).map(|i| ctx.when(i, || grad.select(dim, i as i64))).collect()
    })?;
    Ok(out.described(OP, || [("dim", dim.into())]))
}

/// The tensors, which must be on one device, promoted to a common dtype.
fn of_one_dtype(op: &'static str, tensors: &[&Tensor]) -> Result<SmallVec<[Tensor; 8]>> {
    let Some((first, rest)) = tensors.split_first() else { return Ok(SmallVec::new()) };
    let dtype = rest.iter().fold(first.dtype(), |dtype, tensor| dtype.promote(tensor.dtype()));
    let convert = |tensor: &Tensor| {
        check::same_device(op, first, &[tensor])?;
        tensor.to_dtype(dtype)
    };
    tensors.iter().map(|tensor| convert(tensor)).collect()
}

/// A new tensor of `shape` into which each tensor is copied: `part` returns the destination in the new tensor's layout,
/// and the layout to read.
fn write_parts(
    tensors: &[&Tensor],
    shape: Shape,
    part: impl Fn(&Layout, usize) -> Option<(Layout, Layout)>,
) -> Result<Tensor> {
    let first = tensors[0];
    Tensor::compute(first.device(), first.dtype(), shape, |backend, out| {
        for (i, tensor) in tensors.iter().enumerate() {
            if let Some((place, from)) = part(out.layout, i) {
                let target = ViewMut { buffer: &mut *out.buffer, layout: &place };
                backend.copy(CopyArgs { x: tensor.read().through(&from), out: target }.checked()?)?;
            }
        }
        Ok(())
    })
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn ramp(dims: &[usize]) -> Result<Tensor> {
        Tensor::arange(0., dims.iter().product::<usize>(), Device::Cpu)?.reshape(dims)
    }

    #[test]
    fn cat_joins_and_splits_the_gradient() -> Result<()> {
        let a = ramp(&[2, 2])?.requires_grad_(true)?;
        let b = ramp(&[1, 2])?.requires_grad_(true)?;
        let blank = Tensor::zeros([0], Device::Cpu)?.requires_grad_(true)?;
        let y = Tensor::cat(&[&a, &blank, &b], 0)?;
        assert_eq!(y.to_vec::<f32>()?, [0., 1., 2., 3., 0., 1.]);
        y.mul(&ramp(&[3, 2])?)?.sum(())?.backward()?;
        assert_eq!(a.grad().unwrap().to_vec::<f32>()?, [0., 1., 2., 3.]);
        assert_eq!(b.grad().unwrap().to_vec::<f32>()?, [4., 5.]);
        assert_eq!(blank.grad().unwrap().dims(), [0]);
        assert_eq!(Tensor::cat(&[a.t()?, b.t()?], -1)?.dims(), [2, 3]);
        Ok(())
    }

    #[test]
    fn stack_makes_a_dimension() -> Result<()> {
        let x = ramp(&[2, 3])?.requires_grad_(true)?;
        let y = Tensor::stack(&[&x, &x], -1)?;
        assert_eq!(y.dims(), [2, 3, 2]);
        assert_eq!(y.grad_fn().unwrap().name(), "StackBackward0");
        y.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [2.; 6]);
        let s = Tensor::full((), 3., Device::Cpu)?;
        assert_eq!(Tensor::stack(&[&s, &s], 0)?.to_vec::<f32>()?, [3., 3.]);
        Ok(())
    }

    #[test]
    fn bad_input_is_an_error() -> Result<()> {
        let (a, s) = (ramp(&[2, 3])?, Tensor::full((), 3., Device::Cpu)?);
        assert!(Tensor::cat(&[] as &[Tensor], 0).is_err());
        assert!(Tensor::cat(&[&s, &s], 0).is_err());
        assert!(Tensor::cat(&[&a, &a], 2).is_err());
        let error = Tensor::cat(&[a.clone(), a.t()?], 0).unwrap_err().to_string();
        assert!(error.starts_with("cat: shapes [2, 3] and [3, 2]"), "{error}");
        assert!(Tensor::stack(&[a.clone(), a.t()?], 0).is_err());
        Ok(())
    }
}
