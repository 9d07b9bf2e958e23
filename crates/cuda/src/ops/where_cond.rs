//! `where_cond`: chooses between two operands by a condition.

use kiln_backend::{DType, Operand, Result, View, ViewMut, WhereCondBackend};

use super::{
    launch::{Tag, launch},
    operand::Input,
    values::pattern,
};
use crate::{device::CudaBackend, params::Grid, view::Tensor};

impl WhereCondBackend for CudaBackend {
    fn where_cond(&self, condition: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "where";
        let out = Tensor::write(device, OP, out)?;
        let condition = Tensor::read(device, OP, condition)?.of(OP, DType::Bool)?.shaped(OP, out.layout)?;
        let input = |operand| Input::new(device, OP, out.dtype, operand, &out);
        let (a, b) = (input(a)?, input(b)?);
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
