//! Differences and sums of areas along a dimension: `diff`, `trapezoid`, `cumulative_trapezoid`; products and sums of
//! exponentials so far: `cumprod`, `logcumsumexp`.

use kiln_backend::{DType, Dim, Error, Result};
use kiln_derive::located;

use super::rhs::Rhs;
use crate::{autocast::cast_operands, tensor::Tensor};

#[located]
impl Tensor {
    /// The differences of neighbors along `dim`, `n` times; truth values differ or not. `prepend` and `append` are joined to the
    /// tensor first (<https://docs.pytorch.org/docs/stable/generated/torch.diff.html>).
    ///
    /// # Errors
    /// If the tensor is a scalar, the dimension is out of range, or what is joined does not fit.
    pub fn diff(&self, n: usize, dim: impl Dim, prepend: Option<&Tensor>, append: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "diff";
        let dim = self.real_dim(OP, dim.resolve(OP, self.rank())?)?;
        if n == 0 {
            return Ok(self.clone());
        }
        let parts: Vec<&Tensor> = prepend.into_iter().chain([self]).chain(append).collect();
        let mut out = if parts.len() > 1 { Tensor::cat(&parts, dim)? } else { self.clone() };
        for _ in 0..n.min(out.dims()[dim]) {
            let count = out.dims()[dim] - 1;
            let (later, earlier) = (out.narrow(dim, 1, count)?, out.narrow(dim, 0, count)?);
            out = if out.dtype() == DType::Bool { later.logical_xor(&earlier)? } else { later.sub(&earlier)? };
        }
        Ok(out)
    }

    /// The integral along `dim` by the trapezoidal rule, for points at a distance `x`, or at the places `x`, which broadcast or
    /// are a vector (<https://docs.pytorch.org/docs/stable/generated/torch.trapezoid.html>).
    ///
    /// # Errors
    /// If the tensor is a scalar, the dimension is out of range, or the places do not fit.
    pub fn trapezoid(&self, x: impl Into<Rhs>, dim: impl Dim) -> Result<Tensor> {
        const OP: &str = "trapezoid";
        let dim = self.real_dim(OP, dim.resolve(OP, self.rank())?)?;
        let (areas, dim) = self.areas(OP, &x.into(), dim)?;
        areas.sum(dim)
    }

    /// The integrals up to each point after the first, as [`trapezoid`](Tensor::trapezoid)
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.cumulative_trapezoid.html>).
    ///
    /// # Errors
    /// Those of [`trapezoid`](Tensor::trapezoid).
    pub fn cumulative_trapezoid(&self, x: impl Into<Rhs>, dim: impl Dim) -> Result<Tensor> {
        const OP: &str = "cumulative_trapezoid";
        let dim = self.real_dim(OP, dim.resolve(OP, self.rank())?)?;
        let (areas, dim) = self.areas(OP, &x.into(), dim)?;
        areas.cumsum(dim)
    }

    /// The areas between neighbors, and their dimension.
    fn areas(&self, op: &'static str, x: &Rhs, dim: usize) -> Result<(Tensor, usize)> {
        let count = self.dims()[dim].saturating_sub(1);
        let first = self.dims()[dim].min(1);
        let sums = self.narrow(dim, 0, count)?.add(&self.narrow(dim, first, count)?)?;
        let areas = match x {
            Rhs::Scalar(distance) => sums.mul(distance.to_f64())?,
            Rhs::Tensor(places) if places.rank() == 0 => {
                return Err(Error::shape(op, "places with at least 1 dimension", places.shape()));
            }
            Rhs::Tensor(places) if places.rank() == 1 => {
                let mut shape = vec![1; self.rank() - dim];
                shape[0] = places.numel().saturating_sub(1);
                sums.mul(&places.diff(1, 0, None, None)?.reshape(shape)?)?
            }
            Rhs::Tensor(places) => {
                // The dimension counts from the last.
                let from_last = dim as i64 - self.rank() as i64;
                sums.mul(&places.diff(1, from_last, None, None)?)?
            }
        };
        let rank = areas.rank() + dim - self.rank();
        Ok((areas.div(2.0)?, rank))
    }

    /// For each element, the product of the elements up to and including it along a dimension; integers and `bool` give `i64`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.cumprod.html>).
    ///
    /// # Errors
    /// If the dimension is out of range.
    pub fn cumprod(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve("cumprod", self.rank())?;
        cast_operands("cumprod", [self], [], |[own], []| {
            let x = if own.dtype().is_float() { own.widened()? } else { own.to_dtype(DType::I64)? };
            let out = x.doubling(dim, 1.0, |products, earlier| products.mul(earlier))?;
            if own.dtype().is_half() { out.to_dtype(own.dtype()) } else { Ok(out) }
        })
    }

    /// Vandermonde matrices: for each element a row with its powers from 0 to `n - 1` (`increasing`), or
    /// in the opposite order; `n` is the extent of the last dimension by default
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.vander.html>, and
    /// <https://docs.pytorch.org/docs/stable/generated/torch.linalg.vander.html>, which is increasing). Integers and `bool`
    /// give `i64`.
    ///
    /// # Errors
    /// If the tensor has the most dimensions that there may be.
    pub fn vander(&self, n: Option<usize>, increasing: bool) -> Result<Tensor> {
        let x = if self.dtype().is_float() { self.clone() } else { self.to_dtype(DType::I64)? };
        // A scalar is a vector of one element.
        let column = if x.rank() == 0 { x.reshape([1, 1])? } else { x.unsqueeze(-1)? };
        let n = n.or(self.dims().last().copied()).unwrap_or(1);
        let mut dims = column.dims().to_vec();
        let last = dims.len() - 1;
        dims[last] = n.min(1);
        let ones = Tensor::ones(&dims[..], x.options())?;
        if n < 2 {
            return Ok(ones);
        }
        dims[last] = n - 1;
        let powers = Tensor::cat(&[ones, column.expand(&dims[..])?.cumprod(-1)?], -1)?;
        if increasing { Ok(powers) } else { powers.flip(-1) }
    }

    /// For each element, the logarithm of the sum of the exponentials of the elements up to and including it along a dimension
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.logcumsumexp.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point or the dimension is out of range.
    pub fn logcumsumexp(&self, dim: impl Dim) -> Result<Tensor> {
        const OP: &str = "logcumsumexp";
        super::check::floats(OP, self)?;
        let dim = dim.resolve(OP, self.rank())?;
        let sums = self.widened()?.doubling(dim, f64::NEG_INFINITY, |sums, earlier| sums.logaddexp(earlier))?;
        sums.to_dtype(self.dtype())
    }

    /// Combines each element with all before it, in steps that double the distance: after each, an element stands for twice as
    /// many (Hillis & Steele, 1986). `neutral` stands before the first.
    fn doubling(
        &self,
        dim: usize,
        neutral: f64,
        combine: impl Fn(&Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.rank() == 0 {
            return self.copy();
        }
        let (extent, mut distance, mut out) = (self.dims()[dim], 1, self.copy()?);
        while distance < extent {
            let mut gap = self.dims().to_vec();
            gap[dim] = distance;
            let gap = Tensor::full(gap, neutral, self.options())?;
            let earlier = Tensor::cat(&[gap, out.narrow(dim, 0, extent - distance)?], dim)?;
            out = combine(&out, &earlier)?;
            distance *= 2;
        }
        Ok(out)
    }
}
