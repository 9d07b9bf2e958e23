//! The cache key of a convolution: everything that the choice of a plan depends on.

use kiln_backend::{
    Conv2dDirection, Conv2dFusion, Convolution, DType, Float32Precision, are_deterministic_algorithms_enabled,
    convolution_benchmark, float32_matmul_precision,
};

use crate::image_format::Format;

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

/// Everything that the choice of a plan depends on, of tensors of `R` dimensions, the last `A` of which the filter moves along.
/// Images are `[N, C, H, W]`, filters `[O, C / groups, kh, kw]`; volumes and their filters have a depth before these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem<const R: usize = 4, const A: usize = 2> {
    /// The computation.
    pub direction: Conv2dDirection,
    /// What the plan does to its result besides.
    pub fusion: Option<Conv2dFusion>,
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
    pub x: [usize; R],
    /// Extents of the filter.
    pub w: [usize; R],
    /// Extents of the output.
    pub y: [usize; R],
    /// How the filter moves.
    pub rule: Convolution<A>,
}

/// A convolution of volumes.
pub type VolumeProblem = Problem<5, 3>;

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

impl<const R: usize, const A: usize> Problem<R, A> {
    /// A problem with the settings of the process, and operands `[x, w, y]` with the layouts of allocations.
    #[must_use]
    pub fn new(
        direction: Conv2dDirection,
        dtype: DType,
        rule: Convolution<A>,
        [x, w, y]: [[usize; R]; 3],
        format: Format,
    ) -> Self {
        Problem {
            direction,
            fusion: None,
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

    /// Which of x, w and y is written.
    pub(crate) fn result(&self) -> usize {
        match self.direction {
            Conv2dDirection::GradInput => 0,
            Conv2dDirection::GradWeight => 1,
            Conv2dDirection::Forward => 2,
        }
    }

    /// What is fused to the convolution, in order.
    pub(crate) fn steps(&self) -> &'static [Step] {
        match self.fusion {
            None => &[],
            Some(Conv2dFusion::Bias) => &[Step::Bias],
            Some(Conv2dFusion::BiasRelu) => &[Step::Bias, Step::Relu],
            // With the bias first, the library has no precompiled engines.
            Some(Conv2dFusion::ResidualBiasRelu) => &[Step::Residual, Step::Bias, Step::Relu],
            Some(Conv2dFusion::ReluGrad) => &[Step::ReluGrad],
            Some(Conv2dFusion::ReluBiasGrad) => &[Step::ReluGrad, Step::ChannelSums],
        }
    }

    pub(crate) fn has_channel_sums(&self) -> bool {
        self.fusion == Some(Conv2dFusion::ReluBiasGrad)
    }

    /// Whether all engines of the library for it are compiled at run time (up to 9.26; the test `cudnn_plans` would show
    /// others). Even its heuristic takes a tenth of a second then.
    pub(crate) fn is_compiled_at_run_time(&self) -> bool {
        self.steps().contains(&Step::ReluGrad)
    }

    /// The type of accumulation: at least `f32`.
    pub(crate) fn sums_dtype(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// The calls that it needs for operands at these addresses, each with at most as many images as engines can index;
    /// `None` if a single image is too large.
    pub(crate) fn calls(self, at: Addresses) -> Option<impl ExactSizeIterator<Item = (Self, Addresses)>> {
        let [x, y] = [self.x, self.y].map(|dims| dims[1..].iter().product::<usize>());
        let (images, at_once) = (self.x[0], MAX_ELEMENTS / x.max(y).max(1));
        let [x_bytes, y_bytes] = [x, y].map(|image| (image * self.dtype.size()) as u64);
        let call = move |first: usize| {
            let (x_from, y_from) = (first as u64 * x_bytes, first as u64 * y_bytes);
            let like = at.like + if self.result() == 0 { x_from } else { y_from };
            let like = if at.like == 0 { 0 } else { like };
            let at = Addresses { x: at.x + x_from, y: at.y + y_from, like, ..at };
            let mut call = self;
            (call.x[0], call.y[0]) = (at_once.min(images - first), at_once.min(images - first));
            call.alignment = alignment([at.x, at.w, at.y, at.bias, at.like]);
            // A filter's gradient is the sum over all images.
            call.accumulate = self.direction == Conv2dDirection::GradWeight && first > 0;
            (call, at)
        };
        (at_once > 0).then(|| (0..images).step_by(at_once).map(call))
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::{Conv2d, Conv3d};

    use super::*;

    #[test]
    fn large_batches_are_cut() {
        let problem = |direction, x, y| {
            Problem::new(direction, DType::F32, Conv2d::default(), [x, [64, 3, 3, 3], y], Format::ChannelsFirst)
        };
        let (x, y) = ([1000, 3, 224, 224], [1000, 64, 222, 222]);
        let at = Addresses { x: 1 << 40, w: 2 << 40, y: 3 << 40, bias: 0, like: 0 };
        let calls: Vec<_> = problem(Conv2dDirection::GradWeight, x, y).calls(at).unwrap().collect();
        let [(first, at_first), (second, at_second)] = calls[..] else { panic!("{calls:?}") };
        assert_eq!((first.x[0], first.y[0], second.x[0], second.y[0]), (680, 680, 320, 320));
        assert_eq!((first.accumulate, second.accumulate, second.w), (false, true, [64, 3, 3, 3]));
        assert_eq!((at_first.x, at_first.y, at_first.w), (at.x, at.y, at.w));
        assert_eq!((at_second.x - at.x, at_second.y - at.y), (680 * 3 * 224 * 224 * 4, 680 * 64 * 222 * 222 * 4));
        assert!(!problem(Conv2dDirection::Forward, x, y).calls(at).unwrap().any(|(call, _)| call.accumulate));
        let huge = [2, 1, 1 << 16, 1 << 16];
        assert!(problem(Conv2dDirection::Forward, huge, [2, 64, 1, 1]).calls(at).is_none());
        // Volumes are cut by all their extents.
        let (x, y) = ([40, 3, 16, 1024, 1024], [40, 8, 16, 1024, 1024]);
        let rule = Conv3d { padding: [1; 3], ..Conv3d::default() };
        let dims = [x, [8, 3, 3, 3, 3], y];
        let volumes = VolumeProblem::new(Conv2dDirection::Forward, DType::F16, rule, dims, Format::ChannelsFirst);
        let calls: Vec<_> = volumes.calls(at).unwrap().map(|(call, at)| (call.x[0], at.y - (3 << 40))).collect();
        let bytes = 15 * 8 * 16 * 1024 * 1024 * 2;
        assert_eq!(calls, [(15, 0), (15, bytes), (10, 2 * bytes)]);
        let (x, y) = ([1000, 3, 224, 224], [1000, 64, 222, 222]);
        // What is at an odd address says so.
        let (call, _) = problem(Conv2dDirection::Forward, x, y)
            .calls(Addresses { y: (3 << 40) + 4, ..at })
            .unwrap()
            .next()
            .unwrap();
        assert_eq!(call.alignment, 4);
    }
}
