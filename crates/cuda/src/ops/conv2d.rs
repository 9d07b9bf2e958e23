//! `conv2d` and its gradients, by cuDNN.

use kiln_backend::{
    Arguments, BinaryAssignArgs, BinaryBackend, BinaryOp, Checked, Conv2d, Conv2dArgs, Conv2dBackend, Conv2dDirection,
    Conv2dFusion, Conv2dGradInputArgs, Conv2dGradWeightArgs, Conv2dReluGradInputArgs, DType, Error, Layout, Operand,
    Result, Shape, conv2d_relu_grad_input_in_parts,
};

use super::conv2d_direct::is_asked_for;
use crate::{
    conv::{
        dnn::Outcome,
        problem::{Addresses, Problem},
    },
    device::{CudaBackend, Device},
    fallbacks,
    image_format::Format,
    memory::Block,
    stream::Timer,
    view::{Access, Tensor},
};

/// The operands of a convolution: the layer's input images, the filter, the output images; and what is fused to it.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    op: &'static str,
    direction: Conv2dDirection,
    fusion: Option<Conv2dFusion>,
    rule: Conv2d,
    pub(super) x: Tensor<'a>,
    pub(super) w: Tensor<'a>,
    y: Tensor<'a>,
    /// The address of a dense bias, or of the sums that are its gradient.
    bias: u64,
    /// A tensor of the result's shape: a residual, or the output of the ReLU whose gradient is fused.
    like: Option<Tensor<'a>>,
}

/// The outcome of a fused call.
enum Fused {
    Queued,
    /// Queued. It takes this many milliseconds; its parts may be faster.
    Timed(Problem, f32),
    Declined,
}

/// An operand as cuDNN gets it: in place, or as a dense copy.
struct Taken {
    address: u64,
    copy: Option<(Block, Layout)>,
}

impl<'a> Operands<'a> {
    /// A convolution to which nothing is fused.
    fn plain(op: &'static str, direction: Conv2dDirection, rule: Conv2d, [x, w, y]: [Tensor<'a>; 3]) -> Operands<'a> {
        Operands { op, direction, fusion: None, rule, x, w, y, bias: 0, like: None }
    }

    pub(super) fn dims(layout: &Layout) -> [usize; 4] {
        <[usize; 4]>::try_from(layout.dims()).unwrap_or_default()
    }

    /// The same computation with other images and another filter.
    pub(super) fn with<'b>(&'b self, x: Tensor<'b>, w: Tensor<'b>) -> Operands<'b> {
        Operands { x, w, ..*self }
    }

    /// The problem in this memory order, with the settings of the process.
    pub(super) fn problem(&self, format: Format) -> Problem {
        let dims = [self.x, self.w, self.y].map(|tensor| Operands::dims(tensor.layout));
        Problem { fusion: self.fusion, ..Problem::new(self.direction, self.x.dtype, self.rule, dims, format) }
    }

    fn has_no_sums(&self) -> bool {
        self.x.layout.numel() == 0 || self.w.layout.numel() == 0 || self.y.layout.numel() == 0
    }
}

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
        let spread = match &bias {
            Some(bias) => Some(bias.layout.unsqueeze(1)?.unsqueeze(2)?.unsqueeze(0)?.expand(OP, out.layout.shape())?),
            None => None,
        };
        let bias = match (&bias, &spread) {
            (Some(bias), Some(spread)) => Some(Tensor { layout: spread, ..*bias }),
            _ => None,
        };
        if out.layout.numel() == 0 { Ok(()) } else { self.0.add_bias(bias, relu, out) }
    }
}

impl Device {
    /// The convolution with its bias and perhaps ReLU, or with a residual, its bias and ReLU, by one plan. There are
    /// precompiled engines for these, in this order; not for ReLU without a bias.
    fn conv2d_fused(&'static self, args: Checked<Conv2dArgs>) -> Result<Fused> {
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
    fn relu_grad_input(&'static self, args: Checked<Conv2dReluGradInputArgs>) -> Result<Fused> {
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

    /// A convolution and what is fused to it, by one plan if there is one.
    fn fused(&'static self, operands: &Operands) -> Result<Fused> {
        if operands.has_no_sums() || is_asked_for() {
            return Ok(Fused::Declined);
        }
        let Operands { x, w, y, .. } = operands;
        let order = Format::of(x.dtype, [x.layout, w.layout, y.layout]);
        let problem = match self.convolve_as(operands, order)? {
            Outcome::Queued => return Ok(Fused::Queued),
            Outcome::Declined | Outcome::NoPlan(_) => return Ok(Fused::Declined),
            Outcome::Timed(problem) => problem,
        };
        let time = self.time(|| self.convolve_as(operands, order).map(drop))?;
        Ok(Fused::Timed(problem, time))
    }

    /// Computes the parts of a fusion that was declined, or times them if the fusion was timed.
    fn or_parts(&'static self, fused: Fused, mut parts: impl FnMut() -> Result<()>) -> Result<()> {
        match fused {
            Fused::Queued => Ok(()),
            Fused::Declined => parts(),
            Fused::Timed(problem, time) => {
                parts()?;
                let parts_are_faster = self.time(parts)? < time;
                self.convolutions()?.settle(&problem, parts_are_faster);
                Ok(())
            }
        }
    }

    /// The time that `work` takes on the device, in milliseconds.
    pub(super) fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<f32> {
        let timer = Timer::new(self.stream)?;
        timer.start()?;
        work()?;
        timer.stop()
    }

    /// Computes one direction, whose result is `out`, by cuDNN. Where it has no channels-last plan, the operands are copied to
    /// channels-first; where it has none at all, Kiln's own kernel computes the result, and the report lists it.
    fn convolve(&'static self, operands: &Operands, out: Tensor) -> Result<()> {
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if operands.has_no_sums() {
            return self.zero(out);
        }
        let Operands { op, direction, rule, x, w, y, .. } = operands;
        if is_asked_for() {
            return self.convolve_directly(*direction, rule, [x, w, y]);
        }
        let (format, copies) = Format::of(x.dtype, [x.layout, w.layout, y.layout]);
        let mut outcome = self.convolve_as(operands, (format, copies))?;
        if matches!(outcome, Outcome::NoPlan(_)) && format == Format::ChannelsLast {
            let first = Format::ChannelsFirst;
            let copies = [x.layout, w.layout, y.layout].map(|layout| !first.fits(layout));
            outcome = self.convolve_as(operands, (first, copies))?;
        }
        match outcome {
            Outcome::NoPlan(reason) => {
                fallbacks::note(format!("cuda:{}: {op} by Kiln's own kernel: {reason}", self.index()));
                self.convolve_directly(*direction, rule, [x, w, y])
            }
            _ => Ok(()),
        }
    }

    /// Computes the problem that the operands make in its memory order; operands that are not in that order are copied.
    pub(super) fn convolve_in(
        &'static self,
        operands: &Operands,
        whole: &Problem,
        copies: [bool; 3],
    ) -> Result<Outcome> {
        let (Operands { op, x, w, y, bias, like, .. }, format) = (operands, whole.format);
        let written = whole.result();
        let calls = whole.calls(Addresses::default()).map_or(0, |calls| calls.len());
        if calls == 0 {
            let reason = "an image has 2^31 elements or more".to_string();
            return Ok(Outcome::NoPlan(Error::unsupported(op, format!("cuda:{}", self.index()), reason)));
        }
        // The sums are those of all images.
        if calls > 1 && whole.has_channel_sums() {
            return Ok(Outcome::Declined);
        }
        let mut taken = [(); 3].map(|()| Taken { address: 0, copy: None });
        for (i, tensor) in [x, w, y].into_iter().enumerate() {
            taken[i] = self.dense(tensor, format, copies[i], i != written)?;
        }
        let like = match like {
            Some(like) => Some(self.dense(like, format, !format.fits(like.layout), true)?),
            None => None,
        };
        let at = Addresses {
            x: taken[0].address,
            w: taken[1].address,
            y: taken[2].address,
            bias: *bias,
            like: like.as_ref().map_or(0, |like| like.address),
        };
        let mut timed = None;
        for (problem, at) in whole.calls(at).into_iter().flatten() {
            // SAFETY: the operands were checked against their buffers, or copied into memory of their size, and lie in
            // the problem's order.
            let outcome = unsafe { self.convolutions()?.run(&problem, at)? };
            match outcome {
                Outcome::Queued => {}
                Outcome::Timed(problem) => timed = timed.or(Some(problem)),
                Outcome::NoPlan(_) | Outcome::Declined => return Ok(outcome),
            }
        }
        if let Some((memory, layout)) = &taken[written].copy {
            let result = Tensor { dtype: x.dtype, layout, address: memory.address() };
            self.copy_tensor(result, *[x, w, y][written])?;
        }
        Ok(timed.map_or(Outcome::Queued, Outcome::Timed))
    }

    /// An operand in this memory order, copied if `copied` says so; `filled` says whether its values are read.
    fn dense(&'static self, tensor: &Tensor, format: Format, copied: bool, filled: bool) -> Result<Taken> {
        if !copied {
            return Ok(Taken { address: tensor.address, copy: None });
        }
        let dims = Operands::dims(tensor.layout);
        let layout = Layout::strided(Shape::new(&dims)?, &format.strides(dims).map(|step| step as isize), 0)?;
        let memory = self.scratch(layout.numel() * tensor.dtype.size())?;
        let address = memory.address();
        if filled {
            self.copy_tensor(*tensor, Tensor { dtype: tensor.dtype, layout: &layout, address })?;
        }
        Ok(Taken { address, copy: Some((memory, layout)) })
    }
}
