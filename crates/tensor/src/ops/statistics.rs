//! Statistics composed of reductions and sorting: `std_mean`, `quantile`, `nanmean`, `histc`, `bincount`, `cov`, ….

use kiln_backend::{DType, Dim, Dims, Error, Result};
use kiln_derive::located;

use super::{check, one_or_all::OneOrAll, reduce::Correction, rhs::Rhs};
use crate::{autocast::cast_operands, autograd::no_grad, tensor::Tensor};

/// The value of a quantile that lies between two elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// In proportion to the distances.
    #[default]
    Linear,
    /// The smaller one.
    Lower,
    /// The larger one.
    Higher,
    /// The nearer one; if both are equally near, the one at the even position.
    Nearest,
    /// The average.
    Midpoint,
}

/// Reductions that return two tensors, or skip NaN.
macro_rules! spreads {
    ($($(#[$doc:meta])* $name:ident $keepdim:ident $first:ident $first_keepdim:ident;)*) => {
        #[located]
        impl Tensor {$(
            $(#[$doc])*
            ///
            /// # Errors
            #[doc = concat!("Those of [`", stringify!($first), "`](Tensor::", stringify!($first), ").")]
            pub fn $name(&self, dims: impl Dims, correction: impl Into<Correction>) -> Result<(Tensor, Tensor)> {
                let correction: Correction = correction.into();
                cast_operands(stringify!($name), [self], [], |[own], []| {
                    let x = own.widened()?;
                    let (first, mean) = (x.$first(dims.list(), correction)?, x.mean(dims.list())?);
                    Ok((first.to_dtype(own.dtype())?, mean.to_dtype(own.dtype())?))
                })
            }

            #[doc = concat!("[`", stringify!($name), "`](Tensor::", stringify!($name), ") that keeps the dimensions with extent 1.")]
            ///
            /// # Errors
            #[doc = concat!("Those of [`", stringify!($first), "`](Tensor::", stringify!($first), ").")]
            pub fn $keepdim(&self, dims: impl Dims, correction: impl Into<Correction>) -> Result<(Tensor, Tensor)> {
                let correction: Correction = correction.into();
                cast_operands(stringify!($name), [self], [], |[own], []| {
                    let x = own.widened()?;
                    let (first, mean) = (x.$first_keepdim(dims.list(), correction)?, x.mean_keepdim(dims.list())?);
                    Ok((first.to_dtype(own.dtype())?, mean.to_dtype(own.dtype())?))
                })
            }
        )*}
    };
}
spreads! {
    /// The standard deviation and the mean over dimensions.
    std_mean std_mean_keepdim std std_keepdim;
    /// The variance and the mean over dimensions.
    var_mean var_mean_keepdim var var_keepdim;
}

#[located]
impl Tensor {
    /// The smallest and the largest elements along a dimension, or of all; both are NaN if an element is
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.aminmax.html>).
    ///
    /// # Errors
    /// Those of [`amin`](Tensor::amin).
    pub fn aminmax(&self, dim: impl OneOrAll, keepdim: bool) -> Result<(Tensor, Tensor)> {
        match (dim.dim(), keepdim) {
            (None, false) => Ok((self.amin(())?, self.amax(())?)),
            (None, true) => Ok((self.amin_keepdim(())?, self.amax_keepdim(())?)),
            (Some(dim), false) => Ok((self.amin(dim)?, self.amax(dim)?)),
            (Some(dim), true) => Ok((self.amin_keepdim(dim)?, self.amax_keepdim(dim)?)),
        }
    }

    /// The number of elements that are not 0, over dimensions (`i64`).
    ///
    /// # Errors
    /// If a dimension is out of range or named twice.
    pub fn count_nonzero(&self, dims: impl Dims) -> Result<Tensor> {
        self.ne(0)?.sum(dims)
    }

    /// Replaces NaN, and positive and negative infinity: by default the largest and the lowest number of the dtype
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nan_to_num.html>).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn nan_to_num(&self, nan: f64, posinf: Option<f64>, neginf: Option<f64>) -> Result<Tensor> {
        if !self.dtype().is_float() {
            return self.copy();
        }
        let largest = match self.dtype() {
            DType::F64 => f64::MAX,
            DType::F16 => 65504.0,
            DType::BF16 => 3.389_531_389_251_535_5e38,
            _ => f64::from(f32::MAX),
        };
        let (posinf, neginf) = (posinf.unwrap_or(largest), neginf.unwrap_or(-largest));
        let out = self.isnan()?.where_cond(nan, self)?;
        let out = self.eq(f64::INFINITY)?.where_cond(posinf, &out)?;
        self.eq(f64::NEG_INFINITY)?.where_cond(neginf, &out)
    }

    /// [`sum`](Tensor::sum) over dimensions that counts NaN as 0.
    ///
    /// # Errors
    /// If a dimension is out of range or named twice.
    pub fn nansum(&self, dims: impl Dims) -> Result<Tensor> {
        cast_operands("nansum", [self], [], |[x], []| x.without_nan()?.sum(dims))
    }

    /// [`nansum`](Tensor::nansum) that keeps the dimensions with extent 1.
    ///
    /// # Errors
    /// If a dimension is out of range or named twice.
    pub fn nansum_keepdim(&self, dims: impl Dims) -> Result<Tensor> {
        cast_operands("nansum", [self], [], |[x], []| x.without_nan()?.sum_keepdim(dims))
    }

    /// [`mean`](Tensor::mean) over dimensions of the elements that are not NaN; NaN where there are none.
    ///
    /// # Errors
    /// If the tensor is not floating-point, or a dimension is out of range or named twice.
    pub fn nanmean(&self, dims: impl Dims) -> Result<Tensor> {
        check::floats("nanmean", self)?;
        let dims = dims.list();
        let (x, count) = (self.widened()?, self.isnan()?.logical_not()?.sum(dims)?);
        x.nansum(dims)?.div(&count.to_dtype(x.dtype())?)?.to_dtype(self.dtype())
    }

    /// [`nanmean`](Tensor::nanmean) that keeps the dimensions with extent 1.
    ///
    /// # Errors
    /// Those of [`nanmean`](Tensor::nanmean).
    pub fn nanmean_keepdim(&self, dims: impl Dims) -> Result<Tensor> {
        check::floats("nanmean_keepdim", self)?;
        let dims = dims.list();
        let (x, count) = (self.widened()?, self.isnan()?.logical_not()?.sum_keepdim(dims)?);
        x.nansum_keepdim(dims)?.div(&count.to_dtype(x.dtype())?)?.to_dtype(self.dtype())
    }

    fn without_nan(&self) -> Result<Tensor> {
        if self.dtype().is_float() { self.isnan()?.where_cond(0.0, self) } else { Ok(self.clone()) }
    }

    /// [`median`](Tensor::median) along a dimension of the elements that are not NaN, and its position; NaN where there are
    /// none.
    ///
    /// # Errors
    /// If the dimension is out of range or has no elements.
    pub fn nanmedian(&self, dim: impl Dim, keepdim: bool) -> Result<(Tensor, Tensor)> {
        const OP: &str = "nanmedian";
        let dim = dim.resolve(OP, self.rank())?;
        if self.rank() == 0 {
            return Ok((self.copy()?, Tensor::zeros((), (DType::I64, self.device()))?));
        }
        if self.dims()[dim] == 0 {
            return Err(Error::shape(OP, format!("elements in dimension {dim}"), self.shape()));
        }
        // NaN is sorted to the end.
        let places = no_grad(|| {
            let count = self.isnan()?.logical_not()?.sum_keepdim(dim)?;
            let middle = count.sub(1)?.clamp_min(0)?.floor_divide(2)?;
            self.detach().argsort(dim, false)?.gather(dim, &middle)
        })?;
        let values = self.gather(dim, &places)?;
        if keepdim { Ok((values, places)) } else { Ok((values.squeeze(dim)?, places.squeeze(dim)?)) }
    }

    /// [`nanmedian`](Tensor::nanmedian) of all elements; NaN if there are none.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn nanmedian_all(&self) -> Result<Tensor> {
        if self.numel() == 0 {
            return self.median_all();
        }
        Ok(self.flatten_all()?.nanmedian(0, false)?.0)
    }

    /// The quantiles `q`, a number or a tensor of numbers from 0 to 1, along a dimension or of all elements. A vector of
    /// quantiles is the first dimension of the result
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.quantile.html>). NaN where an element is.
    ///
    /// # Errors
    /// If the tensor is not `f32` or `f64`, the dimension is out of range or has no elements, `q` has more than 1
    /// dimension or another dtype, or a number `q` is not in 0 to 1.
    pub fn quantile(
        &self,
        q: impl Into<Rhs>,
        dim: impl OneOrAll,
        keepdim: bool,
        interpolation: Interpolation,
    ) -> Result<Tensor> {
        self.quantiles("quantile", &q.into(), dim.dim(), keepdim, interpolation, false)
    }

    /// [`quantile`](Tensor::quantile) of the elements that are not NaN.
    ///
    /// # Errors
    /// Those of [`quantile`](Tensor::quantile).
    pub fn nanquantile(
        &self,
        q: impl Into<Rhs>,
        dim: impl OneOrAll,
        keepdim: bool,
        interpolation: Interpolation,
    ) -> Result<Tensor> {
        self.quantiles("nanquantile", &q.into(), dim.dim(), keepdim, interpolation, true)
    }

    fn quantiles(
        &self,
        op: &'static str,
        q: &Rhs,
        dim: Option<i64>,
        keepdim: bool,
        interpolation: Interpolation,
        skip_nan: bool,
    ) -> Result<Tensor> {
        if !matches!(self.dtype(), DType::F32 | DType::F64) {
            return Err(Error::dtype(op, self.dtype(), "quantiles are of f32 and f64"));
        }
        let q = match q {
            Rhs::Scalar(number) if (0.0..=1.0).contains(&number.to_f64()) => Tensor::full((), *number, self.options())?,
            Rhs::Scalar(number) => return Err(Error::argument(op, format!("{number} is not in 0 to 1"))),
            Rhs::Tensor(tensor) => tensor.clone(),
        };
        check::same_kind(op, self, &[&q])?;
        if q.rank() > 1 {
            return Err(Error::shape(op, "a number or a vector of quantiles", q.shape()));
        }
        // The dimension becomes the last one.
        let (x, dim) = match dim {
            None => (self.flatten_all()?, None),
            Some(dim) if self.rank() == 0 => (self.flatten_all()?, Some(dim.resolve(op, 0)?)),
            Some(dim) => {
                let dim = dim.resolve(op, self.rank())?;
                (self.movedim(dim, -1)?, Some(dim))
            }
        };
        let extent = x.dims().last().copied().unwrap_or(1);
        if extent == 0 {
            return Err(Error::shape(op, "elements to take quantiles of", self.shape()));
        }
        let (sorted, _) = x.sort(-1, false)?;
        let list = q.flatten_all()?;
        let missing = no_grad(|| sorted.isnan())?;
        let ranks = if skip_nan {
            let count = missing.logical_not()?.sum_keepdim(-1)?.to_dtype(x.dtype())?;
            list.mul(&count.sub(1)?.clamp_min(0)?)?
        } else {
            // NaN is sorted to the end, so the last element is NaN if any is.
            let ranks = list.mul((extent - 1) as f64)?;
            missing.any_keepdim(-1)?.where_cond((extent - 1) as f64, &ranks)?
        };
        let places = no_grad(|| match interpolation {
            Interpolation::Lower => ranks.floor(),
            Interpolation::Higher => ranks.ceil(),
            Interpolation::Nearest => ranks.round(),
            Interpolation::Linear | Interpolation::Midpoint => Ok(ranks.detach()),
        })?;
        let at = |places: Tensor| sorted.gather(-1, &no_grad(|| places.to_dtype(DType::I64))?);
        let mut values = at(places.floor()?)?;
        if matches!(interpolation, Interpolation::Linear | Interpolation::Midpoint) {
            let weights = match interpolation {
                Interpolation::Midpoint => Tensor::full(places.dims(), 0.5, places.options())?,
                _ => ranks.sub(&places.floor()?)?,
            };
            values = values.lerp(&at(places.ceil()?)?, &weights)?;
        }
        // The quantiles become the first dimension.
        values = values.movedim(-1, 0)?;
        if keepdim {
            values = match dim {
                None => values.reshape([&[list.numel()], &vec![1; self.rank()][..]].concat())?,
                Some(_) if self.rank() == 0 => values,
                Some(dim) => values.unsqueeze(dim + 1)?,
            };
        }
        if q.rank() == 0 { values.squeeze(0) } else { Ok(values) }
    }

    /// The numbers of elements in `bins` intervals of equal length between `min` and `max`, in the dtype of the tensor;
    /// if both are equal, between the smallest and the largest element. Elements outside and NaN are not counted
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.histc.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point, there are no bins, or the bounds are not finite or in the wrong order.
    pub fn histc(&self, bins: usize, min: f64, max: f64) -> Result<Tensor> {
        const OP: &str = "histc";
        check::floats(OP, self)?;
        if bins == 0 || !min.is_finite() || !max.is_finite() || min > max {
            return Err(Error::argument(OP, format!("no bins, or no range: {bins} between {min} and {max}")));
        }
        no_grad(|| {
            let x = self.detach().widened()?.flatten_all()?;
            let (mut low, mut high) = (Tensor::full((), min, x.options())?, Tensor::full((), max, x.options())?);
            if min == max && self.numel() > 0 {
                (low, high) = (x.amin(())?, x.amax(())?);
            }
            let same = low.eq(&high)?;
            let (low, high) = (same.where_cond(&low.sub(1.0)?, &low)?, same.where_cond(&high.add(1.0)?, &high)?);
            // In the order in which PyTorch rounds.
            let places = x.sub(&low)?.mul(bins as f64)?.div(&high.sub(&low)?)?.floor()?.clamp_max((bins - 1) as f64)?;
            let inside = x.ge(&low)?.logical_and(&x.le(&high)?)?;
            // Elements outside are counted in one more bin after the last.
            let places = inside.where_cond(&places, bins as f64)?.to_dtype(DType::I64)?;
            let counts = Tensor::zeros([bins + 1], (DType::I64, x.device()))?;
            let ones = Tensor::ones(places.dims(), (DType::I64, x.device()))?;
            counts.scatter_add(0, &places, &ones)?.narrow(0, 0, bins)?.to_dtype(self.dtype())
        })
    }

    /// How often each number from 0 occurs in a vector of integers (`i64`), or the sums of their weights. The result has at
    /// least `minlength` elements (<https://docs.pytorch.org/docs/stable/generated/torch.bincount.html>). It waits for the
    /// device, since the length of the result depends on the largest number.
    ///
    /// # Errors
    /// If the tensor is not a vector of integers of at least 0, or the weights have another shape or device.
    pub fn bincount(&self, weights: Option<&Tensor>, minlength: usize) -> Result<Tensor> {
        const OP: &str = "bincount";
        if self.rank() != 1 {
            return Err(Error::shape(OP, "a vector of integers", self.shape()));
        }
        let numbers = check::indices(OP, self)?;
        if let Some(weights) = weights {
            check::same_device(OP, self, &[weights])?;
            if weights.shape() != self.shape() {
                return Err(Error::shapes(OP, self.shape(), weights.shape(), "a weight for each element"));
            }
        }
        let mut length = minlength;
        if self.numel() > 0 {
            if numbers.min(())?.item::<i64>()? < 0 {
                return Err(Error::argument(OP, "the numbers are at least 0"));
            }
            let largest = numbers.max(())?.item::<i64>()?;
            length = length.max(usize::try_from(largest).unwrap_or(usize::MAX).saturating_add(1));
        }
        let values = match weights {
            None => numbers.ones_like()?,
            Some(weights) if weights.dtype() == DType::F32 => weights.detach(),
            Some(weights) => weights.detach().to_dtype(DType::F64)?,
        };
        Tensor::zeros([length], values.options())?.scatter_add(0, &numbers, &values)
    }

    /// The covariance matrix of variables, the rows of `[D, N]` or one vector of observations; `correction` is
    /// subtracted from the number of observations (<https://docs.pytorch.org/docs/stable/generated/torch.cov.html>).
    /// Observations may have frequencies, integers, and weights.
    ///
    /// # Errors
    /// If there are more than 2 dimensions, or frequencies or weights are not one for each observation.
    pub fn cov(&self, correction: f64, fweights: Option<&Tensor>, aweights: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "cov";
        if self.rank() > 2 {
            return Err(Error::shape(OP, "at most 2 dimensions", self.shape()));
        }
        let x = self.atleast_2d()?;
        let x = if x.dtype().is_float() { x } else { x.to_dtype(DType::F32)? };
        let wide = x.widened()?;
        let count = wide.dims()[1];
        for vector in [fweights, aweights].into_iter().flatten() {
            if *vector.shape() != [count] {
                return Err(Error::shape(OP, format!("one of each of {count} observations"), vector.shape()));
            }
        }
        let as_float = |t: Option<&Tensor>| t.map(|t| t.to_dtype(wide.dtype())).transpose();
        let (frequencies, importance) = (as_float(fweights)?, as_float(aweights)?);
        let weights = match (&frequencies, &importance) {
            (Some(f), Some(a)) => Some(f.mul(a)?),
            (f, a) => f.clone().or_else(|| a.clone()),
        };
        let scalar = |value: f64| Tensor::full((), value, wide.options());
        let (mean, divisor) = match &weights {
            None => (wide.mean_keepdim(1)?, scalar(count as f64 - correction)?),
            Some(weights) => {
                let total = weights.sum(())?;
                let mean = wide.mul(weights)?.sum_keepdim(1)?.div(&total)?;
                let divisor = match &importance {
                    Some(importance) if correction != 0.0 => {
                        total.sub(&weights.mul(importance)?.sum(())?.div(&total)?.mul(correction)?)?
                    }
                    _ => total.sub(correction)?,
                };
                (mean, divisor)
            }
        };
        let centered = wide.sub(&mean)?;
        let scaled = weights.as_ref().map_or_else(|| Ok(centered.clone()), |weights| centered.mul(weights))?;
        let dtype = aweights.map_or(x.dtype(), |weights| x.dtype().promote(weights.dtype()));
        let products = scaled.matmul(&centered.t()?)?.div(&divisor.clamp_min(0.0)?)?.to_dtype(dtype)?;
        if products.numel() == 1 { products.reshape(()) } else { Ok(products) }
    }

    /// The matrix of correlation coefficients of variables, the rows of `[D, N]` or one vector of observations
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.corrcoef.html>).
    ///
    /// # Errors
    /// If there are more than 2 dimensions.
    pub fn corrcoef(&self) -> Result<Tensor> {
        let covariance = self.cov(1.0, None, None)?;
        if covariance.rank() == 0 {
            return covariance.div(&covariance);
        }
        let deviation = covariance.diagonal(0, 0, 1)?.sqrt()?;
        covariance.div(&deviation.unsqueeze(1)?)?.div(&deviation.unsqueeze(0)?)?.clamp(-1.0, 1.0)
    }
}
