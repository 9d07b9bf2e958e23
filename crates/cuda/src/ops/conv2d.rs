//! `conv2d` and its gradients, by cuDNN.

use kiln_backend::{
    Arguments, BinaryAssignArgs, BinaryBackend, BinaryOp, Checked, Conv2dArgs, Conv2dBackend, Conv2dDirection,
    Conv2dFusion, Conv2dGradInputArgs, Conv2dGradWeightArgs, Conv2dReluGradInputArgs, DType, Layout, Operand, Result,
    conv2d_relu_grad_input_in_parts,
};

use super::convolution::{Fused, Operands};
use crate::{
    device::{CudaBackend, Device},
    view::{Access, Tensor},
};

impl Conv2dBackend for CudaBackend {
    fn conv2d(&self, mut args: Checked<Conv2dArgs>) -> Result<()> {
        let fused = self.0.conv2d_fused(args.reborrow())?;
        self.0.or_parts(fused, || self.conv2d_in_parts(args.reborrow()))
    }

    fn conv2d_grad_input(&self, args: Checked<Conv2dGradInputArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "conv2d_grad_input" };
        let Conv2dGradInputArgs { rule, grad, w, out } = args.into_inner();
        let (x, w, y) = (access.write(out)?, access.read(w)?, access.read(grad)?);
        self.0.convolve(&Operands::plain(access.op, Conv2dDirection::GradInput, rule, [x, w, y]), x)
    }

    fn conv2d_relu_grad_input(&self, mut args: Checked<Conv2dReluGradInputArgs>) -> Result<()> {
        let fused = self.0.relu_grad_input(args.reborrow())?;
        self.0.or_parts(fused, || conv2d_relu_grad_input_in_parts(self, args.reborrow()))
    }

    fn conv2d_grad_weight(&self, args: Checked<Conv2dGradWeightArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "conv2d_grad_weight" };
        let Conv2dGradWeightArgs { rule, grad, x, out } = args.into_inner();
        let (x, w, y) = (access.read(x)?, access.write(out)?, access.read(grad)?);
        self.0.convolve(&Operands::plain(access.op, Conv2dDirection::GradWeight, rule, [x, w, y]), w)
    }
}

impl CudaBackend {
    /// The convolution, and after it kernels for the residual, the bias and ReLU.
    fn conv2d_in_parts(&self, args: Checked<Conv2dArgs>) -> Result<()> {
        const OP: &str = "conv2d";
        let access = Access { device: self.0, op: OP };
        let Conv2dArgs { rule, x, w, bias, residual, relu, mut out } = args.into_inner();
        let y = access.write(out.reborrow())?;
        let (x, w) = (access.read(x)?, access.read(w)?);
        self.0.convolve(&Operands::plain(OP, Conv2dDirection::Forward, rule, [x, w, y]), y)?;
        if let Some(residual) = residual {
            let (op, b, out) = (BinaryOp::Add, Operand::Tensor(residual), out.reborrow());
            self.binary_assign(BinaryAssignArgs { op, b, out }.checked()?)?;
        }
        let (out, bias) = (access.write(out)?, access.read_if(bias)?);
        self.0.add_bias_of_channels(OP, bias, relu, out)
    }
}

impl Device {
    /// The convolution with its bias and perhaps ReLU, or with a residual, its bias and ReLU, by one plan. There are
    /// precompiled engines for these, in this order; not for ReLU without a bias.
    fn conv2d_fused(&'static self, args: Checked<Conv2dArgs>) -> Result<Fused<4, 2>> {
        let access = Access { device: self, op: "conv2d" };
        let Conv2dArgs { rule, x, w, bias, residual, relu, out } = args.into_inner();
        let (x, w, y) = (access.read(x)?, access.read(w)?, access.write(out)?);
        let (bias, like) = (access.read_if(bias)?, access.read_if(residual)?);
        let dense = bias.filter(|bias| bias.layout.numel() == 1 || bias.layout.strides()[0] == 1);
        let (bias, fusion) = match (dense, like, relu) {
            (Some(bias), None, false) => (bias, Conv2dFusion::Bias),
            (Some(bias), None, true) => (bias, Conv2dFusion::BiasRelu),
            (Some(bias), Some(_), true) => (bias, Conv2dFusion::ResidualBiasRelu),
            _ => return Ok(Fused::Declined),
        };
        let plain = Operands::plain(access.op, Conv2dDirection::Forward, rule, [x, w, y]);
        self.fused(&Operands { fusion: Some(fusion), bias: bias.address, like, ..plain })
    }

    /// The gradient of the input through the ReLU that it is the output of, by one plan.
    fn relu_grad_input(&'static self, args: Checked<Conv2dReluGradInputArgs>) -> Result<Fused<4, 2>> {
        let access = Access { device: self, op: "conv2d_relu_grad_input" };
        let Conv2dReluGradInputArgs { rule, grad, w, y, out, bias } = args.into_inner();
        let (x, bias, like) = (access.write(out)?, access.write_if(bias)?, Some(access.read(y)?));
        let (w, y) = (access.read(w)?, access.read(grad)?);
        let plain = Operands::plain(access.op, Conv2dDirection::GradInput, rule, [x, w, y]);
        let operands = Operands { fusion: Some(Conv2dFusion::ReluGrad), like, ..plain };
        let Some(bias) = bias else { return self.fused(&operands) };
        let operands = Operands { fusion: Some(Conv2dFusion::ReluBiasGrad), ..operands };
        if x.dtype == DType::F32 && (bias.layout.numel() == 1 || bias.layout.strides()[0] == 1) {
            return self.fused(&Operands { bias: bias.address, ..operands });
        }
        // The library's sums are dense and in `f32`.
        let layout = Layout::contiguous(*bias.layout.shape());
        let memory = self.scratch(layout.numel() * DType::F32.size())?;
        let sums = Tensor { dtype: DType::F32, layout: &layout, address: memory.address() };
        let fused = self.fused(&Operands { bias: sums.address, ..operands })?;
        if !matches!(fused, Fused::Declined) {
            self.copy_tensor(sums, bias)?;
        }
        Ok(fused)
    }
}
