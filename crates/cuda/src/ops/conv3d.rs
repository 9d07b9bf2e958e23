//! `conv3d` and its gradients, by cuDNN.

use kiln_backend::{
    Checked, Conv2dDirection, Conv2dFusion, Conv3d, Conv3dArgs, Conv3dBackend, Conv3dGradInputArgs,
    Conv3dGradWeightArgs, Result,
};

use super::{
    conv2d_direct::parts_of_sums,
    convolution::{Convolves, Fused, Operands},
    launch::{Tag, launch},
};
use crate::{
    conv::dnn::{Dnn, Outcome},
    device::{CudaBackend, Device},
    image_format::Format,
    params::VolumeConvolution,
    view::{Access, Tensor},
};

impl Conv3dBackend for CudaBackend {
    fn conv3d(&self, mut args: Checked<Conv3dArgs>) -> Result<()> {
        let fused = self.0.conv3d_with_bias(args.reborrow())?;
        self.0.or_parts(fused, || self.0.conv3d_in_parts(args.reborrow()))
    }

    fn conv3d_grad_input(&self, args: Checked<Conv3dGradInputArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "conv3d_grad_input" };
        let Conv3dGradInputArgs { rule, grad, w, out } = args.into_inner();
        let (x, w, y) = (access.write(out)?, access.read(w)?, access.read(grad)?);
        self.0.convolve(&Operands::plain(access.op, Conv2dDirection::GradInput, rule, [x, w, y]), x)
    }

    fn conv3d_grad_weight(&self, args: Checked<Conv3dGradWeightArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "conv3d_grad_weight" };
        let Conv3dGradWeightArgs { rule, grad, x, out } = args.into_inner();
        let (x, w, y) = (access.read(x)?, access.write(out)?, access.read(grad)?);
        self.0.convolve(&Operands::plain(access.op, Conv2dDirection::GradWeight, rule, [x, w, y]), w)
    }
}

impl Device {
    /// The convolution with its bias by one plan. The library has precompiled engines for it, as in two dimensions.
    fn conv3d_with_bias(&'static self, args: Checked<Conv3dArgs>) -> Result<Fused<5, 3>> {
        let access = Access { device: self, op: "conv3d" };
        let Conv3dArgs { rule, x, w, bias, out } = args.into_inner();
        let (x, w, y, bias) = (access.read(x)?, access.read(w)?, access.write(out)?, access.read_if(bias)?);
        let dense = bias.filter(|bias| bias.layout.numel() == 1 || bias.layout.strides()[0] == 1);
        let Some(bias) = dense else { return Ok(Fused::Declined) };
        let plain = Operands::plain(access.op, Conv2dDirection::Forward, rule, [x, w, y]);
        self.fused(&Operands { fusion: Some(Conv2dFusion::Bias), bias: bias.address, ..plain })
    }

    /// The convolution, and after it a kernel for the bias.
    fn conv3d_in_parts(&'static self, args: Checked<Conv3dArgs>) -> Result<()> {
        const OP: &str = "conv3d";
        let access = Access { device: self, op: OP };
        let Conv3dArgs { rule, x, w, bias, out } = args.into_inner();
        let (x, w, y, bias) = (access.read(x)?, access.read(w)?, access.write(out)?, access.read_if(bias)?);
        self.convolve(&Operands::plain(OP, Conv2dDirection::Forward, rule, [x, w, y]), y)?;
        if bias.is_none() { Ok(()) } else { self.add_bias_of_channels(OP, bias, false, y) }
    }
}

impl Convolves<5, 3> for Device {
    fn plans(&self) -> Result<&Dnn<5, 3>> {
        self.volume_convolutions()
    }

    fn convolve_as(
        &'static self,
        operands: &Operands<5, 3>,
        (format, copies): (Format, [bool; 3]),
    ) -> Result<Outcome<5, 3>> {
        self.convolve_in(operands, &operands.problem(format), copies)
    }

    fn convolve_directly(
        &'static self,
        direction: Conv2dDirection,
        rule: &Conv3d,
        operands: [&Tensor; 3],
    ) -> Result<()> {
        let (op, [a, b, out], terms) = parts_of_sums::<3>(direction, rule.groups, operands);
        let layouts = |of: [&Tensor; 3]| of.map(|tensor| *tensor.layout);
        let (all, ordered) = (layouts(operands), layouts([a, b, out]));
        let params = VolumeConvolution::new(rule, all.each_ref(), ordered.each_ref(), &terms);
        launch!(self, CONV3D, op, Tag::of(out.dtype), params.blocks(), params, a.address, b.address, out.address)
    }
}
