//! What `conv2d` and `conv3d` have in common: a convolution of images or of volumes, by cuDNN, or else by Kiln's own kernel.

use std::cell::Cell;

use kiln_backend::{Conv2dDirection, Conv2dFusion, Convolution, Error, Layout, Result, Shape};

use crate::{
    conv::{
        dnn::{Dnn, Outcome},
        problem::{Addresses, Problem},
    },
    device::Device,
    fallbacks,
    image_format::Format,
    memory::Block,
    stream::Timer,
    view::Tensor,
};

thread_local! {
    static ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Calls `body`. Convolutions that this thread computes meanwhile do not use cuDNN, so that tests can check the kernel on
/// problems for which cuDNN has plans.
pub fn with_direct_convolutions<R>(body: impl FnOnce() -> R) -> R {
    /// Restores the setting when dropped, also if `body` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ONLY.set(self.0);
        }
    }
    let _restore = Restore(ONLY.replace(true));
    body()
}

/// Whether cuDNN is bypassed.
fn is_asked_for() -> bool {
    ONLY.get()
}

/// What differs between images, of 4 dimensions, and volumes, of 5.
pub(super) trait Convolves<const R: usize, const A: usize> {
    /// cuDNN's plans for them.
    fn plans(&self) -> Result<&Dnn<R, A>>;

    /// Computes a convolution in one memory order; operands that are not in that order are copied.
    fn convolve_as(&'static self, operands: &Operands<R, A>, order: (Format, [bool; 3])) -> Result<Outcome<R, A>>;

    /// Queues the convolution by Kiln's own kernel, without what is fused to it, of operands that have elements.
    fn convolve_directly(
        &'static self,
        direction: Conv2dDirection,
        rule: &Convolution<A>,
        operands: [&Tensor; 3],
    ) -> Result<()>;
}

/// The operands of a convolution, as a [`Problem`] has them: the layer's input, the filter, the output; and what is fused to it.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, const R: usize, const A: usize> {
    pub(super) op: &'static str,
    pub(super) direction: Conv2dDirection,
    pub(super) fusion: Option<Conv2dFusion>,
    pub(super) rule: Convolution<A>,
    pub(super) x: Tensor<'a>,
    pub(super) w: Tensor<'a>,
    pub(super) y: Tensor<'a>,
    /// The address of a dense bias, or of the sums that are its gradient.
    pub(super) bias: u64,
    /// A tensor of the result's shape: a residual, or the output of the ReLU whose gradient is fused.
    pub(super) like: Option<Tensor<'a>>,
}

/// The outcome of a fused call.
pub(super) enum Fused<const R: usize, const A: usize> {
    Queued,
    /// Queued. It takes this many milliseconds; its parts may be faster.
    Timed(Problem<R, A>, f32),
    Declined,
}

/// An operand as cuDNN gets it: in place, or as a dense copy.
struct Taken {
    address: u64,
    copy: Option<(Block, Layout)>,
}

impl<'a, const R: usize, const A: usize> Operands<'a, R, A> {
    /// A convolution to which nothing is fused.
    pub(super) fn plain(
        op: &'static str,
        direction: Conv2dDirection,
        rule: Convolution<A>,
        [x, w, y]: [Tensor<'a>; 3],
    ) -> Self {
        Operands { op, direction, fusion: None, rule, x, w, y, bias: 0, like: None }
    }

    pub(super) fn dims(layout: &Layout) -> [usize; R] {
        <[usize; R]>::try_from(layout.dims()).unwrap_or([0; R])
    }

    /// The same computation with other images and another filter.
    pub(super) fn with<'b>(&'b self, x: Tensor<'b>, w: Tensor<'b>) -> Operands<'b, R, A> {
        Operands { x, w, ..*self }
    }

    /// The problem in this memory order, with the settings of the process.
    pub(super) fn problem(&self, format: Format) -> Problem<R, A> {
        let dims = [self.x, self.w, self.y].map(|tensor| Self::dims(tensor.layout));
        Problem { fusion: self.fusion, ..Problem::new(self.direction, self.x.dtype, self.rule, dims, format) }
    }

    fn has_no_sums(&self) -> bool {
        self.x.layout.numel() == 0 || self.w.layout.numel() == 0 || self.y.layout.numel() == 0
    }
}

impl Device {
    /// Adds a number per channel, if there is a bias, and applies ReLU, if asked.
    pub(super) fn add_bias_of_channels(
        &'static self,
        op: &'static str,
        bias: Option<Tensor>,
        relu: bool,
        out: Tensor,
    ) -> Result<()> {
        if out.layout.numel() == 0 {
            return Ok(());
        }
        let Some(bias) = bias else { return self.add_bias(None, relu, out) };
        let mut spread = bias.layout.unsqueeze(0)?;
        for dim in 2..out.layout.dims().len() {
            spread = spread.unsqueeze(dim)?;
        }
        let spread = spread.expand(op, out.layout.shape())?;
        self.add_bias(Some(Tensor { layout: &spread, ..bias }), relu, out)
    }

    /// A convolution and what is fused to it, by one plan if there is one.
    pub(super) fn fused<const R: usize, const A: usize>(&'static self, operands: &Operands<R, A>) -> Result<Fused<R, A>>
    where
        Device: Convolves<R, A>,
    {
        if operands.has_no_sums() || is_asked_for() {
            return Ok(Fused::Declined);
        }
        let Operands { x, w, y, .. } = operands;
        let order = Format::of::<R, _>(x.dtype, [x.layout, w.layout, y.layout]);
        let problem = match self.convolve_as(operands, order)? {
            Outcome::Queued => return Ok(Fused::Queued),
            Outcome::Declined | Outcome::NoPlan(_) => return Ok(Fused::Declined),
            Outcome::Timed(problem) => problem,
        };
        let time = self.time(|| self.convolve_as(operands, order).map(drop))?;
        Ok(Fused::Timed(problem, time))
    }

    /// Computes the parts of a fusion that was declined, or times them if the fusion was timed.
    pub(super) fn or_parts<const R: usize, const A: usize>(
        &'static self,
        fused: Fused<R, A>,
        mut parts: impl FnMut() -> Result<()>,
    ) -> Result<()>
    where
        Device: Convolves<R, A>,
    {
        match fused {
            Fused::Queued => Ok(()),
            Fused::Declined => parts(),
            Fused::Timed(problem, time) => {
                parts()?;
                let parts_are_faster = self.time(parts)? < time;
                self.plans()?.settle(&problem, parts_are_faster);
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
    pub(super) fn convolve<const R: usize, const A: usize>(
        &'static self,
        operands: &Operands<R, A>,
        out: Tensor,
    ) -> Result<()>
    where
        Device: Convolves<R, A>,
    {
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
        let (format, copies) = Format::of::<R, _>(x.dtype, [x.layout, w.layout, y.layout]);
        let mut outcome = self.convolve_as(operands, (format, copies))?;
        if matches!(outcome, Outcome::NoPlan(_)) && format == Format::ChannelsLast {
            let first = Format::ChannelsFirst;
            let copies = [x.layout, w.layout, y.layout].map(|layout| !first.fits::<R>(layout));
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
    pub(super) fn convolve_in<const R: usize, const A: usize>(
        &'static self,
        operands: &Operands<R, A>,
        whole: &Problem<R, A>,
        copies: [bool; 3],
    ) -> Result<Outcome<R, A>>
    where
        Device: Convolves<R, A>,
    {
        let (Operands { op, x, w, y, bias, like, .. }, format) = (operands, whole.format);
        let written = whole.result();
        let calls = whole.calls(Addresses::default()).map_or(0, |calls| calls.len());
        if calls == 0 {
            let reason = "an image or a volume has 2^31 elements or more".to_string();
            return Ok(Outcome::NoPlan(Error::unsupported(op, format!("cuda:{}", self.index()), reason)));
        }
        // The sums are those of all images.
        if calls > 1 && whole.has_channel_sums() {
            return Ok(Outcome::Declined);
        }
        let mut taken = [(); 3].map(|()| Taken { address: 0, copy: None });
        for (i, tensor) in [x, w, y].into_iter().enumerate() {
            taken[i] = self.dense::<R>(tensor, format, copies[i], i != written)?;
        }
        let like = match like {
            Some(like) => Some(self.dense::<R>(like, format, !format.fits::<R>(like.layout), true)?),
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
            let outcome = unsafe { self.plans()?.run(&problem, at)? };
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
    fn dense<const R: usize>(
        &'static self,
        tensor: &Tensor,
        format: Format,
        copied: bool,
        filled: bool,
    ) -> Result<Taken> {
        if !copied {
            return Ok(Taken { address: tensor.address, copy: None });
        }
        let dims = <[usize; R]>::try_from(tensor.layout.dims()).unwrap_or([0; R]);
        let layout = Layout::strided(Shape::new(&dims)?, &format.strides(dims).map(|step| step as isize), 0)?;
        let memory = self.scratch(layout.numel() * tensor.dtype.size())?;
        let address = memory.address();
        if filled {
            self.copy_tensor(*tensor, Tensor { dtype: tensor.dtype, layout: &layout, address })?;
        }
        Ok(Taken { address, copy: Some((memory, layout)) })
    }
}
