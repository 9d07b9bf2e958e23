//! `conv2d` and its gradients, by cuDNN.

use kiln_backend::{
    Checked, Conv2d, Conv2dArgs, Conv2dBackend, Conv2dGradInputArgs, Conv2dGradWeightArgs, Error, Layout, Result, Shape,
};

use super::conv2d_direct::is_asked_for;
use crate::{
    conv::{
        dnn::Outcome,
        problem::{Addresses, Direction, Format, Problem},
    },
    device::{CudaBackend, Device},
    fallbacks,
    memory::Block,
    view::{Access, Tensor},
};

/// The operands of a convolution: the layer's input images, the filter, the output images.
struct Operands<'a> {
    op: &'static str,
    rule: Conv2d,
    x: Tensor<'a>,
    w: Tensor<'a>,
    y: Tensor<'a>,
}

/// An operand as cuDNN gets it: in place, or as a dense copy.
struct Taken {
    address: u64,
    copy: Option<(Block, Layout)>,
}

impl Operands<'_> {
    fn dims(layout: &Layout) -> [usize; 4] {
        <[usize; 4]>::try_from(layout.dims()).unwrap_or_default()
    }

    fn has_no_sums(&self) -> bool {
        self.x.layout.numel() == 0 || self.w.layout.numel() == 0 || self.y.layout.numel() == 0
    }
}

impl Conv2dBackend for CudaBackend {
    fn conv2d(&self, args: Checked<Conv2dArgs>) -> Result<()> {
        const OP: &str = "conv2d";
        let device = self.0;
        let access = Access { device, op: OP };
        let Conv2dArgs { rule, x, w, bias, relu, out } = args.into_inner();
        let (out, bias) = (access.write(out)?, access.read_if(bias)?);
        let operands = Operands { op: OP, rule, x: access.read(x)?, w: access.read(w)?, y: out };
        let channels = operands.w.layout.dims()[0];
        let spread = match &bias {
            Some(bias) => Some(bias.layout.unsqueeze(1)?.unsqueeze(2)?.unsqueeze(0)?.expand(OP, out.layout.shape())?),
            None => None,
        };
        if out.layout.numel() == 0 {
            return Ok(());
        }
        if operands.has_no_sums() {
            device.zero(out)?;
        } else {
            if let (Some(bias), true) = (&bias, relu)
                && (channels == 1 || bias.layout.strides()[0] == 1)
                && device.convolve(Direction::ForwardBiasRelu, &operands, bias.address)?
            {
                return Ok(());
            }
            device.convolve(Direction::Forward, &operands, 0)?;
        }
        let bias = match (&bias, &spread) {
            (Some(bias), Some(spread)) => Some(Tensor { layout: spread, ..*bias }),
            _ => None,
        };
        device.add_bias(bias, relu, out)
    }

    fn conv2d_grad_input(&self, args: Checked<Conv2dGradInputArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "conv2d_grad_input" };
        let Conv2dGradInputArgs { rule, grad, w, out } = args.into_inner();
        let x = access.write(out)?;
        let operands = Operands { op: access.op, rule, x, w: access.read(w)?, y: access.read(grad)? };
        self.0.gradient(Direction::GradInput, &operands, x)
    }

    fn conv2d_grad_weight(&self, args: Checked<Conv2dGradWeightArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "conv2d_grad_weight" };
        let Conv2dGradWeightArgs { rule, grad, x, out } = args.into_inner();
        let w = access.write(out)?;
        let operands = Operands { op: access.op, rule, x: access.read(x)?, w, y: access.read(grad)? };
        self.0.gradient(Direction::GradWeight, &operands, w)
    }
}

impl Device {
    fn gradient(&'static self, direction: Direction, operands: &Operands, out: Tensor) -> Result<()> {
        match out.layout.numel() {
            0 => Ok(()),
            _ if operands.has_no_sums() => self.zero(out),
            _ => self.convolve(direction, operands, 0).map(drop),
        }
    }

    /// Computes operands that have elements by cuDNN. Returns `false` if it has no plan for a fused convolution. Where it
    /// has no channels-last plan for another one, the operands are copied to channels-first; where it has none at all, a
    /// kernel of Kiln's own computes them, which the report tells.
    fn convolve(&'static self, direction: Direction, operands: &Operands, bias: u64) -> Result<bool> {
        let Operands { op, rule, x, w, y } = operands;
        if is_asked_for() {
            let fused = direction == Direction::ForwardBiasRelu;
            return if fused { Ok(false) } else { self.convolve_directly(direction, rule, [x, w, y]).map(|()| true) };
        }
        let (format, copies) = Format::of(x.dtype, [x.layout, w.layout, y.layout]);
        let mut outcome = self.convolve_as(direction, operands, bias, (format, copies))?;
        if direction == Direction::ForwardBiasRelu {
            return Ok(matches!(outcome, Outcome::Queued));
        }
        if matches!(outcome, Outcome::NoPlan(_)) && format == Format::ChannelsLast {
            let first = Format::ChannelsFirst;
            let copies = [x.layout, w.layout, y.layout].map(|layout| !first.fits(layout));
            outcome = self.convolve_as(direction, operands, bias, (first, copies))?;
        }
        match outcome {
            Outcome::Queued => Ok(true),
            Outcome::NoPlan(reason) => {
                fallbacks::note(format!("cuda:{}: {op} by Kiln's own kernel: {reason}", self.index()));
                self.convolve_directly(direction, rule, [x, w, y]).map(|()| true)
            }
        }
    }

    /// [`convolve`](Self::convolve) in one memory order; operands that are not in that order are copied.
    fn convolve_as(
        &'static self,
        direction: Direction,
        operands: &Operands,
        bias: u64,
        (format, copies): (Format, [bool; 3]),
    ) -> Result<Outcome> {
        let Operands { op, rule, x, w, y } = operands;
        let written = match direction {
            Direction::Forward | Direction::ForwardBiasRelu => 2,
            Direction::GradInput => 0,
            Direction::GradWeight => 1,
        };
        let dims = [x, w, y].map(|tensor| Operands::dims(tensor.layout));
        let whole = Problem::new(direction, x.dtype, *rule, dims, format);
        if whole.calls(Addresses::default()).is_none() {
            let reason = "an image has 2^31 elements or more".to_string();
            return Ok(Outcome::NoPlan(Error::unsupported(op, format!("cuda:{}", self.index()), reason)));
        }
        let mut taken = [(); 3].map(|()| Taken { address: 0, copy: None });
        for (i, tensor) in [x, w, y].into_iter().enumerate() {
            taken[i] = self.dense(tensor, format, copies[i], i != written)?;
        }
        let at = Addresses { x: taken[0].address, w: taken[1].address, y: taken[2].address, bias };
        for (problem, at) in whole.calls(at).into_iter().flatten() {
            let aside = |bytes| {
                let memory = self.scratch(bytes)?;
                Ok((memory.address(), memory))
            };
            // SAFETY: the operands were checked against their buffers, or copied into memory of their size, and lie in
            // the problem's order; scratch memory is handed out again only to work that is queued later.
            let outcome = unsafe { self.convolutions()?.run(self.stream, &problem, at, aside)? };
            if matches!(outcome, Outcome::NoPlan(_)) {
                return Ok(outcome);
            }
        }
        if let Some((memory, layout)) = &taken[written].copy {
            let result = Tensor { dtype: x.dtype, layout, address: memory.address() };
            self.copy_tensor(result, *[x, w, y][written])?;
        }
        Ok(Outcome::Queued)
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
