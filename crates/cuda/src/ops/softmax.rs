//! Softmax and log-softmax, and their gradients.

use kiln_backend::{Checked, Result, SoftmaxArgs, SoftmaxBackend, SoftmaxGradArgs, softmax_name};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{Lines, PackedRows},
    view::Access,
};

impl SoftmaxBackend for CudaBackend {
    fn softmax(&self, args: Checked<SoftmaxArgs>) -> Result<()> {
        let device = self.0;
        let SoftmaxArgs { x, dim, log, out } = args.into_inner();
        let access = Access { device, op: softmax_name(log) };
        let (x, out) = (access.read(x)?, access.write(out)?);
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        let (tag, x, to) = (Tag::of(x.dtype), x.address, out.address);
        if let Some(rows) = PackedRows::new(&lines, [x, to], out.dtype.size()) {
            return launch!(device, SOFTMAX_PACKED, kernel(log), tag, rows.blocks(), rows, x, to);
        }
        launch!(device, SOFTMAX, kernel(log), tag, lines.blocks(), lines, x, to)
    }

    fn softmax_grad(&self, args: Checked<SoftmaxGradArgs>) -> Result<()> {
        let device = self.0;
        let SoftmaxGradArgs { grad, y, dim, log, out } = args.into_inner();
        let access = Access { device, op: softmax_name(log) };
        let (grad, y, out) = (access.read(grad)?, access.read(y)?, access.write(out)?);
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<3>::new(y.layout.dims(), dim, [Some(grad.place()), Some(y.place()), Some(out.place())]);
        let (tag, grad, y, to) = (Tag::of(out.dtype), grad.address, y.address, out.address);
        if let Some(rows) = PackedRows::new(&lines, [grad, y, to], out.dtype.size()) {
            return launch!(device, SOFTMAX_PACKED_GRAD, kernel(log), tag, rows.blocks(), rows, grad, y, to);
        }
        launch!(device, SOFTMAX_GRAD, kernel(log), tag, lines.blocks(), lines, grad, y, to)
    }
}

fn kernel(log: bool) -> &'static str {
    if log { "log" } else { "plain" }
}
