//! Index tensors and masks in an index ("advanced indexing").

use kiln_backend::{DType, Error, ErrorKind, MAX_RANK, Result, Shape};
use smallvec::SmallVec;

use crate::{
    autograd::{no_grad, one, record},
    tensor::Tensor,
};

/// The positions where a mask is true, one list for each of its dimensions. `dims` are the extents that it covers, the
/// first of which is dimension `own` of the tensor.
pub(super) fn mask_lists(mask: &Tensor, dims: &[usize], own: usize) -> Result<Vec<Tensor>> {
    if mask.rank() == 0 {
        return Err(Error::shape("i", "a mask with dimensions", mask.shape()));
    }
    if dims.get(..mask.rank()) != Some(mask.dims()) {
        let expected = format!("a mask of the extents {:?} (from dimension {own} on)", &dims[..mask.rank()]);
        return Err(Error::shape("i", expected, mask.shape()));
    }
    mask.nonzero()?.unbind(1)
}

/// The elements of `x` at the index lists, each for one of its dimensions, in ascending order.
pub(super) fn read(x: &Tensor, lists: &[(usize, Tensor)]) -> Result<Tensor> {
    let Some(((first, _), (last, _))) = lists.first().zip(lists.last()) else { return Ok(x.clone()) };
    let mut shape = Shape::SCALAR;
    for (dim, list) in lists {
        super::super::check::same_device("i", x, &[list])?;
        if !matches!(list.dtype(), DType::I64 | DType::I32) {
            let expected = format!("dimension {dim} is indexed by i64 or i32, or a bool mask (u8 could mean either)");
            return Err(Error::dtype("i", list.dtype(), expected));
        }
        shape = Shape::broadcast("i", &shape, list.shape())?;
    }
    // The result's indexed dimensions: in place if they are adjacent, first if others are between them.
    let indexed = |dim: usize| lists.iter().any(|(d, _)| *d == dim);
    let adjacent = last - first + 1 == lists.len();
    let front = if adjacent { *first } else { 0 };
    let others: SmallVec<[usize; MAX_RANK]> = (0..x.rank()).filter(|&dim| !indexed(dim)).collect();
    let mut order: SmallVec<[usize; MAX_RANK]> = others[..front].into();
    order.extend(lists.iter().map(|(dim, _)| *dim));
    order.extend_from_slice(&others[front..]);

    let extent = |dims: &[usize]| dims.iter().map(|&d| x.dims()[d]).product::<usize>();
    let (before, after) = (extent(&others[..front]), extent(&others[front..]));
    let flat = [before, extent(&order[front..front + lists.len()]), after];
    let mut dims: SmallVec<[usize; MAX_RANK]> = others[..front].iter().map(|&d| x.dims()[d]).collect();
    dims.extend_from_slice(shape.dims());
    dims.extend(others[front..].iter().map(|&d| x.dims()[d]));
    let result = Shape::new(&dims)?;

    let positions = positions(x, lists, &shape)?;
    let out = no_grad(|| x.permute(&order[..])?.reshape(flat)?.index_select(1, &positions)?.reshape(result))
        .map_err(|error| explain(error, x, lists))?;
    let permuted: SmallVec<[usize; MAX_RANK]> = order.iter().map(|&d| x.dims()[d]).collect();
    let mut inverse: SmallVec<[usize; MAX_RANK]> = SmallVec::from_elem(0, order.len());
    order.iter().enumerate().for_each(|(to, &from)| inverse[from] = to);
    let count = positions.numel();
    record(out, "IndexBackward0", &[x], &[&positions], move |ctx| {
        let grad = ctx.grad()?;
        let sum = Tensor::zeros(flat, grad.options())?;
        sum.index_add_(1, &ctx.saved(0)?, &grad.reshape([before, count, after])?)?;
        Ok(one(sum.reshape(&permuted[..])?.permute(&inverse[..])?))
    })
}

/// A single list of positions in the indexed dimensions, merged into one. An index out of range gives -1.
fn positions(x: &Tensor, lists: &[(usize, Tensor)], shape: &Shape) -> Result<Tensor> {
    let mut all: Option<(Tensor, Tensor)> = None;
    for (dim, list) in lists {
        let extent = x.dims()[*dim];
        let list = list.to_dtype(DType::I64)?.expand(shape)?;
        let list = list.lt(0)?.where_cond(&list.add(extent)?, &list)?;
        if lists.len() == 1 {
            return list.flatten_all();
        }
        let inside = list.ge(0)?.logical_and(&list.lt(extent)?)?;
        all = Some(match all {
            None => (list, inside),
            Some((so_far, valid)) => (so_far.mul(extent)?.add(&list)?, valid.logical_and(&inside)?),
        });
    }
    let Some((list, valid)) = all else { return Err(Error::argument("i", "there is no index tensor")) };
    valid.where_cond(&list, -1)?.flatten_all()
}

/// Restates an error of `index_select` in terms of the index.
fn explain(error: Error, x: &Tensor, lists: &[(usize, Tensor)]) -> Error {
    match (error.kind(), lists) {
        (ErrorKind::IndexOutOfRange { index, .. }, [(dim, _)]) => {
            let extent = x.dims()[*dim];
            // Negative ones had been counted from the end.
            let index = if *index < 0 { index.saturating_sub(extent as i64) } else { *index };
            Error::index("i", index, extent, format!("dimension {dim}"))
        }
        (ErrorKind::IndexOutOfRange { .. }, _) => {
            Error::argument("i", format!("an index tensor holds an index that is out of range for shape {}", x.shape()))
        }
        _ => error,
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    fn list(values: &[i64]) -> Result<Tensor> {
        Tensor::new(values, Device::Cpu)
    }

    #[test]
    fn dimensions_come_where_pytorch_puts_them() -> Result<()> {
        let x = Tensor::arange(0, 120, Device::Cpu)?.reshape([2, 3, 4, 5])?;
        let (a, b) = (list(&[0, 1, 0])?, list(&[[1i64]].concat())?);
        assert_eq!(x.i((.., &a))?.dims(), [2, 3, 4, 5]);
        assert_eq!(x.i((.., &a.reshape([3, 1])?))?.dims(), [2, 3, 1, 4, 5]);
        assert_eq!(x.i((.., &a, &b))?.dims(), [2, 3, 5]);
        assert_eq!(x.i((&a, .., &b))?.dims(), [3, 3, 5]);
        assert_eq!(x.i((.., 0, .., &b))?.dims(), [2, 4, 1]);
        assert_eq!(x.i((&a, &b, 0, 0))?.to_vec::<i64>()?, [20, 80, 20]);
        assert!(x.i((&a, &list(&[3])?)).is_err());
        let error = x.i((.., &list(&[-4])?)).unwrap_err().to_string();
        assert_eq!(error, "i: index -4 is out of range for dimension 1 of size 3");
        Ok(())
    }

    #[test]
    fn gradients_of_repeated_indices_add_up() -> Result<()> {
        let x = Tensor::arange(0., 6., Device::Cpu)?.reshape([2, 3])?.requires_grad_(true)?;
        x.i((.., &list(&[2, 2, -3])?))?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1., 0., 2., 1., 0., 2.]);
        x.zero_grad();
        x.i((&list(&[0, 1])?, &list(&[2, 0])?))?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 0., 1., 1., 0., 0.]);
        x.zero_grad();
        x.i(x.gt(3)?)?.sum(())?.backward()?;
        assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0., 0., 0., 0., 1., 1.]);
        Ok(())
    }
}
