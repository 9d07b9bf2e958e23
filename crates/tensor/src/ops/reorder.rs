//! Reordering and repeating elements: `flip`, `roll`, `repeat`, `repeat_interleave`.

use kiln_backend::{Arguments, CopyArgs, Dims, Error, MAX_RANK, Result, Shape, ViewMut};
use kiln_derive::located;
use smallvec::SmallVec;

use super::{gather::check_list, one_or_all::OneOrAll};
use crate::{
    autograd::{no_grad, one, record, record_gradient},
    creation::Extents,
    tensor::Tensor,
};

/// How often [`Tensor::repeat_interleave`] repeats: all elements equally often, or each index of a dimension its own
/// number of times.
#[derive(Clone, Debug)]
pub enum Repeats {
    /// Each element this many times.
    All(i64),
    /// The number of times for each index of the dimension.
    Each(Tensor),
}

macro_rules! repeats {
    ($($ty:ty)*) => {$(
        impl From<$ty> for Repeats {
            fn from(count: $ty) -> Repeats { Repeats::All(i64::try_from(count).unwrap_or(i64::MAX)) }
        }
    )*};
}
repeats!(i32 i64 usize);

impl From<&Tensor> for Repeats {
    fn from(counts: &Tensor) -> Repeats {
        Repeats::Each(counts.clone())
    }
}

#[located]
impl Tensor {
    /// The elements in reverse order along one or several dimensions (`()`: all, an empty list: none). A copy.
    ///
    /// # Errors
    /// If a dimension is out of range or named twice.
    pub fn flip(&self, dims: impl Dims) -> Result<Tensor> {
        let mask = dims.resolve_listed("flip", self.rank())?;
        let named: SmallVec<[usize; MAX_RANK]> = (0..self.rank()).filter(|&dim| mask[dim]).collect();
        let layout = named.iter().fold(*self.layout(), |layout, &dim| layout.flip(dim));
        let reading = self.read();
        let out = Tensor::compute(self.device(), self.dtype(), *self.shape(), |backend, out| {
            backend.copy(CopyArgs { x: reading.through(&layout), out }.checked()?)
        })?;
        let dims: SmallVec<[usize; MAX_RANK]> = named.clone();
        let out = record(out, "FlipBackward0", &[self], &[], move |ctx| Ok(one(ctx.grad()?.flip(&named[..])?)))?;
        Ok(out.described("flip", || [("dims", (&dims[..]).into())]))
    }

    /// The elements moved by `shifts` along the dimensions `dims`, one shift per dimension; elements pushed past the
    /// end come back at the start: `x.roll(1, 0)`, `x.roll([1, -2], [0, 1])`. If `dims` is `()`, the elements are moved
    /// in row-major order, whatever the shape. A copy.
    ///
    /// # Errors
    /// If a dimension is out of range, or there are not as many shifts as dimensions.
    pub fn roll(&self, shifts: impl Extents, dims: impl Extents) -> Result<Tensor> {
        let ((shifts, count), (dims, dim_count)) = (shifts.extents("roll")?, dims.extents("roll")?);
        let (shifts, dims) = (&shifts[..count], &dims[..dim_count]);
        let flat = dims.is_empty();
        if count != if flat { 1 } else { dim_count } {
            let message = format!("{count} shifts do not fit the {dim_count} dimensions {dims:?} (none: one shift)");
            return Err(Error::argument("roll", message));
        }
        let dims: SmallVec<[(usize, i64); MAX_RANK]> = if flat {
            SmallVec::from_slice(&[(0, shifts[0])])
        } else {
            dims.iter().zip(shifts).map(|(&dim, &by)| Ok((self.real_dim("roll", dim)?, by))).collect::<Result<_>>()?
        };
        let out = no_grad(|| self.rolled(flat, &dims))?;
        let (rolled, by): (Vec<usize>, Vec<i64>) = dims.iter().copied().unzip();
        let out =
            record(out, "RollBackward0", &[self], &[], move |ctx| Ok(one(ctx.grad()?.rolled_back(flat, &dims)?)))?;
        Ok(out.described("roll", || [("dims", (&rolled[..]).into()), ("shifts", by.into()), ("flat", flat.into())]))
    }

    /// A gradient rolled back by the same amount, recorded if the pass is.
    fn rolled_back(&self, flat: bool, dims: &[(usize, i64)]) -> Result<Tensor> {
        let back: SmallVec<[(usize, i64); MAX_RANK]> =
            dims.iter().rev().map(|&(dim, by)| (dim, by.saturating_neg())).collect();
        let out = no_grad(|| self.rolled(flat, &back))?;
        record_gradient(out, "RollBackward0", &[self], &[], move |ctx| Ok(one(ctx.grad()?.rolled_back(flat, &back)?)))
    }

    fn rolled(&self, flat: bool, dims: &[(usize, i64)]) -> Result<Tensor> {
        let mut x = if flat { self.flatten_all()? } else { self.clone() };
        for &(dim, by) in dims {
            let extent = x.dims()[dim];
            if x.numel() == 0 {
                break;
            }
            // i64::MIN saturates in the gradient, but no extent in memory divides it.
            let by = by.rem_euclid(extent as i64) as usize;
            let (own, reading) = (*x.layout(), x.read());
            let rolled = Tensor::compute(x.device(), x.dtype(), *x.shape(), |backend, out| {
                for (from, to) in [((0, extent - by), (by, extent)), ((extent - by, extent), (0, by))] {
                    let place = out.layout.slice(dim, to.0, to.1, 1);
                    let target = ViewMut { buffer: &mut *out.buffer, layout: &place };
                    backend.copy(
                        CopyArgs { x: reading.through(&own.slice(dim, from.0, from.1, 1)), out: target }.checked()?,
                    )?;
                }
                Ok(())
            })?;
            drop(reading);
            x = rolled;
        }
        // The result is a copy even if nothing was rolled.
        let x = if x.shares_memory(self) { x.copy()? } else { x };
        Ok(x.with_shape(*self.shape()))
    }

    /// The whole tensor repeated along each dimension: `repeats` has a count for each dimension, and may have more
    /// counts than the tensor has dimensions (which are prepended). A copy.
    ///
    /// # Errors
    /// If `repeats` has fewer numbers than the tensor has dimensions, or the result is too large.
    pub fn repeat(&self, repeats: impl Extents) -> Result<Tensor> {
        let (counts, rank) = repeats.extents("repeat")?;
        let counts = counts[..rank].to_shape("repeat")?;
        let Some(lead) = rank.checked_sub(self.rank()) else {
            let message = format!("{} repeats are fewer than the dimensions of shape {}", rank, self.shape());
            return Err(Error::argument("repeat", message));
        };
        let mut dims: SmallVec<[usize; MAX_RANK]> = SmallVec::from_elem(1, lead);
        dims.extend_from_slice(self.dims());
        let (own, padded) = (*self.shape(), Shape::new(&dims)?);
        let out = no_grad(|| {
            let mut x = self.contiguous()?.reshape(padded)?;
            for dim in 0..rank {
                x = x.repeated("repeat", dim, counts[dim], true)?;
            }
            if x.shares_memory(self) { x.copy() } else { Ok(x) }
        })?;
        let times: Vec<i64> = counts.dims().iter().map(|&count| count as i64).collect();
        let out = record(out, "RepeatBackward0", &[self], &[], move |ctx| {
            let dtype = ctx.grad()?.dtype();
            // Half precision is rounded once, after the last sum.
            let mut grad = ctx.grad()?.widened()?;
            for dim in 0..rank {
                let [before, _, after] = around(grad.shape(), dim);
                let shape = grad.shape().with_dim(dim, padded[dim])?;
                grad = grad.reshape([before, counts[dim], padded[dim], after])?.sum(1)?.reshape(shape)?;
            }
            Ok(one(grad.to_dtype(dtype)?.reshape(own)?))
        })?;
        Ok(out.described("repeat", || [("counts", times.into())]))
    }

    /// Each element repeated in place along a dimension; if `dim` is `()`, the flattened tensor's elements in row-major
    /// order. `repeats` is one count, or an integer tensor with a count for each index of the dimension; with a tensor
    /// this waits for the device. A copy.
    ///
    /// # Errors
    /// If the dimension is out of range, a count is negative, the tensor of counts is not a vector as long as the
    /// dimension (or of one element), or the result is too large.
    pub fn repeat_interleave(&self, repeats: impl Into<Repeats>, dim: impl OneOrAll) -> Result<Tensor> {
        const OP: &str = "repeat_interleave";
        let Some(dim) = dim.dim() else { return self.flatten_all()?.repeat_interleave(repeats, 0) };
        let dim = self.real_dim(OP, dim)?;
        let counts = match repeats.into() {
            Repeats::All(count) => {
                let negative = || Error::argument(OP, format!("{count} is not a number of repeats"));
                return self.repeated(OP, dim, usize::try_from(count).map_err(|_| negative())?, false);
            }
            Repeats::Each(counts) => check_list(OP, self, &counts)?,
        };
        let extent = self.dims()[dim];
        if counts.numel() != extent && counts.numel() != 1 {
            let expected = format!("one count, or one for each of the {extent} indices of dimension {dim}");
            return Err(Error::shape(OP, expected, counts.shape()));
        }
        let positions = no_grad(|| {
            let counts = counts.expand([extent])?;
            if extent == 0 {
                return Ok(counts);
            }
            if counts.amin(())?.item::<i64>()? < 0 {
                return Err(Error::argument(OP, "a number of repeats is negative"));
            }
            // The result's end of each index: element k belongs to the first index that ends after k.
            let reach = counts.cumsum(0)?;
            let total = reach.narrow(0, extent - 1, 1)?.item::<i64>()?;
            reach.searchsorted(&Tensor::arange(0, total, reach.options())?, true)
        })?;
        self.index_select_as(OP, "IndexSelectBackward0", dim, &positions)
    }

    /// A dimension repeated `count` times: as a whole, or each element in place. The copy only needs three dimensions
    /// and the new one, whatever the rank.
    fn repeated(&self, op: &'static str, dim: usize, count: usize, whole: bool) -> Result<Tensor> {
        let [before, extent, after] = around(self.shape(), dim);
        let total = extent.checked_mul(count).ok_or_else(|| {
            Error::argument(op, format!("{count} times dimension {dim} of shape {} is too much", self.shape()))
        })?;
        if count == 1 && whole {
            return Ok(self.clone());
        }
        let shape = self.shape().with_dim(dim, total)?;
        if whole {
            self.reshape([before, 1, extent, after])?.expand([before, count, extent, after])?.reshape(shape)
        } else {
            self.reshape([before, extent, 1, after])?.expand([before, extent, count, after])?.reshape(shape)
        }
    }
}

/// The number of elements before a dimension, in it, and after it.
fn around(shape: &Shape, dim: usize) -> [usize; 3] {
    [shape[..dim].iter().product(), shape[dim], shape[dim + 1..].iter().product()]
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn x() -> Result<Tensor> {
        Tensor::arange(0., 6., Device::Cpu)?.reshape([2, 3])?.requires_grad_(true)
    }

    /// The gradient of `sum(y * weights)` with distinct weights.
    fn gradient(x: &Tensor, y: &Tensor) -> Result<Vec<f32>> {
        let weights = Tensor::arange(0., y.numel(), Device::Cpu)?.reshape(y.shape())?;
        x.zero_grad();
        y.mul(&weights)?.sum(())?.backward()?;
        x.grad().unwrap().to_vec::<f32>()
    }

    #[test]
    fn flip_and_roll() -> Result<()> {
        let x = x()?;
        assert_eq!(x.flip(0)?.to_vec::<f32>()?, [3., 4., 5., 0., 1., 2.]);
        assert_eq!(gradient(&x, &x.flip(())?)?, [5., 4., 3., 2., 1., 0.]);
        assert_eq!(x.roll(1, 1)?.to_vec::<f32>()?, [2., 0., 1., 5., 3., 4.]);
        assert_eq!(x.roll(-2, ())?.to_vec::<f32>()?, [2., 3., 4., 5., 0., 1.]);
        assert_eq!(x.t()?.roll(2, ())?.to_vec::<f32>()?, [2., 5., 0., 3., 1., 4.]);
        assert_eq!(gradient(&x, &x.roll([1, -1], [0, 1])?)?, [5., 3., 4., 2., 0., 1.]);
        assert!(x.roll([1, 2], 0).is_err() && x.roll(1, 2).is_err());
        let s = Tensor::new(1f32, Device::Cpu)?.requires_grad_(true)?;
        assert_eq!(s.flip(())?.add(&s.flip(0)?)?.add(&s.roll(3, ())?)?.item::<f32>()?, 3.);
        assert_eq!(gradient(&s, &s.flip(())?)?, [0.]);
        let empty = Tensor::zeros([0, 3], Device::Cpu)?;
        assert_eq!((empty.roll(1, 0)?.dims(), empty.flip(0)?.dims()), (&[0, 3][..], &[0, 3][..]));
        Ok(())
    }

    #[test]
    fn repeats() -> Result<()> {
        let x = x()?;
        let y = x.repeat([2, 2])?;
        assert_eq!(y.dims(), [4, 6]);
        assert_eq!(y.i(3)?.to_vec::<f32>()?, [3., 4., 5., 3., 4., 5.]);
        assert_eq!(gradient(&x, &y)?, [30., 34., 38., 54., 58., 62.]);
        assert_eq!(x.repeat([2, 1, 1])?.dims(), [2, 2, 3]);
        assert_eq!(x.repeat([0, 1])?.dims(), [0, 3]);
        assert_eq!(gradient(&x, &x.repeat([0, 1])?)?, [0.; 6]);
        assert!(!x.repeat([1, 1])?.shares_memory(&x));
        assert!(x.repeat(2).is_err() && x.repeat([1, -1]).is_err());
        let y = x.repeat_interleave(2, 1)?;
        assert_eq!(y.i(0)?.to_vec::<f32>()?, [0., 0., 1., 1., 2., 2.]);
        assert_eq!(gradient(&x, &y)?, [1., 5., 9., 13., 17., 21.]);
        Ok(())
    }
}
