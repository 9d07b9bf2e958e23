//! Matrix products: `matmul`, `mm`, `bmm`.

use kiln_backend::{Arguments, DType, Error, MAX_RANK, MatmulArgs, Result, Shape};
use kiln_derive::located;
use smallvec::smallvec;

use super::check;
use crate::{
    autocast::cast_operands,
    autograd::{Grads, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// The matrix product, by the rules of PyTorch's `torch.matmul`: for two vectors the dot product (a scalar), for a
    /// matrix and a vector a vector, for tensors with more dimensions the products over their last two, where the
    /// leading dimensions are a batch and broadcast.
    ///
    /// # Errors
    /// If the inner extents differ, the batches do not broadcast, an operand is a scalar, or dtypes or devices differ.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        cast_operands("matmul", [self, other], [], |[a, b], []| a.matmul_no_autocast(b))
    }

    fn matmul_no_autocast(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (self, other);
        check_operands(a, b)?;
        match (a.rank(), b.rank()) {
            (1, 1) => {
                let out = product(&a.alias(a.layout().unsqueeze(0)?), &b.alias(b.layout().unsqueeze(1)?))?;
                let out = out.alias(out.layout().squeeze(1).squeeze(0)).detach();
                record(out, "DotBackward0", &[a, b], &[a, b], |ctx| {
                    let (grad, a, b) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
                    Ok(smallvec![ctx.when(0, || grad.mul(&b))?, ctx.when(1, || grad.mul(&a))?])
                })
                .map(described)
            }
            (2, 1) => {
                let out = product(a, &b.alias(b.layout().unsqueeze(1)?))?;
                let out = out.alias(out.layout().squeeze(1)).detach();
                record(out, "MvBackward0", &[a, b], &[a, b], |ctx| {
                    let (grad, a, b) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
                    Ok(smallvec![ctx.when(0, || grad.unsqueeze(1)?.mul(&b))?, ctx.when(1, || a.t()?.matmul(&grad))?])
                })
                .map(described)
            }
            (_, 1) => a.matmul(&b.unsqueeze(1)?)?.squeeze(-1),
            (1, _) => a.unsqueeze(0)?.matmul(b)?.squeeze(-2),
            (2, 2) => record(product(a, b)?, "MmBackward0", &[a, b], &[a, b], product_gradients).map(described),
            _ => record(product(a, b)?, "BmmBackward0", &[a, b], &[a, b], product_gradients).map(described),
        }
    }

    /// The product of two matrices.
    ///
    /// # Errors
    /// If either operand is not 2-D, or on any error of [`matmul`](Tensor::matmul).
    pub fn mm(&self, other: &Tensor) -> Result<Tensor> {
        for tensor in [self, other] {
            if tensor.rank() != 2 {
                return Err(Error::shape("mm", "two matrices", tensor.shape()));
            }
        }
        self.matmul(other)
    }

    /// The products of two batches of matrices, `[B, M, K]` and `[B, K, N]`. Nothing broadcasts.
    ///
    /// # Errors
    /// If either operand is not 3-D, if the batches differ, or on any error of [`matmul`](Tensor::matmul).
    pub fn bmm(&self, other: &Tensor) -> Result<Tensor> {
        for tensor in [self, other] {
            if tensor.rank() != 3 {
                return Err(Error::shape("bmm", "two batches of matrices", tensor.shape()));
            }
        }
        if self.dims()[0] != other.dims()[0] {
            return Err(Error::shapes("bmm", self.shape(), other.shape(), "the first extents must be equal"));
        }
        self.matmul(other)
    }
}

/// For exporters: ONNX has NumPy's rules for ranks.
fn described(out: Tensor) -> Tensor {
    out.described("matmul", || [])
}

fn check_operands(a: &Tensor, b: &Tensor) -> Result<()> {
    const OP: &str = "matmul";
    check::same_kind(OP, a, &[b])?;
    if a.dtype() == DType::Bool {
        return Err(Error::dtype(OP, DType::Bool, "it takes numbers; convert with `to_dtype`"));
    }
    if a.rank() == 0 || b.rank() == 0 {
        return Err(Error::shapes(OP, a.shape(), b.shape(), "both need at least 1 dimension"));
    }
    let inner = (a.dims()[a.rank() - 1], b.dims()[b.rank().saturating_sub(2)]);
    if inner.0 != inner.1 {
        let expected = format!("the inner extents, {} and {}, must be equal", inner.0, inner.1);
        return Err(Error::shapes(OP, a.shape(), b.shape(), expected));
    }
    Ok(())
}

/// The product of checked operands with at least 2 dimensions, not recorded on the tape.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "matmul";
    let ((m, k), (_, n)) = (matrix(a), matrix(b));
    let batch_of = |t: &Tensor| Shape::new(&t.dims()[..t.rank() - 2]);
    let batch = if a.rank() == 2 && b.rank() == 2 {
        Shape::SCALAR
    } else {
        Shape::broadcast(OP, &batch_of(a)?, &batch_of(b)?)
            .map_err(|_| Error::shapes(OP, a.shape(), b.shape(), "the leading dimensions must broadcast"))?
    };
    let with_matrix = |rows: usize, columns: usize| {
        let rank = batch.rank();
        if rank + 2 > MAX_RANK {
            return Err(Error::shape(OP, "at most 8 dimensions", &batch));
        }
        let mut dims = [0; MAX_RANK];
        dims[..rank].copy_from_slice(&batch);
        (dims[rank], dims[rank + 1]) = (rows, columns);
        Shape::new(&dims[..rank + 2])
    };
    let (layout_a, layout_b) =
        (a.layout().expand(OP, &with_matrix(m, k)?)?, b.layout().expand(OP, &with_matrix(k, n)?)?);
    let (x, y) = (a.read(), b.read());
    Tensor::compute(a.device(), a.dtype(), with_matrix(m, n)?, |backend, out| {
        backend.matmul(MatmulArgs { a: x.through(&layout_a), b: y.through(&layout_b), out }.checked()?)
    })
}

fn matrix(t: &Tensor) -> (usize, usize) {
    (t.dims()[t.rank() - 2], t.dims()[t.rank() - 1])
}

fn product_gradients(ctx: &crate::autograd::Ctx<'_>) -> Result<Grads> {
    let (grad, a, b) = (ctx.grad()?, ctx.saved(0)?, ctx.saved(1)?);
    let product = |a: &Tensor, b: &Tensor, shape: &Shape| {
        if ctx.create_graph { a.matmul(b)?.sum_to(shape) } else { summed_product(a, b, shape) }
    };
    Ok(smallvec![
        ctx.when(0, || product(&grad, &b.transpose(-1, -2)?, a.shape()))?,
        ctx.when(1, || product(&a.transpose(-1, -2)?, &grad, b.shape()))?
    ])
}

/// The product of `a` and `b`, summed over the leading dimensions that were broadcast from `shape`. These become part
/// of the inner dimension, so that the product itself forms the sum and rounds once.
fn summed_product(a: &Tensor, b: &Tensor, shape: &Shape) -> Result<Tensor> {
    let rank = a.rank().max(b.rank());
    let extent = |dims: &[usize], dim: usize| (dim + dims.len()).checked_sub(rank).map_or(1, |at| dims[at]);
    let is_summed = |dim: usize| extent(shape, dim) == 1 && (extent(a.dims(), dim) != 1 || extent(b.dims(), dim) != 1);
    let (summed, kept): (Vec<usize>, Vec<usize>) = (0..rank - 2).partition(|&dim| is_summed(dim));
    if summed.is_empty() {
        return product(a, b)?.reshape(shape);
    }
    // `[kept…, outer, summed…, inner]`, with the last ones merged into one dimension.
    let folded = |x: &Tensor, inner: usize, outer: usize| {
        let dims: Vec<usize> = (0..rank).map(|dim| extent(x.dims(), dim)).collect();
        let order: Vec<usize> = [&kept[..], &[outer], &summed, &[inner]].concat();
        let mut to: Vec<usize> = kept.iter().map(|&dim| dims[dim]).collect();
        to.push(dims[outer]);
        to.push(summed.iter().map(|&dim| dims[dim]).product::<usize>() * dims[inner]);
        x.reshape(&dims[..])?.permute(&order[..])?.reshape(&to[..])
    };
    let (a, b) = (folded(a, rank - 1, rank - 2)?, folded(b, rank - 2, rank - 1)?);
    product(&a, &b.transpose(-1, -2)?)?.reshape(shape)
}
