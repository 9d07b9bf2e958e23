//! Products added to a tensor, with factors: `addmm`, `addmv`, `baddbmm`, `addbmm`, `addr`, `addcmul`, `addcdiv`.

use kiln_backend::{DType, Error, Result, Scalar};
use kiln_derive::located;

use super::{check, promotion::result_type, rhs::Rhs};
use crate::{autocast::cast_operands, tensor::Tensor};

/// `beta · x + alpha · product`, in the dtype of `x`. With a `beta` of 0, `x` only gives the shape, so that NaN in it
/// does not count.
fn added(op: &'static str, x: &Tensor, product: &Tensor, beta: Scalar, alpha: Scalar) -> Result<Tensor> {
    let dtype = x.dtype();
    if !dtype.is_float() && [beta, alpha].iter().any(|factor| matches!(factor, Scalar::Float(_))) {
        return Err(Error::argument(op, format!("factors of {dtype} must be integers")));
    }
    // `x` broadcasts to the product, not the product to `x`.
    let x = x.expand(product.dims())?;
    let one = |factor: Scalar| factor.to_f64() == 1.0;
    let product = product.widened()?;
    let scaled = if one(alpha) { product } else { product.mul(alpha)? };
    let sum = if beta.to_f64() == 0.0 {
        scaled
    } else if one(beta) {
        x.widened()?.add(&scaled)?
    } else {
        x.widened()?.mul(beta)?.add(&scaled)?
    };
    sum.to_dtype(dtype)
}

/// Methods `self.name(a, b, beta, alpha)`: `beta · self + alpha · product`, of the product that each computes from its
/// operands.
macro_rules! added_products {
    ($($(#[$doc:meta])* $name:ident |$x:ident, $a:ident, $b:ident| $product:expr;)*) => {
        #[located]
        impl Tensor {$(
            $(#[$doc])*
            pub fn $name(
                &self,
                $a: &Tensor,
                $b: &Tensor,
                beta: impl Into<Scalar>,
                alpha: impl Into<Scalar>,
            ) -> Result<Tensor> {
                let (beta, alpha) = (beta.into(), alpha.into());
                cast_operands(stringify!($name), [self, $a, $b], [], |[$x, $a, $b], []| {
                    check::same_kind(stringify!($name), $x, &[$a, $b])?;
                    let ($a, $b) = (&$a.computed()?, &$b.computed()?);
                    added(stringify!($name), $x, &$product?, beta, alpha)
                })
            }
        )*}
    };
}
added_products! {
    /// `beta · self + alpha · (mat1 @ mat2)` of matrices; this tensor broadcasts to the product's shape
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.addmm.html>).
    ///
    /// # Errors
    /// Those of [`mm`](Tensor::mm); or if the shapes do not broadcast, dtypes differ, or a factor of integers is a float.
    addmm |x, mat1, mat2| mat1.mm(mat2);

    /// `beta · self + alpha · (mat @ vec)` of a matrix and a vector
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.addmv.html>).
    ///
    /// # Errors
    /// Those of [`mv`](Tensor::mv); or if the shapes do not broadcast, dtypes differ, or a factor of integers is a float.
    addmv |x, mat, vec| mat.mv(vec);

    /// `beta · self + alpha · (batch1 @ batch2)` of batches of matrices
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.baddbmm.html>).
    ///
    /// # Errors
    /// Those of [`bmm`](Tensor::bmm); or if the shapes do not broadcast, dtypes differ, or a factor of integers is a float.
    baddbmm |x, batch1, batch2| batch1.bmm(batch2);

    /// `beta · self + alpha · Σ batch1[i] @ batch2[i]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.addbmm.html>).
    ///
    /// # Errors
    /// Those of [`baddbmm`](Tensor::baddbmm).
    addbmm |x, batch1, batch2| sum_of_products(batch1, batch2);

    /// `beta · self + alpha · vec1 ⊗ vec2`, the outer product
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.addr.html>).
    ///
    /// # Errors
    /// Those of [`outer`](Tensor::outer); or if the shapes do not broadcast, dtypes differ, or a factor of integers is
    /// a float.
    // Not a product of the library: its gradients are sums, in half precision of rounded terms.
    addr |x, vec1, vec2| vec1.widened()?.outer(&vec2.widened()?);
}

/// `Σ batch1[i] @ batch2[i]`, as one product of matrices that lie beside each other.
fn sum_of_products(batch1: &Tensor, batch2: &Tensor) -> Result<Tensor> {
    const OP: &str = "addbmm";
    let (&[b, n, m], &[b2, m2, p]) = (batch1.dims(), batch2.dims()) else {
        return Err(Error::shapes(OP, batch1.shape(), batch2.shape(), "two batches of matrices"));
    };
    if (b, m) != (b2, m2) {
        return Err(Error::shapes(OP, batch1.shape(), batch2.shape(), "[B, N, M] and [B, M, P]"));
    }
    let wide = batch1.permute([1, 0, 2])?.reshape([n, b * m])?;
    wide.mm(&batch2.reshape([b * m, p])?)
}

#[located]
impl Tensor {
    /// `self + value · tensor1 · tensor2`, element by element
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.addcmul.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, devices differ, or the factor of integers is a float.
    pub fn addcmul(&self, tensor1: &Tensor, tensor2: &Tensor, value: impl Into<Scalar>) -> Result<Tensor> {
        let value = value.into();
        let dtype = self.common("addcmul", tensor1, tensor2, value)?;
        let product = tensor1.to_dtype(dtype)?.widened()?.mul(&tensor2.to_dtype(dtype)?.widened()?)?;
        self.with_part(dtype, &product, value)
    }

    /// `self + value · tensor1 / tensor2`, element by element
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.addcdiv.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, devices differ, or the tensors are integers.
    pub fn addcdiv(&self, tensor1: &Tensor, tensor2: &Tensor, value: impl Into<Scalar>) -> Result<Tensor> {
        let value = value.into();
        const OP: &str = "addcdiv";
        let dtype = self.common(OP, tensor1, tensor2, value)?;
        if !dtype.is_float() {
            return Err(Error::dtype(OP, dtype, "it divides floats; convert with `to_dtype`"));
        }
        let quotient = tensor1.to_dtype(dtype)?.widened()?.div(&tensor2.to_dtype(dtype)?.widened()?)?;
        self.with_part(dtype, &quotient, value)
    }

    /// The dtype of the result.
    fn common(&self, op: &'static str, a: &Tensor, b: &Tensor, value: Scalar) -> Result<DType> {
        let dtype = result_type(&[&Rhs::from(self), &Rhs::from(a), &Rhs::from(b)]);
        if !dtype.is_float() && matches!(value, Scalar::Float(_)) {
            return Err(Error::argument(op, format!("the factor of {dtype} must be an integer")));
        }
        Ok(dtype)
    }

    fn with_part(&self, dtype: DType, part: &Tensor, value: Scalar) -> Result<Tensor> {
        self.to_dtype(dtype)?.widened()?.add(&part.mul(value)?)?.to_dtype(dtype)
    }
}
