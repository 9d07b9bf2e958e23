//! The cache key of a convolution, and the layouts that cuDNN takes: dense images and filters, either all
//! channels-first or all channels-last.

use kiln_backend::{
    Conv2d, DType, Float32Precision, Layout, are_deterministic_algorithms_enabled, convolution_benchmark,
    float32_matmul_precision,
};

/// The order of an image's dimensions in memory. cuDNN calls them NCHW and NHWC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// NCHW
    ChannelsFirst,
    /// NHWC
    ChannelsLast,
}

impl Format {
    /// The strides of a dense tensor of these extents.
    pub(crate) fn strides(self, [_, c, h, w]: [usize; 4]) -> [usize; 4] {
        match self {
            Format::ChannelsFirst => [c * h * w, h * w, w, 1],
            Format::ChannelsLast => [h * w * c, 1, w * c, c],
        }
    }

    /// Whether a tensor is dense in this order. A dimension of extent 1 may have any stride.
    pub(crate) fn fits(self, layout: &Layout) -> bool {
        let Ok(dims) = <[usize; 4]>::try_from(layout.dims()) else { return false };
        let strides = self.strides(dims);
        (0..4).all(|dim| dims[dim] == 1 || layout.strides()[dim] == strides[dim] as isize)
    }

    /// The order that needs the fewest copies of these operands, and which of them it copies. On a tie, the order of
    /// the first operand decides. cuDNN has no channels-last convolutions of `f64`.
    pub(crate) fn of<const N: usize>(dtype: DType, operands: [&Layout; N]) -> (Format, [bool; N]) {
        let copies = |format: Format| operands.map(|layout| !format.fits(layout));
        let (first, last) = (copies(Format::ChannelsFirst), copies(Format::ChannelsLast));
        if dtype == DType::F64 {
            return (Format::ChannelsFirst, first);
        }
        let count = |copies: &[bool; N]| copies.iter().filter(|&&copy| copy).count();
        let is_last = match count(&first).cmp(&count(&last)) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => first[0] && !last[0],
            std::cmp::Ordering::Greater => true,
        };
        if is_last { (Format::ChannelsLast, last) } else { (Format::ChannelsFirst, first) }
    }
}

/// Which computation: one of the three directions, alone or with the operations that one plan fuses to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The convolution itself.
    Forward,
    /// With a bias.
    ForwardBias,
    /// With a bias and ReLU.
    ForwardBiasRelu,
    /// With another tensor of the output's shape added, a bias, and ReLU. The order matters: with the bias first, the
    /// library has no precompiled engines.
    ForwardResidualBiasRelu,
    /// The gradient with respect to the input.
    GradInput,
    /// With the gradient of the ReLU that the input is the output of.
    GradInputRelu,
    /// And with the gradient of the bias before that ReLU.
    GradInputReluBias,
    /// The gradient with respect to the filter.
    GradWeight,
}

/// An operation on the result of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Adds a number per channel.
    Bias,
    /// Adds another tensor.
    Residual,
    Relu,
    /// Sets elements to 0 where another tensor, ReLU's output, is not positive.
    ReluGrad,
    /// The sums of each channel, as a second result in the type of sums.
    ChannelSums,
}

impl Direction {
    /// The convolution, and what is fused to it.
    pub(crate) fn parts(self) -> (Direction, &'static [Step]) {
        match self {
            Direction::ForwardBias => (Direction::Forward, &[Step::Bias]),
            Direction::ForwardBiasRelu => (Direction::Forward, &[Step::Bias, Step::Relu]),
            Direction::ForwardResidualBiasRelu => (Direction::Forward, &[Step::Residual, Step::Bias, Step::Relu]),
            Direction::GradInputRelu => (Direction::GradInput, &[Step::ReluGrad]),
            Direction::GradInputReluBias => (Direction::GradInput, &[Step::ReluGrad, Step::ChannelSums]),
            Direction::Forward | Direction::GradInput | Direction::GradWeight => (self, &[]),
        }
    }

    /// Which of x, w and y is written.
    pub(crate) fn result(self) -> usize {
        match self.parts().0 {
            Direction::GradInput => 0,
            Direction::GradWeight => 1,
            _ => 2,
        }
    }

    pub(crate) fn has_channel_sums(self) -> bool {
        self.parts().1.contains(&Step::ChannelSums)
    }

    pub(crate) fn is_fused(self) -> bool {
        !self.parts().1.is_empty()
    }

    /// Whether all engines of the library for it are compiled at run time (up to 9.26; the test `cudnn_plans` would show
    /// others). Even its heuristic takes a tenth of a second then.
    pub(crate) fn is_compiled_at_run_time(self) -> bool {
        self.parts().1.contains(&Step::ReluGrad)
    }
}

/// Everything that the choice of a plan depends on. Images are `[N, C, H, W]`, filters `[O, C / groups, kh, kw]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The computation.
    pub direction: Direction,
    /// The dtype of all operands.
    pub dtype: DType,
    /// Whether factors of `f32` may be rounded to TensorFloat-32.
    pub tf32: bool,
    /// Whether to use only engines that give the same bits each time.
    pub deterministic: bool,
    /// Whether to time plans before one is chosen.
    pub benchmark: bool,
    /// Whether the result is added to the output.
    pub accumulate: bool,
    /// All addresses are multiples of this many bytes, a power of two.
    pub alignment: u8,
    /// The memory order of all operands.
    pub format: Format,
    /// Extents of the input, or of its gradient.
    pub x: [usize; 4],
    /// Extents of the filter.
    pub w: [usize; 4],
    /// Extents of the output.
    pub y: [usize; 4],
    /// How the filter moves.
    pub rule: Conv2d,
}

/// Engines that count in 32 bits take no larger tensors.
const MAX_ELEMENTS: usize = i32::MAX as usize;

/// The largest alignment that engines exploit.
const MAX_ALIGNMENT: u64 = 16;

/// The largest power of two, up to [`MAX_ALIGNMENT`], that divides all addresses.
pub(crate) fn alignment<const N: usize>(addresses: [u64; N]) -> u8 {
    let bits = addresses.iter().fold(MAX_ALIGNMENT, |all, address| all | address);
    1 << bits.trailing_zeros()
}

/// The addresses of a call: the layer's input images, the filter, the output images, the bias or its gradient, and the
/// residual or the output of the ReLU whose gradient is fused. Which of them is written depends on the direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) x: u64,
    pub(crate) w: u64,
    pub(crate) y: u64,
    pub(crate) bias: u64,
    pub(crate) like: u64,
}

impl Problem {
    /// A problem with the settings of the process, and operands `[x, w, y]` with the layouts of allocations.
    #[must_use]
    pub fn new(
        direction: Direction,
        dtype: DType,
        rule: Conv2d,
        [x, w, y]: [[usize; 4]; 3],
        format: Format,
    ) -> Problem {
        Problem {
            direction,
            dtype,
            tf32: float32_matmul_precision() == Float32Precision::High,
            deterministic: are_deterministic_algorithms_enabled(),
            benchmark: convolution_benchmark(),
            accumulate: false,
            alignment: alignment([]),
            format,
            x,
            w,
            y,
            rule,
        }
    }

    /// The type of accumulation: at least `f32`.
    pub(crate) fn sums_dtype(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// How many images one call may take; 0 if it cannot take even one.
    fn images_a_call(&self) -> usize {
        let image = |dims: [usize; 4]| dims[1..].iter().product::<usize>().max(1);
        MAX_ELEMENTS / image(self.x).max(image(self.y))
    }

    /// The calls that it needs for operands at these addresses, each with at most as many images as engines can index;
    /// `None` if a single image is too large.
    pub(crate) fn calls(self, at: Addresses) -> Option<impl ExactSizeIterator<Item = (Problem, Addresses)>> {
        let (images, at_once) = (self.x[0], self.images_a_call());
        let image = |dims: [usize; 4]| (dims[1..].iter().product::<usize>() * self.dtype.size()) as u64;
        let (x_bytes, y_bytes) = (image(self.x), image(self.y));
        let call = move |first: usize| {
            let (x_from, y_from) = (first as u64 * x_bytes, first as u64 * y_bytes);
            let like = at.like + if self.direction.result() == 0 { x_from } else { y_from };
            let like = if at.like == 0 { 0 } else { like };
            let at = Addresses { x: at.x + x_from, y: at.y + y_from, like, ..at };
            let mut call = self;
            (call.x[0], call.y[0]) = (at_once.min(images - first), at_once.min(images - first));
            call.alignment = alignment([at.x, at.w, at.y, at.bias, at.like]);
            // A filter's gradient is the sum over all images.
            call.accumulate = self.direction == Direction::GradWeight && first > 0;
            (call, at)
        };
        (at_once > 0).then(|| (0..images).step_by(at_once).map(call))
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    fn layout(dims: [usize; 4], order: [usize; 4]) -> Layout {
        let mut inverse = [0; 4];
        order.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
        let permuted = order.map(|dim| dims[dim]);
        Layout::contiguous(Shape::new(&permuted).unwrap()).permute(&inverse)
    }

    const FIRST: [usize; 4] = [0, 1, 2, 3];
    const LAST: [usize; 4] = [0, 2, 3, 1];

    #[test]
    fn the_order_is_that_of_most_operands() {
        let (x, w) = ([2, 3, 5, 4], [6, 3, 3, 3]);
        let (first, last) = (layout(x, FIRST), layout(x, LAST));
        assert_eq!(first.dims(), last.dims());
        let (filter, filter_last) = (layout(w, FIRST), layout(w, LAST));
        assert_eq!(Format::of(DType::F32, [&first, &filter]), (Format::ChannelsFirst, [false, false]));
        assert_eq!(Format::of(DType::F32, [&last, &filter_last]), (Format::ChannelsLast, [false, false]));
        assert_eq!(Format::of(DType::F32, [&last, &filter]), (Format::ChannelsLast, [false, true]));
        assert_eq!(Format::of(DType::F32, [&first, &filter_last]), (Format::ChannelsFirst, [false, true]));
        assert_eq!(Format::of(DType::F32, [&first.flip(3), &filter_last]), (Format::ChannelsLast, [true, false]));
        assert_eq!(Format::of(DType::F32, [&first, &filter_last, &last]), (Format::ChannelsLast, [true, false, false]));
        assert_eq!(Format::of(DType::F64, [&last, &filter_last]), (Format::ChannelsFirst, [true, true]));
        // With one channel, both orders are the same.
        let gray = layout([2, 1, 5, 4], FIRST);
        assert_eq!(
            Format::of(DType::F32, [&gray, &layout([6, 1, 3, 3], LAST)]),
            (Format::ChannelsFirst, [false, false])
        );
        assert_eq!(Format::of(DType::F32, [&gray, &filter_last]), (Format::ChannelsLast, [false, false]));
        // A slice of the batch is dense, a slice of the channels is not.
        assert_eq!(Format::of(DType::F32, [&first.slice(0, 1, 2, 1)]), (Format::ChannelsFirst, [false]));
        assert_eq!(Format::of(DType::F32, [&first.slice(1, 0, 2, 1)]), (Format::ChannelsFirst, [true]));
    }

    #[test]
    fn large_batches_are_cut() {
        let problem = |direction, x, y| {
            Problem::new(direction, DType::F32, Conv2d::default(), [x, [64, 3, 3, 3], y], Format::ChannelsFirst)
        };
        let (x, y) = ([1000, 3, 224, 224], [1000, 64, 222, 222]);
        let at = Addresses { x: 1 << 40, w: 2 << 40, y: 3 << 40, bias: 0, like: 0 };
        let calls: Vec<_> = problem(Direction::GradWeight, x, y).calls(at).unwrap().collect();
        let [(first, at_first), (second, at_second)] = calls[..] else { panic!("{calls:?}") };
        assert_eq!((first.x[0], first.y[0], second.x[0], second.y[0]), (680, 680, 320, 320));
        assert_eq!((first.accumulate, second.accumulate, second.w), (false, true, [64, 3, 3, 3]));
        assert_eq!((at_first.x, at_first.y, at_first.w), (at.x, at.y, at.w));
        assert_eq!((at_second.x - at.x, at_second.y - at.y), (680 * 3 * 224 * 224 * 4, 680 * 64 * 222 * 222 * 4));
        assert!(!problem(Direction::Forward, x, y).calls(at).unwrap().any(|(call, _)| call.accumulate));
        let huge = [2, 1, 1 << 16, 1 << 16];
        assert!(problem(Direction::Forward, huge, [2, 64, 1, 1]).calls(at).is_none());
        // What is at an odd address says so.
        let (call, _) =
            problem(Direction::Forward, x, y).calls(Addresses { y: (3 << 40) + 4, ..at }).unwrap().next().unwrap();
        assert_eq!(call.alignment, 4);
    }
}
