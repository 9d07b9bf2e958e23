//! Softmax and log-softmax, and their gradients.

use kiln_backend::{Checked, Result, SoftmaxArgs, SoftmaxBackend, SoftmaxGradArgs, softmax_name};

use super::launch::{Tag, launch};
use crate::{device::CudaBackend, params::Lines, view::Access};

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
        launch!(device, SOFTMAX, kernel(log), Tag::of(x.dtype), lines.blocks(), lines, x.address, out.address)
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
        let (tag, blocks) = (Tag::of(out.dtype), lines.blocks());
        launch!(device, SOFTMAX_GRAD, kernel(log), tag, blocks, lines, grad.address, y.address, out.address)
    }
}

fn kernel(log: bool) -> &'static str {
    if log { "log" } else { "plain" }
}
