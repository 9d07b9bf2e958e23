//! Reductions by index: `scatter_reduce`, `index_reduce`.

use kiln_backend::{DType, Dim, Error, Result, Scalar, ScatterMode};
use kiln_derive::located;

use crate::{
    autograd::{no_grad, record},
    tensor::Tensor,
};

/// How [`Tensor::scatter_reduce`] and [`Tensor::index_reduce`] combine elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterReduction {
    /// Their sum.
    Sum,
    /// Their mean; of integers it is rounded down.
    Mean,
    /// Their product.
    Prod,
    /// The smallest; NaN if one is. The gradient is divided among equal ones.
    Amin,
    /// The largest; NaN if one is. The gradient is divided among equal ones.
    Amax,
}

#[located]
impl Tensor {
    /// A copy in which the elements of `src` are combined at the positions that `index` gives along `dim`, as in
    /// [`scatter`](Tensor::scatter), with the elements that are there (`include_self`) or instead of them
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.scatter_reduce.html>). They are combined in row-major
    /// order, so that results are the same from run to run. Half precision is rounded once.
    ///
    /// # Errors
    /// Those of [`scatter_add`](Tensor::scatter_add), which sums and means have of `bool`, too. The second derivative of a
    /// product with respect to `src` is an error where several zeros meet.
    pub fn scatter_reduce(
        &self,
        dim: impl Dim,
        index: &Tensor,
        src: &Tensor,
        reduction: ScatterReduction,
        include_self: bool,
    ) -> Result<Tensor> {
        const OP: &str = "scatter_reduce";
        let (dim, index) = self.check_scatter(OP, dim, index, &src.into())?;
        if index.numel() == 0 {
            // Such an index may have any rank.
            return if self.dtype() == DType::Bool { self.copy() } else { self.scatter_add(dim, &index, src) };
        }
        // Elements of `src` beyond the index are not read.
        let mut src = src.clone();
        for (dim, &extent) in index.dims().iter().enumerate() {
            src = src.narrow(dim, 0, extent)?;
        }
        match reduction {
            ScatterReduction::Sum => self.sums_by_index(dim, &index, &src, include_self, false),
            ScatterReduction::Mean => self.sums_by_index(dim, &index, &src, include_self, true),
            ScatterReduction::Prod => self.products_by_index(dim, &index, &src, include_self),
            ScatterReduction::Amin => self.extremes_by_index(ScatterMode::Min, dim, &index, &src, include_self),
            ScatterReduction::Amax => self.extremes_by_index(ScatterMode::Max, dim, &index, &src, include_self),
        }
    }

    /// A copy in which slice `i` of `source` along `dim` is combined with slice `index[i]`, or replaces it together with the
    /// others of the same index (`include_self` is false)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.Tensor.index_reduce_.html>).
    ///
    /// # Errors
    /// If the dimension or an index is out of range, the index is no vector of integers, the shapes do not fit, or
    /// dtypes or devices differ; and as [`scatter_reduce`](Tensor::scatter_reduce).
    pub fn index_reduce(
        &self,
        dim: impl Dim,
        index: &Tensor,
        source: &Tensor,
        reduction: ScatterReduction,
        include_self: bool,
    ) -> Result<Tensor> {
        const OP: &str = "index_reduce";
        let (dim, index) = self.listed(OP, dim, index)?;
        let (x, source) = if self.rank() == 0 && source.rank() == 0 {
            (self.reshape([1])?, source.reshape([1])?)
        } else {
            (self.clone(), source.clone())
        };
        let expected = match x.rank() {
            0 => *x.shape(),
            _ => x.shape().with_dim(dim, index.numel())?,
        };
        if *source.shape() != expected {
            return Err(Error::shapes(OP, self.shape(), source.shape(), format!("the second must be {expected}")));
        }
        let mut shape = vec![1; x.rank()];
        shape[dim] = index.numel();
        let each = index.reshape(shape)?.expand(source.dims())?;
        let out = x.scatter_reduce(dim, &each, &source, reduction, include_self).map_err(|error| error.of_op(OP))?;
        out.reshape(self.dims())
    }

    fn sums_by_index(
        &self,
        dim: usize,
        index: &Tensor,
        src: &Tensor,
        include_self: bool,
        mean: bool,
    ) -> Result<Tensor> {
        let base = if include_self { self.clone() } else { self.scatter(dim, index, Scalar::Int(0))? };
        // Half precision is rounded once, after the sums.
        let sums = base.widened()?.scatter_add(dim, index, &src.widened()?)?;
        if !mean {
            return sums.to_dtype(self.dtype());
        }
        let counts = no_grad(|| {
            let ones = Tensor::ones(self.dims(), sums.options())?;
            let own = if include_self { ones } else { ones.scatter(dim, index, Scalar::Int(0))? };
            own.scatter_add(dim, index, &Tensor::ones(src.dims(), sums.options())?)?.clamp_min(1)
        })?;
        let means = if self.dtype().is_float() { sums.div(&counts) } else { sums.floor_divide(&counts) };
        means?.to_dtype(self.dtype())
    }

    /// The tensor combined with `src` by index, without history.
    fn combined(&self, mode: ScatterMode, dim: usize, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        no_grad(|| {
            let out = self.copy()?;
            out.write_scatter("scatter_reduce", mode, dim, index, &src.into())?;
            Ok(out)
        })
    }

    /// The type that products and extremes are computed in.
    fn comparable(&self) -> Result<Tensor> {
        if self.dtype() == DType::Bool { self.to_dtype(DType::U8) } else { self.widened() }
    }

    fn products_by_index(&self, dim: usize, index: &Tensor, src: &Tensor, include_self: bool) -> Result<Tensor> {
        let base = if include_self { self.clone() } else { self.scatter(dim, index, Scalar::Int(1))? };
        base.comparable()?.product(dim, index, &src.comparable()?)?.to_dtype(self.dtype())
    }

    fn product(&self, dim: usize, index: &Tensor, src: &Tensor) -> Result<Tensor> {
        let out = self.combined(ScatterMode::Mul, dim, index, src)?;
        let result = out.clone();
        let saved = [index, self, src, &result];
        let out = record(out, "ScatterReduceBackward0", &[self, src], &saved, move |ctx| {
            let (grad, index) = (ctx.grad()?, ctx.saved(0)?);
            let (x, src, out) = (ctx.saved(1)?, ctx.saved(2)?, ctx.saved(3)?);
            // The product of the others: at 0, with 1 in its place.
            let own = ctx.when(0, || {
                let safe = x.eq(0.0)?.where_cond(1.0, &x)?;
                grad.mul(&safe.product(dim, &index, &src)?)?.div(&safe)
            })?;
            let of_src = ctx.when(1, || {
                let zero = no_grad(|| src.eq(0.0))?;
                let zeros = no_grad(|| {
                    let counts = Tensor::zeros(x.dims(), (DType::I64, x.device()))?;
                    counts.scatter_add(dim, &index, &zero.to_dtype(DType::I64)?)?.gather(dim, &index)
                })?;
                if ctx.create_graph && zeros.gt(1)?.any(())?.item::<bool>()? {
                    return Err(Error::autograd(
                        "scatter_reduce",
                        "several zeros of `src` go to one element, whose product has no second derivative here",
                    ));
                }
                let alone = no_grad(|| zero.logical_and(&zeros.eq(1)?))?;
                let without = x.product(dim, &index, &alone.where_cond(1.0, &src)?)?;
                let at_zero = grad.mul(&without)?.gather(dim, &index)?;
                let elsewhere = grad.mul(&out)?.gather(dim, &index)?.div(&zero.where_cond(1.0, &src)?)?;
                alone.where_cond(&at_zero, &elsewhere)
            })?;
            Ok(smallvec::smallvec![own, of_src])
        })?;
        Ok(out.noted("scatter_prod", &[self, index, src], || [("dim", dim.into())]))
    }

    fn extremes_by_index(
        &self,
        mode: ScatterMode,
        dim: usize,
        index: &Tensor,
        src: &Tensor,
        include_self: bool,
    ) -> Result<Tensor> {
        let (x, src) = (self.comparable()?, src.comparable()?);
        // An element that does not count is replaced by one that is compared with itself.
        let base = if include_self { x.clone() } else { no_grad(|| x.scatter(dim, index, &src))? };
        let out = base.combined(mode, dim, index, &src)?;
        let result = out.clone();
        let saved = [index, &x, &src, &result];
        let out = record(out, "ScatterReduceBackward0", &[&x, &src], &saved, move |ctx| {
            let (grad, index) = (ctx.grad()?, ctx.saved(0)?);
            let (x, src, out) = (ctx.constant(1)?, ctx.constant(2)?, ctx.constant(3)?);
            let [own, of_src, count] = no_grad(|| -> Result<_> {
                let own = x.eq(&out)?.to_dtype(grad.dtype())?;
                let own = if include_self { own } else { own.scatter(dim, &index, Scalar::Int(0))? };
                let of_src = src.eq(&out.gather(dim, &index)?)?.to_dtype(grad.dtype())?;
                let count = own.scatter_add(dim, &index, &of_src)?;
                Ok([own, of_src, count])
            })?;
            let share = grad.div(&count)?;
            Ok(smallvec::smallvec![
                ctx.when(0, || share.mul(&own))?,
                ctx.when(1, || share.gather(dim, &index)?.mul(&of_src))?
            ])
        })?;
        out.to_dtype(self.dtype())
    }
}
