//! `where_cond`: chooses between two operands by a condition.

use kiln_backend::{Checked, Result, WhereCondArgs, WhereCondBackend};

use super::{
    launch::{Tag, launch},
    operand::Input,
    values::pattern,
};
use crate::{device::CudaBackend, params::Grid, view::Tensor};

impl WhereCondBackend for CudaBackend {
    fn where_cond(&self, args: Checked<WhereCondArgs>) -> Result<()> {
        let device = self.0;
        let WhereCondArgs { condition, a, b, out } = args.into_inner();
        const OP: &str = "where";
        let out = Tensor::write(device, OP, out)?;
        let condition = Tensor::read(device, OP, condition)?;
        let (a, b) = (Input::new(device, OP, a)?, Input::new(device, OP, b)?);
        let places = [Some(condition.place()), a.place, b.place, Some(out.place())];
        let grid = Grid::<4>::new(out.layout.dims(), places);
        if grid.numel == 0 {
            return Ok(());
        }
        let (x, y) = (pattern(out.dtype, a.scalar), pattern(out.dtype, b.scalar));
        let blocks = grid.blocks(out.dtype.size());
        let tag = Tag::bits(out.dtype);
        launch!(
            device,
            WHERE_COND,
            "choose",
            tag,
            blocks,
            grid,
            condition.address,
            a.address,
            b.address,
            out.address,
            x,
            y
        )
    }
}
