//! Products along chosen dimensions, and distances: `inner`, `tensordot`, `kron`, `cross`, `vecdot`, `matrix_power`,
//! `dist`, `cdist`.

use kiln_backend::{Dim, Error, MAX_RANK, Result};
use kiln_derive::located;

use super::{check, promotion::result_type, rhs::Rhs};
use crate::{autocast::cast_operands, tensor::Tensor};

/// The dimensions that [`Tensor::tensordot`] sums over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contraction {
    /// The last ones of the first operand and the first ones of the second.
    Last(usize),
    /// These of the first operand with these of the second.
    Pairs(Vec<i64>, Vec<i64>),
}

impl From<usize> for Contraction {
    fn from(count: usize) -> Contraction {
        Contraction::Last(count)
    }
}

impl<const N: usize> From<([i64; N], [i64; N])> for Contraction {
    fn from((first, second): ([i64; N], [i64; N])) -> Contraction {
        Contraction::Pairs(first.to_vec(), second.to_vec())
    }
}

/// Both operands in their common dtype.
fn promoted(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let dtype = result_type(&[&Rhs::from(a), &Rhs::from(b)]);
    Ok((a.to_dtype(dtype)?, b.to_dtype(dtype)?))
}

#[located]
impl Tensor {
    /// The sums of products along the last dimensions; the product if either is a scalar
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.inner.html>).
    ///
    /// # Errors
    /// If the last extents, dtypes or devices differ.
    pub fn inner(&self, other: &Tensor) -> Result<Tensor> {
        if self.rank() == 0 || other.rank() == 0 {
            return self.mul(other);
        }
        self.contracted("inner", other, &[self.rank() - 1], &[other.rank() - 1])
    }

    /// The sums of products over pairs of dimensions, with the other dimensions of this tensor and then those of the other:
    /// `x.tensordot(&y, 1)` is the matrix product, `x.tensordot(&y, ([0], [1]))` sums over dimension 0 of `x` and 1 of `y`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.tensordot.html>).
    ///
    /// # Errors
    /// If a dimension is out of range or named twice, extents of a pair differ, or dtypes or devices differ.
    pub fn tensordot(&self, other: &Tensor, dims: impl Into<Contraction>) -> Result<Tensor> {
        const OP: &str = "tensordot";
        let (first, second) = match dims.into() {
            Contraction::Last(count) if count > self.rank() || count > other.rank() => {
                let expected = format!("at least {count} dimensions each");
                return Err(Error::shapes(OP, self.shape(), other.shape(), expected));
            }
            Contraction::Last(count) => ((self.rank() - count..self.rank()).collect(), (0..count).collect()),
            Contraction::Pairs(first, second) => {
                let resolve = |dims: &[i64], rank: usize| -> Result<Vec<usize>> {
                    dims.iter().map(|dim| dim.resolve(OP, rank)).collect()
                };
                (resolve(&first, self.rank())?, resolve(&second, other.rank())?)
            }
        };
        self.contracted(OP, other, &first, &second)
    }

    fn contracted(&self, op: &'static str, other: &Tensor, first: &[usize], second: &[usize]) -> Result<Tensor> {
        check::same_kind(op, self, &[other])?;
        let twice = |dims: &[usize]| (1..dims.len()).any(|i| dims[..i].contains(&dims[i]));
        let extents = |t: &Tensor, dims: &[usize]| -> Vec<usize> { dims.iter().map(|&dim| t.dims()[dim]).collect() };
        if first.len() != second.len()
            || twice(first)
            || twice(second)
            || first.iter().any(|&dim| dim >= self.rank())
            || second.iter().any(|&dim| dim >= other.rank())
            || !first.iter().zip(second).all(|(&a, &b)| {
                let (a, b) = (self.dims()[a], other.dims()[b]);
                a == b || a == 1 || b == 1
            })
        {
            let expected = format!("equal extents of dimensions {first:?} and {second:?}");
            return Err(Error::shapes(op, self.shape(), other.shape(), expected));
        }
        let free =
            |t: &Tensor, dims: &[usize]| -> Vec<usize> { (0..t.rank()).filter(|dim| !dims.contains(dim)).collect() };
        // An extent of 1 broadcasts: the elements of the other operand are summed.
        let (mut x, mut y) = (self.clone(), other.clone());
        for (&a, &b) in first.iter().zip(second) {
            if x.dims()[a] == 1 && y.dims()[b] != 1 {
                y = y.sum_keepdim(b)?.to_dtype(y.dtype())?;
            } else if y.dims()[b] == 1 && x.dims()[a] != 1 {
                x = x.sum_keepdim(a)?.to_dtype(x.dtype())?;
            }
        }
        let (this, other) = (&x, &y);
        let (rows, columns) = (free(this, first), free(other, second));
        let shape = [extents(this, &rows), extents(other, &columns)].concat();
        let count = |t: &Tensor, dims: &[usize]| extents(t, dims).iter().product::<usize>();
        let inner = count(this, first);
        let a = this.permute([&rows[..], first].concat())?.reshape([count(this, &rows), inner])?;
        let b = other.permute([second, &columns[..]].concat())?.reshape([inner, count(other, &columns)])?;
        if a.dims()[0] == 1 && b.dims()[1] == 1 {
            return a.reshape([inner])?.dot(&b.reshape([inner])?)?.reshape(shape);
        }
        a.matmul(&b)?.reshape(shape)
    }

    /// The Kronecker product: the second tensor, once for each element of this one and multiplied by it
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.kron.html>).
    ///
    /// # Errors
    /// If a tensor has more than 4 dimensions, or devices differ.
    pub fn kron(&self, other: &Tensor) -> Result<Tensor> {
        const OP: &str = "kron";
        let rank = self.rank().max(other.rank());
        if 2 * rank > MAX_RANK {
            return Err(Error::shapes(OP, self.shape(), other.shape(), "at most 4 dimensions"));
        }
        let padded = |t: &Tensor| [vec![1; rank - t.rank()], t.dims().to_vec()].concat();
        let (a, b) = (padded(self), padded(other));
        let apart = |dims: &[usize], first: bool| -> Vec<usize> {
            dims.iter().flat_map(|&extent| if first { [extent, 1] } else { [1, extent] }).collect()
        };
        let product = self.reshape(apart(&a, true))?.mul(&other.reshape(apart(&b, false))?)?;
        product.reshape(a.iter().zip(&b).map(|(a, b)| a * b).collect::<Vec<_>>())
    }

    /// The cross product of vectors of 3 elements along `dim`. The operands broadcast
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.cross.html>).
    ///
    /// # Errors
    /// If the shapes do not broadcast, the dimension is out of range or its extent not 3, or devices differ.
    pub fn cross(&self, other: &Tensor, dim: impl Dim) -> Result<Tensor> {
        const OP: &str = "cross";
        if self.rank() != other.rank() {
            return Err(Error::shapes(OP, self.shape(), other.shape(), "the same number of dimensions"));
        }
        let dim = dim.resolve(OP, self.rank())?;
        if self.dims().get(dim) != Some(&3) || other.dims()[dim] != 3 {
            return Err(Error::shapes(OP, self.shape(), other.shape(), format!("an extent of 3 in dimension {dim}")));
        }
        let (a, b) = promoted(self, other)?;
        let (x, y) = (a.widened()?, b.widened()?);
        let turned = |t: &Tensor, by: i64| t.roll(-by, dim as i64);
        let positive = turned(&x, 1)?.mul(&turned(&y, 2)?)?;
        positive.sub(&turned(&x, 2)?.mul(&turned(&y, 1)?)?)?.to_dtype(a.dtype())
    }

    /// The dot products of vectors along `dim`. The operands broadcast
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.vecdot.html>).
    ///
    /// # Errors
    /// If the tensors are not floating-point or do not broadcast, the dimension is out of range, or devices differ.
    pub fn vecdot(&self, other: &Tensor, dim: impl Dim) -> Result<Tensor> {
        const OP: &str = "vecdot";
        check::floats(OP, self)?;
        let (a, b) = promoted(self, other)?;
        let product = a.widened()?.mul(&b.widened()?)?;
        let dim = product.real_dim(OP, dim.resolve(OP, product.rank())?)?;
        product.sum(dim)?.to_dtype(a.dtype())
    }

    /// The product of square matrices `[…, n, n]` with themselves, `n` times; the identity for 0
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.linalg.matrix_power.html>).
    ///
    /// # Errors
    /// If the tensor is not floating-point or not of square matrices.
    pub fn matrix_power(&self, n: u32) -> Result<Tensor> {
        const OP: &str = "matrix_power";
        check::floats(OP, self)?;
        let &[.., rows, columns] = self.dims() else {
            return Err(Error::shape(OP, "square matrices [..., n, n]", self.shape()));
        };
        if rows != columns {
            return Err(Error::shape(OP, "square matrices [..., n, n]", self.shape()));
        }
        let (mut power, mut rest) = (self.clone(), n);
        let mut result: Option<Tensor> = None;
        while rest > 0 {
            if rest % 2 == 1 {
                result = Some(match result {
                    None => power.clone(),
                    Some(result) => result.matmul(&power)?,
                });
            }
            rest /= 2;
            if rest > 0 {
                power = power.matmul(&power)?;
            }
        }
        match result {
            Some(result) if n == 1 => result.copy(),
            Some(result) => Ok(result),
            None => Tensor::eye([rows], self.options())?.expand(self.dims())?.contiguous(),
        }
    }

    /// The `p`-norm of the difference, a scalar. The operands broadcast
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.dist.html>).
    ///
    /// # Errors
    /// If the tensors are not floating-point or do not broadcast, or devices differ.
    pub fn dist(&self, other: &Tensor, p: impl Into<f64>) -> Result<Tensor> {
        check::floats("dist", self)?;
        let p: f64 = p.into();
        cast_operands("dist", [self, other], [], |[a, b], []| {
            let (a, b) = promoted(a, b)?;
            a.widened()?.sub(&b.widened()?)?.norm(p, ())?.to_dtype(a.dtype())
        })
    }

    /// The `p`-norms of the differences between each vector of `[…, P, M]` and each of `[…, R, M]`: `[…, P, R]`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.cdist.html>). It takes memory of `P · R · M` elements.
    ///
    /// # Errors
    /// If the tensors are not floating-point or have fewer than 2 dimensions, lengths of vectors differ, the leading
    /// dimensions do not broadcast, or dtypes or devices differ.
    pub fn cdist(&self, other: &Tensor, p: impl Into<f64>) -> Result<Tensor> {
        let p: f64 = p.into();
        cast_operands("cdist", [self, other], [], |[x, other], []| x.cdist_no_autocast(other, p))
    }

    fn cdist_no_autocast(&self, other: &Tensor, p: f64) -> Result<Tensor> {
        const OP: &str = "cdist";
        check::floats(OP, self)?;
        check::same_kind(OP, self, &[other])?;
        if self.rank() < 2 || other.rank() < 2 || self.dims().last() != other.dims().last() {
            return Err(Error::shapes(OP, self.shape(), other.shape(), "[..., P, M] and [..., R, M]"));
        }
        check_exponent(OP, p)?;
        self.widened()?.unsqueeze(-2)?.sub(&other.widened()?.unsqueeze(-3)?)?.norm(p, -1)?.to_dtype(self.dtype())
    }

    /// The `p`-norms of the differences of each two of the vectors `[N, M]`, of the first with those after it, the second with those
    /// after it, …: `[N (N - 1) / 2]` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.pdist.html>). It takes
    /// memory of as many vectors.
    ///
    /// # Errors
    /// If the tensor is not a matrix of floats, or `p` is below 0.
    pub fn pdist(&self, p: impl Into<f64>) -> Result<Tensor> {
        let p: f64 = p.into();
        cast_operands("pdist", [self], [], |[x], []| x.pdist_no_autocast(p))
    }

    fn pdist_no_autocast(&self, p: f64) -> Result<Tensor> {
        const OP: &str = "pdist";
        check::floats(OP, self)?;
        let &[n, _] = self.dims() else { return Err(Error::shape(OP, "vectors [N, M]", self.shape())) };
        check_exponent(OP, p)?;
        let pairs = Tensor::triu_indices(n, n, 1, self.device())?;
        let x = self.widened()?;
        let vectors = |which: i64| x.index_select(0, &pairs.select(0, which)?);
        vectors(0)?.sub(&vectors(1)?)?.norm(p, -1)?.to_dtype(self.dtype())
    }
}

fn check_exponent(op: &'static str, p: f64) -> Result<()> {
    if p.is_nan() || p < 0.0 {
        return Err(Error::argument(op, format!("the norm's exponent is {p}, not a number of 0 or more")));
    }
    Ok(())
}
