//! The gradient through ReLU and the sums of it for the bias, in one pass.

use kiln_backend::{Error, ReluBiasGradBackend, Result, View, ViewMut};

use super::{
    launch::{Tag, launch},
    norm::{parts, vector},
};
use crate::{
    device::CudaBackend,
    params::{Groups, Reduce},
    view::Tensor,
};

/// Numbers of a partial result: the sum of a bias.
const SUM: usize = 1;

impl ReluBiasGradBackend for CudaBackend {
    fn relu_bias_grad(&self, grad: View, y: View, dim: usize, out: ViewMut, bias: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "relu_bias_grad";
        let (y, out) = (Tensor::read(device, OP, y)?, Tensor::write(device, OP, out)?);
        let (dtype, layout) = (y.dtype, y.layout);
        let grad = Tensor::read(device, OP, grad)?.of(OP, dtype)?.shaped(OP, layout)?;
        let out = out.of(OP, dtype)?.shaped(OP, layout)?;
        let Some(&channels) = layout.dims().get(dim) else {
            return Err(Error::dim(OP, dim as i64, layout.rank()));
        };
        let bias = vector(OP, Tensor::write(device, OP, bias)?, dtype, channels)?;
        if channels == 0 {
            return Ok(());
        }
        let groups = Groups::new(layout.dims(), dim, [Some(y.place()), Some(out.place()), Some(grad.place())]);
        let partial = device.parts_of_groups(&groups, SUM, dtype)?;
        let (to, step) = parts(Some(&bias));
        let start = |groups: Groups| {
            let (tag, blocks, partial) = (Tag::of(dtype), groups.blocks(), partial.address());
            let (grad, y, out) = (grad.address, y.address, out.address);
            launch!(device, RELU_BIAS_GRAD, "masked", tag, blocks, groups, grad, y, out, to, step, partial)
        };
        start(groups)?;
        if groups.stage == Reduce::FIRST { start(groups.second()) } else { Ok(()) }
    }
}
