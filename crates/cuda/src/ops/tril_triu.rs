//! Lower and upper triangles of matrices.

use kiln_backend::{Error, Result, TrilTriuBackend, View, ViewMut};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{self, Grid, Triangle},
    view::Tensor,
};

impl TrilTriuBackend for CudaBackend {
    fn tril_triu(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        let op = if upper { "triu" } else { "tril" };
        let out = Tensor::write(device, op, out)?;
        let x = Tensor::read(device, op, x)?.of(op, out.dtype)?.shaped(op, out.layout)?;
        let &[.., rows, columns] = out.layout.dims() else {
            return Err(Error::shape(op, "matrices", out.layout.shape()));
        };
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let shape =
            Triangle { rows: rows as u64, columns: columns as u64, diagonal, upper: u32::from(upper), unused: 0 };
        let blocks = params::blocks(grid.numel);
        launch!(device, TRIL_TRIU, "keep", Tag::bits(out.dtype), blocks, grid, x.address, out.address, shape)
    }
}
