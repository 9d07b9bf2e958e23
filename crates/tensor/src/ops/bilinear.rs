//! Bilinear maps and similarities of pairs of vectors: `bilinear`, `cosine_similarity`, `pairwise_distance`.

use kiln_backend::{Dim, Error, Result};
use kiln_derive::located;

use super::check;
use crate::{autocast::cast_operands, tensor::Tensor};

#[located]
impl Tensor {
    /// The bilinear map `xᵀ A y + b` of vectors along the last dimensions: `[…, I]` and `[…, J]` with a weight `[O, I,
    /// J]` and a bias `[O]` give `[…, O]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.bilinear.html>).
    ///
    /// # Errors
    /// If the shapes do not fit together, or dtypes or devices differ.
    pub fn bilinear(&self, other: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        cast_operands("bilinear", [self, other, weight], [bias], |[x, y, weight], [bias]| {
            x.bilinear_no_autocast(y, weight, bias)
        })
    }

    fn bilinear_no_autocast(&self, other: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        const OP: &str = "bilinear";
        check::floats(OP, self)?;
        check::same_kind(OP, self, &[other, weight])?;
        let (&[o, i, j], [before @ .., in1], [before2 @ .., in2]) = (weight.dims(), self.dims(), other.dims()) else {
            return Err(Error::shapes(OP, self.shape(), weight.shape(), "[…, I] and a weight [O, I, J]"));
        };
        if before != before2 {
            return Err(Error::shapes(OP, self.shape(), other.shape(), "the same dimensions before the last"));
        }
        if (*in1, *in2) != (i, j) {
            let expected = format!("vectors of {i} and {j} elements for the weight");
            return Err(Error::shapes(OP, self.shape(), other.shape(), expected));
        }
        let rows: usize = before.iter().product();
        // `[I, O · J]`: a matrix for each row of the first operand.
        let flat = weight.computed()?.permute([1, 0, 2])?.reshape([i, o * j])?;
        let maps = self.computed()?.reshape([rows, i])?.matmul(&flat)?.reshape([rows, o, j])?;
        let mut out = maps.matmul(&other.computed()?.reshape([rows, j, 1])?)?.reshape([before, &[o]].concat())?;
        if let Some(bias) = bias {
            check::same_kind(OP, self, &[bias])?;
            if *bias.shape() != [o] {
                return Err(Error::shape(OP, format!("a bias of the {o} outputs"), bias.shape()));
            }
            out = out.add(&bias.to_dtype(out.dtype())?)?;
        }
        out.to_dtype(self.dtype())
    }

    /// The cosine of the angle between vectors along `dim`: `x · y / (max(‖x‖, eps) max(‖y‖, eps))`. The operands broadcast
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cosine_similarity.html>).
    ///
    /// # Errors
    /// If the tensors are not floating-point or do not broadcast, the dimension is out of range, or devices differ.
    pub fn cosine_similarity(&self, other: &Tensor, dim: impl Dim, eps: f64) -> Result<Tensor> {
        const OP: &str = "cosine_similarity";
        check::floats(OP, self)?;
        check::floats(OP, other)?;
        cast_operands(OP, [self, other], [], |[x, y], []| x.cosine_similarity_no_autocast(y, &dim, eps))
    }

    fn cosine_similarity_no_autocast(&self, other: &Tensor, dim: &impl Dim, eps: f64) -> Result<Tensor> {
        const OP: &str = "cosine_similarity";
        let dtype = self.dtype().promote(other.dtype());
        let (x, y) = (self.widened()?, other.widened()?);
        let products = x.mul(&y)?;
        let dim = dim.resolve(OP, products.rank())?;
        let (x, y) = (x.expand(products.dims())?, y.expand(products.dims())?);
        let unit = |x: &Tensor| x.div(&x.norm_keepdim(2.0, dim)?.clamp_min(eps)?);
        unit(&x)?.mul(&unit(&y)?)?.sum(dim)?.to_dtype(dtype)
    }

    /// The `p`-norm of `x - y + eps` over the last dimension. The operands broadcast
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pairwise_distance.html>).
    ///
    /// # Errors
    /// If the tensors are not floating-point or do not broadcast, have no dimensions, or devices differ.
    pub fn pairwise_distance(&self, other: &Tensor, p: impl Into<f64>, eps: f64, keepdim: bool) -> Result<Tensor> {
        const OP: &str = "pairwise_distance";
        check::floats(OP, self)?;
        check::floats(OP, other)?;
        cast_operands(OP, [self, other], [], |[x, y], []| x.pairwise_distance_no_autocast(y, p.into(), eps, keepdim))
    }

    fn pairwise_distance_no_autocast(&self, other: &Tensor, p: f64, eps: f64, keepdim: bool) -> Result<Tensor> {
        const OP: &str = "pairwise_distance";
        let dtype = self.dtype().promote(other.dtype());
        let difference = self.widened()?.sub(&other.widened()?)?.add(eps)?;
        if difference.rank() == 0 {
            return Err(Error::shape(OP, "vectors", self.shape()));
        }
        if keepdim { difference.norm_keepdim(p, -1) } else { difference.norm(p, -1) }?.to_dtype(dtype)
    }
}
