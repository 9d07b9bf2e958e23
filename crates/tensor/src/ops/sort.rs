//! Sorting and selection: `sort`, `argsort`, `topk`, `kthvalue`, `median`.

use kiln_backend::{Arguments, Backend, DType, Dim, Error, MAX_RANK, Result, Shape, SortArgs, View, ViewMut};
use kiln_derive::located;

use super::{arg_reduce::without, check, gather::lifted, reduce::shared_among};
use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// The elements sorted along a dimension, and their original positions (`i64`). Stable; NaN is the largest.
    /// Gradients flow through the values.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn sort(&self, dim: impl Dim, descending: bool) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve("sort", self.rank())?;
        let (values, indices) = self.sorted(dim, descending)?;
        self.picked("SortBackward0", dim, values, indices, *self.shape())
    }

    /// The original positions of the elements that [`sort`](Tensor::sort) returns.
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn argsort(&self, dim: impl Dim, descending: bool) -> Result<Tensor> {
        let dim = dim.resolve("argsort", self.rank())?;
        Ok(self.sorted(dim, descending)?.1)
    }

    /// The `k` largest (or smallest) elements along a dimension in descending (ascending) order, and their positions
    /// (`i64`). NaN is the largest.
    ///
    /// # Errors
    /// If the dimension is out of range, or has fewer than `k` elements.
    pub fn topk(&self, k: usize, dim: impl Dim, largest: bool) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve("topk", self.rank())?;
        let extent = self.dims().get(dim).copied().unwrap_or(1);
        if k > extent {
            let message = format!("k is {k}, but dimension {dim} of shape {} has the extent {extent}", self.shape());
            return Err(Error::argument("topk", message));
        }
        let (values, indices) = self.sorted(dim, largest)?;
        if self.rank() == 0 && k == 1 {
            return self.picked("TopkBackward0", dim, values, indices, *self.shape());
        }
        if self.rank() == 0 {
            return Err(Error::argument("topk", "k is 0, but a scalar has one element"));
        }
        // Copied, so that the rest of the memory can be freed.
        let cut = |t: Tensor| if k == extent { Ok(t) } else { t.narrow(dim, 0, k)?.copy() };
        self.picked("TopkBackward0", dim, cut(values)?, cut(indices)?, self.shape().with_dim(dim, k)?)
    }

    /// The `k`-th smallest element along a dimension (1 is the smallest), and its position (`i64`); the dimension is
    /// dropped. NaN is the largest.
    ///
    /// # Errors
    /// If the dimension is out of range, or has no `k`-th element.
    pub fn kthvalue(&self, k: usize, dim: impl Dim) -> Result<(Tensor, Tensor)> {
        self.kth("kthvalue", k, dim, false)
    }

    /// [`kthvalue`](Tensor::kthvalue) that keeps the dimension with extent 1.
    ///
    /// # Errors
    /// Those of [`kthvalue`](Tensor::kthvalue).
    pub fn kthvalue_keepdim(&self, k: usize, dim: impl Dim) -> Result<(Tensor, Tensor)> {
        self.kth("kthvalue_keepdim", k, dim, true)
    }

    fn kth(&self, op: &'static str, k: usize, dim: impl Dim, keepdim: bool) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve(op, self.rank())?;
        let extent = self.dims().get(dim).copied().unwrap_or(1);
        if k == 0 || k > extent {
            let message = format!("k is {k}, but dimension {dim} of shape {} has the extent {extent}", self.shape());
            return Err(Error::argument(op, message));
        }
        self.order_statistic("KthvalueBackward0", dim, k - 1, false, keepdim)
    }

    /// The median along a dimension, and its position (`i64`); the dimension is dropped. As in PyTorch, the lower of
    /// the two middle elements, and NaN if there is one.
    ///
    /// # Errors
    /// If the dimension is out of range or empty.
    pub fn median(&self, dim: impl Dim) -> Result<(Tensor, Tensor)> {
        self.median_along("median", dim, false)
    }

    /// [`median`](Tensor::median) that keeps the dimension with extent 1.
    ///
    /// # Errors
    /// Those of [`median`](Tensor::median).
    pub fn median_keepdim(&self, dim: impl Dim) -> Result<(Tensor, Tensor)> {
        self.median_along("median_keepdim", dim, true)
    }

    fn median_along(&self, op: &'static str, dim: impl Dim, keepdim: bool) -> Result<(Tensor, Tensor)> {
        let dim = dim.resolve(op, self.rank())?;
        let extent = self.dims().get(dim).copied().unwrap_or(1);
        if extent == 0 && self.shape().with_dim(dim, 1)?.numel() > 0 {
            return Err(Error::shape(op, format!("elements in dimension {dim}"), self.shape()));
        }
        let middle = extent.saturating_sub(1) / 2;
        self.order_statistic("MedianBackward1", dim, middle, self.dtype().is_float(), keepdim)
    }

    /// The median of all elements: the lower of the two middle elements, and NaN if there is one. Equal elements share
    /// the gradient evenly. PyTorch's `median()` without a dimension; NaN without elements.
    ///
    /// # Errors
    /// If there are no elements and the dtype is an integer, which has no NaN.
    pub fn median_all(&self) -> Result<Tensor> {
        const OP: &str = "median_all";
        if self.numel() == 0 {
            check::floats(OP, self).map_err(|_| Error::shape(OP, "elements", self.shape()))?;
            return Tensor::full((), f64::NAN, self.options());
        }
        let out = no_grad(|| self.detach().flatten_all()?.median(0))?.0;
        let ones = Shape::new(&[1; MAX_RANK][..self.rank()])?;
        record(out.clone(), "MedianBackward0", &[self], &[self, &out], move |ctx| {
            let (x, y) = (ctx.saved(0)?, ctx.saved(1)?);
            let hits = x.eq(&y)?.logical_or(x.ne(&x)?.logical_and(&y.ne(&y)?)?)?;
            Ok(one(shared_among(&hits, &ctx.grad()?.reshape(ones)?)?))
        })
    }

    /// The most frequent value along a dimension, the smallest of several, and the position (`i64`) of its last occurrence; the
    /// dimension is kept with extent 1 or dropped. A NaN is equal to no other
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.mode.html>, which leaves open which position it is).
    ///
    /// # Errors
    /// If the dimension is out of range or empty.
    pub fn mode(&self, dim: impl Dim, keepdim: bool) -> Result<(Tensor, Tensor)> {
        const OP: &str = "mode";
        let dim = dim.resolve(OP, self.rank())?;
        if self.rank() == 0 {
            return Ok((self.copy()?, Tensor::zeros((), (DType::I64, self.device()))?));
        }
        let extent = self.dims()[dim];
        if extent == 0 {
            return Err(Error::shape(OP, format!("elements in dimension {dim}"), self.shape()));
        }
        let places = no_grad(|| {
            let (values, order) = self.detach().sort(dim, false)?;
            // How many equal elements are before each one in sorted order: its distance from where its run begins.
            let mut along = vec![1; self.rank()];
            along[dim] = extent;
            let at = Tensor::arange(0, extent as i64, (DType::I64, self.device()))?.reshape(along)?;
            let begins = values.narrow(dim, 1, extent - 1)?.ne(&values.narrow(dim, 0, extent - 1)?)?;
            let first = values.narrow(dim, 0, 1)?.zeros_like()?.to_dtype(DType::I64)?;
            let begins = begins.where_cond(&at.narrow(dim, 1, extent - 1)?, 0)?.to_dtype(DType::I64)?;
            let begin = Tensor::cat(&[first, begins], dim)?.cummax(dim)?.0;
            order.gather(dim, &at.sub(&begin)?.argmax_keepdim(dim)?)
        })?;
        let values = self.gather(dim, &places)?;
        if keepdim { Ok((values, places)) } else { Ok((values.squeeze(dim)?, places.squeeze(dim)?)) }
    }

    /// Element `at` in sorted order; with `or_nan`, the last one instead if it is NaN.
    fn order_statistic(
        &self,
        node: &'static str,
        dim: usize,
        at: usize,
        or_nan: bool,
        keepdim: bool,
    ) -> Result<(Tensor, Tensor)> {
        let (values, indices) = self.sorted(dim, false)?;
        if self.rank() == 0 {
            return self.picked(node, dim, values, indices, *self.shape());
        }
        let mut place = indices.narrow(dim, at, 1)?;
        if or_nan {
            let last = self.dims()[dim] - 1;
            place = values.narrow(dim, last, 1)?.isnan()?.where_cond(&indices.narrow(dim, last, 1)?, &place)?;
        }
        let values = no_grad(|| self.gather(dim, &place))?;
        let shape = if keepdim { *place.shape() } else { without(self.shape(), dim)? };
        self.picked(node, dim, values, place.copy()?, shape)
    }

    fn sorted(&self, dim: usize, descending: bool) -> Result<(Tensor, Tensor)> {
        let (values, indices) = self.values_and_indices(|backend, x, values, indices| {
            backend.sort(SortArgs { x, dim, descending, values, indices }.checked()?)
        })?;
        if self.rank() == 0 {
            return Ok((values.noted("identity", &[self], || []), indices.noted("constant", &[], || [])));
        }
        let attributes = || [("dim", dim.into()), ("descending", descending.into())];
        Ok((values.noted("sort", &[self], attributes), indices.noted("argsort", &[self], attributes)))
    }

    /// The results of a primitive that writes elements and their positions (`i64`), both in this tensor's shape. A
    /// scalar is passed as a vector of one element. Not recorded on the tape.
    pub(super) fn values_and_indices(
        &self,
        run: impl FnOnce(&'static dyn Backend, View<'_>, ViewMut<'_>, ViewMut<'_>) -> Result<()>,
    ) -> Result<(Tensor, Tensor)> {
        let (reading, layout) = (self.read(), lifted(self.layout())?);
        let mut values = None;
        let indices = Tensor::compute(self.device(), DType::I64, *layout.shape(), |backend, indices| {
            values = Some(Tensor::compute(self.device(), self.dtype(), *layout.shape(), |_, values| {
                run(backend, reading.through(&layout), values, indices)
            })?);
            Ok(())
        })?;
        let values = values.map_or_else(|| self.detach().copy(), Ok)?;
        Ok((values.with_shape(*self.shape()), indices.with_shape(*self.shape())))
    }

    /// Records that `values` are the elements at `indices` (each at most once) along `dim`. Both are reshaped to
    /// `shape`, which has as many elements.
    pub(super) fn picked(
        &self,
        node: &'static str,
        dim: usize,
        values: Tensor,
        indices: Tensor,
        shape: Shape,
    ) -> Result<(Tensor, Tensor)> {
        let own = *self.shape();
        let values = record(values.with_shape(shape), node, &[self], &[&indices], move |ctx| {
            let (grad, indices) = (ctx.grad()?, ctx.saved(0)?);
            let spread = Tensor::zeros(own, grad.options())?;
            spread.scatter_(dim, &indices, grad.reshape(indices.shape())?)?;
            Ok(one(spread))
        })?;
        Ok((values, indices.with_shape(shape)))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn sort_and_topk_send_gradients_back() -> Result<()> {
        let x = Tensor::new(&[[3f32, 1., 2.], [4., 6., 5.]], Device::Cpu)?.requires_grad_(true)?;
        let (values, indices) = x.sort(1, true)?;
        assert_eq!(values.to_vec::<f32>()?, [3., 2., 1., 6., 5., 4.]);
        assert_eq!(indices.to_vec::<i64>()?, [0, 2, 1, 1, 2, 0]);
        values.mul(&Tensor::new(&[1f32, 2., 3.], Device::Cpu)?)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 3., 2., 3., 1., 2.]);
        x.zero_grad();
        let (values, indices) = x.topk(1, 0, false)?;
        assert_eq!((values.dims(), indices.to_vec::<i64>()?), (&[1, 3][..], vec![0, 0, 0]));
        values.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 1., 1., 0., 0., 0.]);
        assert_eq!(x.argsort(-1, false)?.to_vec::<i64>()?, [1, 2, 0, 0, 2, 1]);
        assert!(x.topk(4, 1, true).is_err() && x.sort(2, true).is_err());
        Ok(())
    }

    #[test]
    fn medians() -> Result<()> {
        let x = Tensor::new(&[[4f32, 1., 3., 2.], [4., f32::NAN, 3., 2.]], Device::Cpu)?.requires_grad_(true)?;
        let (values, indices) = x.median(1)?;
        assert_eq!(indices.to_vec::<i64>()?, [3, 1]);
        assert_eq!(values.i(0)?.item::<f32>()?, 2.);
        let (values, indices) = x.kthvalue(4, 1)?;
        assert_eq!(indices.to_vec::<i64>()?, [0, 1]);
        values.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 0., 0., 0., 0., 1., 0., 0.]);
        assert!(x.kthvalue(0, 1).is_err() && Tensor::zeros([0, 2], Device::Cpu)?.median(0).is_err());
        Ok(())
    }

    #[test]
    fn scalars_and_nothing() -> Result<()> {
        let s = Tensor::new(2f32, Device::Cpu)?.requires_grad_(true)?;
        for (values, indices) in [s.sort(0, false)?, s.topk(1, -1, true)?, s.median(0)?] {
            assert_eq!((values.rank(), indices.item::<i64>()?), (0, 0));
            values.backward()?;
        }
        assert_eq!(s.grad().unwrap().item::<f32>()?, 3.);
        let empty = Tensor::zeros([0, 3], Device::Cpu)?;
        assert_eq!(empty.sort(-1, true)?.0.dims(), [0, 3]);
        assert_eq!(empty.topk(2, 1, true)?.1.dims(), [0, 2]);
        Ok(())
    }
}
