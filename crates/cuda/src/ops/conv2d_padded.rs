//! Convolutions of few channels, padded with zeros.
//!
//! Tensor cores read channels-last images in rows of 16 bytes, which the three channels of a picture do not fill. cuDNN
//! takes such images as they are; whether it is faster to give it copies with channels of zeros added depends on the
//! device, the sizes and the version. So with `convolution_benchmark` both ways are timed, once per problem, and the
//! faster one is used from then on. Without it, nothing is padded.

use kiln_backend::{DType, ErrorKind, Layout, Result, Shape, is_capturing};

use super::convolution::Operands;
use crate::{
    conv::{dnn::Outcome, padded_channels::padded_channels, problem::Problem},
    device::Device,
    image_format::Format,
    memory::Block,
    view::Tensor,
};

/// A copy of an operand with more channels.
struct Padded {
    memory: Block,
    layout: Layout,
}

impl Padded {
    fn tensor(&self, dtype: DType) -> Tensor<'_> {
        Tensor { dtype, layout: &self.layout, address: self.memory.address() }
    }
}

impl Device {
    /// Computes a convolution in one memory order, padded if that is faster; operands that are not in that order are
    /// copied.
    pub(super) fn convolve_padded_if_faster(
        &'static self,
        operands: &Operands<4, 2>,
        (format, copies): (Format, [bool; 3]),
    ) -> Result<Outcome<4, 2>> {
        let problem = operands.problem(format);
        let plain = || self.convolve_in(operands, &problem, copies);
        let Some(channels) = padded_channels(&problem) else { return plain() };
        let padded = || self.convolve_padded(operands, &problem, copies[2], channels);
        match self.padded_channels.get(&problem) {
            Some(true) => match padded() {
                // What is padded takes memory.
                Err(error) if matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => plain(),
                outcome => outcome,
            },
            Some(false) => plain(),
            // Nothing can be timed during a capture.
            None if is_capturing() => plain(),
            None => self.choose(&problem, plain, padded),
        }
    }

    /// Computes a problem in both ways, times them, and remembers which is faster. Both write the same result.
    fn choose(
        &'static self,
        problem: &Problem,
        plain: impl Fn() -> Result<Outcome<4, 2>>,
        padded: impl Fn() -> Result<Outcome<4, 2>>,
    ) -> Result<Outcome<4, 2>> {
        let is_queued = |outcome: &Outcome<4, 2>| matches!(outcome, Outcome::Queued | Outcome::Timed(_));
        let first = plain()?;
        // Too little memory for the copies now says nothing of later.
        let second = match padded() {
            Err(error) if matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => return Ok(first),
            second => second?,
        };
        let faster = match (is_queued(&first), is_queued(&second)) {
            (true, true) => self.time(|| padded().map(drop))? < self.time(|| plain().map(drop))?,
            (_, padded) => padded,
        };
        self.padded_channels.set(problem, faster);
        Ok(if faster { second } else { first })
    }

    /// The convolution of images and a filter with channels of zeros added.
    fn convolve_padded(
        &'static self,
        operands: &Operands<4, 2>,
        problem: &Problem,
        copies_y: bool,
        channels: usize,
    ) -> Result<Outcome<4, 2>> {
        let Operands { x, w, .. } = operands;
        let (result, format) = (problem.result(), problem.format);
        let wide_x = self.padded(x, format, channels, result != 0)?;
        let wide_w = self.padded(w, format, channels, result != 1)?;
        let wide = operands.with(wide_x.tensor(x.dtype), wide_w.tensor(w.dtype));
        let outcome = self.convolve_in(&wide, &wide.problem(format), [false, false, copies_y])?;
        let written = [(&wide_x, x), (&wide_w, w)];
        if let Some((wide, out)) = written.get(result)
            && matches!(outcome, Outcome::Queued | Outcome::Timed(_))
        {
            let layout = wide.layout.slice(1, 0, problem.x[1], 1);
            self.copy_tensor(Tensor { layout: &layout, ..wide.tensor(out.dtype) }, **out)?;
        }
        Ok(outcome)
    }

    /// Memory for an operand with so many channels, in this order; `filled` says whether it is a copy with zeros.
    fn padded(&'static self, tensor: &Tensor, format: Format, channels: usize, filled: bool) -> Result<Padded> {
        let mut dims = Operands::<4, 2>::dims(tensor.layout);
        let own = dims[1];
        dims[1] = channels;
        let layout = Layout::strided(Shape::new(&dims)?, &format.strides(dims).map(|step| step as isize), 0)?;
        let padded = Padded { memory: self.scratch(layout.numel() * tensor.dtype.size())?, layout };
        if filled {
            let all = padded.tensor(tensor.dtype);
            self.zero(all)?;
            self.copy_tensor(*tensor, Tensor { layout: &padded.layout.slice(1, 0, own, 1), ..all })?;
        }
        Ok(padded)
    }
}
