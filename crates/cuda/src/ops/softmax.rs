//! Softmax and its logarithm, and their gradients.

use kiln_backend::{Result, SoftmaxBackend, View, ViewMut, has_dim};

use super::launch::{Tag, launch};
use crate::{device::CudaBackend, params::Lines, view::Tensor};

impl SoftmaxBackend for CudaBackend {
    fn softmax(&self, x: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        let device = self.0;
        let (op, kernel) = softmax_names(log);
        let out = Tensor::write(device, op, out)?;
        let x = Tensor::read(device, op, x)?.of(op, out.dtype)?.shaped(op, out.layout)?;
        has_dim(op, x.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<2>::new(x.layout.dims(), dim, [Some(x.place()), Some(out.place())]);
        launch!(device, SOFTMAX, kernel, Tag::of(x.dtype), lines.blocks(), lines, x.address, out.address)
    }

    fn softmax_grad(&self, grad: View, y: View, dim: usize, log: bool, out: ViewMut) -> Result<()> {
        let device = self.0;
        let (op, kernel) = softmax_names(log);
        let out = Tensor::write(device, op, out)?;
        let read = |view| Tensor::read(device, op, view)?.of(op, out.dtype)?.shaped(op, out.layout);
        let (grad, y) = (read(grad)?, read(y)?);
        has_dim(op, y.layout, dim)?;
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let lines = Lines::<3>::new(y.layout.dims(), dim, [Some(grad.place()), Some(y.place()), Some(out.place())]);
        let (tag, blocks) = (Tag::of(out.dtype), lines.blocks());
        launch!(device, SOFTMAX_GRAD, kernel, tag, blocks, lines, grad.address, y.address, out.address)
    }
}

fn softmax_names(log: bool) -> (&'static str, &'static str) {
    if log { ("log_softmax", "log") } else { ("softmax", "plain") }
}
