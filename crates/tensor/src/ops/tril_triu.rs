//! Triangles and diagonals of matrices: `tril`, `triu`, `diagonal`, `diag`, `trace`.

use kiln_backend::{Arguments, Dim, Error, Layout, Result, Shape, TrilTriuArgs};
use kiln_derive::located;
use smallvec::SmallVec;

use super::view::place;
use crate::{
    autocast::cast_operands,
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// The lower triangle of each matrix (over the last two dimensions), zeros elsewhere: elements with `column - row
    /// <= diagonal` stay.
    ///
    /// # Errors
    /// If the tensor has fewer than 2 dimensions.
    pub fn tril(&self, diagonal: i64) -> Result<Tensor> {
        self.tril_triu("tril", "TrilBackward0", false, diagonal)
    }

    /// The upper triangle of each matrix (over the last two dimensions), zeros elsewhere: elements with `column - row
    /// >= diagonal` stay.
    ///
    /// # Errors
    /// If the tensor has fewer than 2 dimensions.
    pub fn triu(&self, diagonal: i64) -> Result<Tensor> {
        self.tril_triu("triu", "TriuBackward0", true, diagonal)
    }

    fn tril_triu(&self, op: &'static str, node: &'static str, upper: bool, diagonal: i64) -> Result<Tensor> {
        if self.rank() < 2 {
            return Err(Error::shape(op, "at least 2 dimensions", self.shape()));
        }
        let reading = self.read();
        let out = Tensor::compute(self.device(), self.dtype(), *self.shape(), |backend, out| {
            backend.tril_triu(TrilTriuArgs { upper, diagonal, x: reading.view(), out }.checked()?)
        })?;
        let out =
            record(out, node, &[self], &[], move |ctx| Ok(one(ctx.grad()?.tril_triu(op, node, upper, diagonal)?)))?;
        Ok(out.described(op, || [("diagonal", diagonal.into())]))
    }

    /// The view of the diagonal of the matrices that two dimensions form, `offset` columns to the right of the main one
    /// (negative: rows below). The two dimensions are dropped, and the diagonal becomes the last one.
    ///
    /// # Errors
    /// If a dimension is out of range, or both are the same.
    pub fn diagonal(&self, offset: i64, dim1: impl Dim, dim2: impl Dim) -> Result<Tensor> {
        const OP: &str = "diagonal";
        let (dim1, dim2) = (self.real_dim(OP, dim1)?, self.real_dim(OP, dim2)?);
        if dim1 == dim2 {
            return Err(Error::argument(OP, format!("the dimensions must differ, both are {dim1}")));
        }
        let shape = *self.shape();
        let layout = diagonal_layout(self.layout(), offset, dim1, dim2)?;
        let out = self.view_through("DiagonalBackward0", layout, move |ctx| {
            // The diagonal of a contiguous tensor of the same shape, for the gradient.
            let contiguous = diagonal_layout(&Layout::contiguous(shape), offset, dim1, dim2)?;
            place(&shape, &ctx.grad()?, |_| contiguous)
        })?;
        Ok(out.described(OP, || [("offset", offset.into()), ("dim1", dim1.into()), ("dim2", dim2.into())]))
    }

    /// For a vector, the square matrix with it on the diagonal `offset` columns to the right of the main one (negative:
    /// rows below); for a matrix, that diagonal. A copy.
    ///
    /// # Errors
    /// If the tensor is not 1-D or 2-D, or the matrix is too large.
    pub fn diag(&self, offset: i64) -> Result<Tensor> {
        match *self.dims() {
            [len] => {
                let too_large = || Error::argument("diag", format!("an offset of {offset} is too large"));
                let shift = usize::try_from(offset.unsigned_abs()).map_err(|_| too_large())?;
                let n = len.checked_add(shift).ok_or_else(too_large)?;
                let out = Tensor::zeros([n, n], self.options())?;
                let slot = out.alias(diagonal_layout(out.layout(), offset, 0, 1)?);
                no_grad(|| slot.copy_(self))?;
                let out =
                    record(out, "DiagEmbedBackward0", &[self], &[], move |ctx| Ok(one(ctx.grad()?.diag(offset)?)))?;
                Ok(out.described("diag", || [("offset", offset.into())]))
            }
            [_, _] => {
                let layout = diagonal_layout(self.layout(), offset, 0, 1)?;
                let out = self.detach().alias(layout).copy()?;
                let shape = *self.shape();
                let out = record(out, "DiagonalBackward0_copy", &[self], &[], move |ctx| {
                    let contiguous = diagonal_layout(&Layout::contiguous(shape), offset, 0, 1)?;
                    Ok(one(place(&shape, &ctx.grad()?, |_| contiguous)?))
                })?;
                let dims = || [("offset", offset.into()), ("dim1", 0usize.into()), ("dim2", 1usize.into())];
                Ok(out.described("diagonal", dims))
            }
            _ => Err(Error::shape("diag", "1 or 2 dimensions", self.shape())),
        }
    }

    /// The sum of a matrix's diagonal; integers and `bool` give `i64`.
    ///
    /// # Errors
    /// If the tensor is not 2-D.
    pub fn trace(&self) -> Result<Tensor> {
        if self.rank() != 2 {
            return Err(Error::shape("trace", "a matrix", self.shape()));
        }
        let out = cast_operands("trace", [self], [], |[x], []| no_grad(|| x.diagonal(0, 0, 1)?.sum(())))?;
        let shape = *self.shape();
        record(out, "TraceBackward0", &[self], &[], move |ctx| {
            let diagonal = diagonal_layout(&Layout::contiguous(shape), 0, 0, 1)?;
            Ok(one(place(&shape, &ctx.grad()?.expand([diagonal.numel()])?, |_| diagonal)?))
        })
    }
}

/// The layout of a diagonal: the two dimensions are dropped, and a new last one steps through both at once.
fn diagonal_layout(layout: &Layout, offset: i64, dim1: usize, dim2: usize) -> Result<Layout> {
    let shift = usize::try_from(offset.unsigned_abs()).unwrap_or(usize::MAX);
    let (down, right) = if offset < 0 { (shift, 0) } else { (0, shift) };
    let [rows, columns] = [(dim1, down), (dim2, right)].map(|(dim, skip)| layout.dims()[dim].saturating_sub(skip));
    let len = rows.min(columns);
    let others = || (0..layout.rank()).filter(|&dim| dim != dim1 && dim != dim2);
    let mut start = layout.offset() as isize;
    // Without elements there may be no memory to step into.
    if len > 0 && others().all(|dim| layout.dims()[dim] > 0) {
        start += down as isize * layout.strides()[dim1] + right as isize * layout.strides()[dim2];
    }
    let mut dims: SmallVec<[usize; 8]> = others().map(|dim| layout.dims()[dim]).collect();
    let mut strides: SmallVec<[isize; 8]> = others().map(|dim| layout.strides()[dim]).collect();
    dims.push(len);
    strides.push(layout.strides()[dim1] + layout.strides()[dim2]);
    Layout::strided(Shape::new(&dims)?, &strides, start as usize)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn x() -> Result<Tensor> {
        Tensor::arange(1., 7., Device::Cpu)?.reshape([2, 3])?.requires_grad_(true)
    }

    #[test]
    fn triangles() -> Result<()> {
        let x = x()?;
        assert_eq!(x.tril(0)?.to_vec::<f32>()?, [1., 0., 0., 4., 5., 0.]);
        x.triu(1)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 1., 1., 0., 0., 1.]);
        assert!(x.flatten_all()?.tril(0).is_err());
        assert_eq!(Tensor::zeros([0, 3], Device::Cpu)?.triu(0)?.dims(), [0, 3]);
        Ok(())
    }

    #[test]
    fn diagonals_are_views() -> Result<()> {
        let x = x()?;
        let d = x.diagonal(1, 0, 1)?;
        assert_eq!(d.to_vec::<f32>()?, [2., 6.]);
        d.mul(&d)?.sum(())?.add(&x.trace()?)?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 4., 0., 0., 1., 12.]);
        assert_eq!(x.t()?.diagonal(-1, 0, 1)?.to_vec::<f32>()?, [2., 6.]);
        assert_eq!(x.diagonal(9, 0, 1)?.dims(), [0]);
        assert_eq!(x.diagonal(i64::MIN, 0, 1)?.dims(), [0]);
        assert!(Tensor::zeros([2, 0, 4], Device::Cpu)?.diagonal(1, 0, 2)?.to_vec::<f32>()?.is_empty());
        assert!(x.diagonal(0, 0, -2).is_err());
        let zeros = Tensor::zeros([2, 2, 2], Device::Cpu)?;
        zeros.diagonal(0, 1, 2)?.fill_(1)?;
        assert_eq!(zeros.to_vec::<f32>()?, [1., 0., 0., 1., 1., 0., 0., 1.]);
        Ok(())
    }

    #[test]
    fn diag_both_ways() -> Result<()> {
        let x = x()?;
        let v = x.diag(-1)?;
        assert_eq!((v.to_vec::<f32>()?, v.grad_fn().unwrap().name()), (vec![4.], "DiagonalBackward0_copy"));
        let m = v.diag(1)?;
        assert_eq!(m.to_vec::<f32>()?, [0., 4., 0., 0.]);
        m.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 0., 0., 1., 0., 0.]);
        assert!(v.diag(i64::MIN).is_err() && Tensor::new(1f32, Device::Cpu)?.diag(0).is_err());
        Ok(())
    }
}
