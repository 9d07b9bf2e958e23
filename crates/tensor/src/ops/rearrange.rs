//! Common views under PyTorch's names: `swapaxes`, `mt`, `movedim`, `unflatten`, `broadcast_to`, `meshgrid`.

use std::borrow::Borrow;

use kiln_backend::{Dim, Error, MAX_RANK, Result};
use kiln_derive::located;
use smallvec::SmallVec;

use crate::{creation::Extents, tensor::Tensor};

#[located]
impl Tensor {
    /// [`transpose`](Tensor::transpose) under its NumPy name.
    ///
    /// # Errors
    /// If a dimension is out of range.
    pub fn swapaxes(&self, a: impl Dim, b: impl Dim) -> Result<Tensor> {
        self.transpose(a, b)
    }

    /// The view with each matrix (over the last two dimensions) transposed, PyTorch's `x.mT`.
    ///
    /// # Errors
    /// If the tensor has fewer than 2 dimensions.
    pub fn mt(&self) -> Result<Tensor> {
        if self.rank() < 2 {
            return Err(Error::shape("mt", "at least 2 dimensions", self.shape()));
        }
        self.transpose(-2, -1)
    }

    /// The view with the dimensions `from` moved to the positions `to`; the others keep their order: `x.movedim(0,
    /// -1)`, `x.movedim([0, 1], [1, 0])`.
    ///
    /// # Errors
    /// If a dimension is out of range or named twice, or the numbers of dimensions and positions differ.
    pub fn movedim(&self, from: impl Extents, to: impl Extents) -> Result<Tensor> {
        const OP: &str = "movedim";
        let ((from, count), (to, places)) = (from.extents(OP)?, to.extents(OP)?);
        if count != places {
            let message = format!("{count} dimensions do not fit {places} positions");
            return Err(Error::argument(OP, message));
        }
        let (mut order, mut placed) = ([MAX_RANK; MAX_RANK], [false; MAX_RANK]);
        for (&from, &to) in from[..count].iter().zip(&to[..count]) {
            let (from, to) = (self.real_dim(OP, from)?, self.real_dim(OP, to)?);
            if std::mem::replace(&mut placed[from], true) || std::mem::replace(&mut order[to], from) != MAX_RANK {
                return Err(Error::argument(OP, format!("dimension {from} or position {to} is named twice")));
            }
        }
        let mut others = (0..self.rank()).filter(|&dim| !placed[dim]);
        for place in order[..self.rank()].iter_mut().filter(|place| **place == MAX_RANK) {
            // There are as many positions left as dimensions.
            *place = others.next().unwrap_or(*place);
        }
        self.permute(&order[..self.rank()])
    }

    /// The view with one dimension split into several; one of their extents may be -1.
    ///
    /// # Errors
    /// If the dimension is out of range, or its extent is not the product of `extents`.
    pub fn unflatten(&self, dim: impl Dim, extents: impl Extents) -> Result<Tensor> {
        let dim = self.real_dim("unflatten", dim)?;
        let part = extents.to_shape_of("unflatten", &kiln_backend::Shape::new(&[self.dims()[dim]])?)?;
        self.reshape([&self.dims()[..dim], &part[..], &self.dims()[dim + 1..]].concat())
    }

    /// [`expand`](Tensor::expand) under its NumPy name.
    ///
    /// # Errors
    /// Those of [`expand`](Tensor::expand).
    pub fn broadcast_to(&self, shape: impl Extents) -> Result<Tensor> {
        self.expand(shape)
    }

    /// Coordinates on a grid: for vectors `x` and `y`, the views of shape `[len(x), len(y)]` whose elements are `x[i]`
    /// and `y[j]` (PyTorch's `indexing="ij"`), and so on for more vectors. A scalar counts as a vector.
    ///
    /// # Errors
    /// If there are more than 8 vectors, or one has more dimensions.
    pub fn meshgrid(vectors: &[impl Borrow<Tensor>]) -> Result<Vec<Tensor>> {
        let dims: SmallVec<[usize; MAX_RANK]> = vectors.iter().map(|v| v.borrow().numel()).collect();
        let grid = kiln_backend::Shape::new(&dims)?;
        let spread = |(i, vector): (usize, &Tensor)| {
            if vector.rank() > 1 {
                return Err(Error::shape("meshgrid", "vectors", vector.shape()));
            }
            let mut own = [1; MAX_RANK];
            own[i] = dims[i];
            vector.reshape(&own[..dims.len()])?.expand(grid)
        };
        vectors.iter().map(Borrow::borrow).enumerate().map(spread).collect()
    }

    /// [`meshgrid`](Tensor::meshgrid) with the first two dimensions exchanged, as in plots: for `x` and `y`, views of
    /// shape `[len(y), len(x)]` (PyTorch's `indexing="xy"`).
    ///
    /// # Errors
    /// Those of [`meshgrid`](Tensor::meshgrid).
    pub fn meshgrid_xy(vectors: &[impl Borrow<Tensor>]) -> Result<Vec<Tensor>> {
        let grids = Tensor::meshgrid(vectors)?;
        if grids.len() < 2 {
            return Ok(grids);
        }
        grids.iter().map(|grid| grid.transpose(0, 1)).collect()
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{device::Device, tensor::Tensor};
    use kiln_backend::Result;

    #[test]
    fn views_by_their_names() -> Result<()> {
        let x = Tensor::arange(0, 24, Device::Cpu)?.reshape([2, 3, 4])?;
        assert_eq!(x.movedim(0, -1)?.dims(), [3, 4, 2]);
        assert_eq!(x.movedim(2, 0)?.dims(), [4, 2, 3]);
        assert_eq!(x.mt()?.dims(), [2, 4, 3]);
        assert_eq!(x.swapaxes(0, 1)?.dims(), [3, 2, 4]);
        assert_eq!(x.unflatten(-1, [2, -1])?.dims(), [2, 3, 2, 2]);
        assert!(x.unflatten(0, [3, -1]).is_err() && x.unflatten(0, [1, 1, 1, 1, 1, 1, 2]).is_err());
        assert!(x.i((0, 0))?.mt().is_err() && x.movedim(3, 0).is_err());
        Ok(())
    }

    #[test]
    fn a_grid() -> Result<()> {
        let (x, y) = (Tensor::new(&[1i64, 2], Device::Cpu)?, Tensor::new(&[3i64, 4, 5], Device::Cpu)?);
        let grid = Tensor::meshgrid(&[&x, &y])?;
        assert_eq!(grid[0].to_vec::<i64>()?, [1, 1, 1, 2, 2, 2]);
        assert_eq!(grid[1].to_vec::<i64>()?, [3, 4, 5, 3, 4, 5]);
        assert!(Tensor::meshgrid(&[&grid[0]]).is_err());
        Ok(())
    }
}
