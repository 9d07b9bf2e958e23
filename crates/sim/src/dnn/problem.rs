//! A convolution as its descriptors describe it, and the library's rules for what is valid.
//!
//! The rules are those of NVIDIA's documentation of cuDNN 9 (the tables of `cudnnConvolutionForward` and its like).
//! Where it leaves open whether something is supported, it is refused: a program has to have a way without it.
use super::descriptor::{self, Activation, Convolution, Filter, Tensor};
use super::{Refusal, bad, unsupported};
use crate::blas::problem::{Data, Rounding};

/// Which of the three computations. Numbers of algorithms are each direction's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Data,
    Filter,
}

/// An image or a filter as it lies in memory: extents and steps in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub dims: [usize; 4],
    pub steps: [usize; 4],
    /// Whether the channels come last, and the other way round; both if only one of the extents is not 1.
    pub last: bool,
    pub first: bool,
}

impl Image {
    fn strides([_, c, h, w]: [usize; 4], last: bool) -> [usize; 4] {
        if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
    }

    fn tensor(tensor: &Tensor) -> Result<Image, Refusal> {
        if tensor.strides.iter().any(|&stride| stride < 0) {
            return Err(unsupported("a negative stride"));
        }
        let (Ok(dims), Ok(steps)) = (<[i32; 4]>::try_from(&tensor.dims[..]), <[i32; 4]>::try_from(&tensor.strides[..]))
        else {
            return Err(unsupported("the simulator has convolutions of two axes only"));
        };
        let (dims, steps) = (dims.map(|dim| dim as usize), steps.map(|step| step as usize));
        let fits = |last| {
            let dense = Image::strides(dims, last);
            (0..4).all(|dim| dims[dim] == 1 || steps[dim] == dense[dim])
        };
        let (first, last) = (fits(false), fits(true));
        if !first && !last {
            return Err(unsupported("a tensor that is not dense as NCHW or NHWC"));
        }
        Ok(Image { dims, steps: Image::strides(dims, !first), last, first })
    }

    fn filter(filter: &Filter) -> Result<Image, Refusal> {
        let Ok(dims) = <[i32; 4]>::try_from(&filter.dims[..]) else {
            return Err(unsupported("the simulator has convolutions of two axes only"));
        };
        let dims = dims.map(|dim| dim as usize);
        let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
        if count.is_none_or(|count| count > i32::MAX as usize) {
            return Err(unsupported("a filter of 2^31 elements or more"));
        }
        let last = filter.format == 1;
        Ok(Image { dims, steps: Image::strides(dims, last), last, first: !last })
    }

    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }
}

/// A convolution without its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub direction: Direction,
    pub data: Data,
    pub x: Image,
    pub w: Image,
    pub y: Image,
    pub padding: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    pub groups: usize,
    /// The filter is mirrored: `CUDNN_CONVOLUTION`.
    pub mirrored: bool,
    /// `cudnnMathType_t`
    pub math: i32,
    /// What the math type does to factors.
    pub rounding: Rounding,
}

fn data_of(number: i32) -> Option<Data> {
    Some(match number {
        0 => Data::F32,
        1 => Data::F64,
        2 => Data::F16,
        9 => Data::Bf16,
        _ => return None,
    })
}

/// What the math type does to factors of this type on this architecture.
fn rounding(data: Data, math: i32, arch: u32) -> Rounding {
    match (data, math) {
        (Data::F32, 0 | 1) if arch >= 80 => Rounding::Tf32,
        (Data::F32, 2) => Rounding::F16,
        _ => Rounding::None,
    }
}

impl Problem {
    pub fn new(
        direction: Direction,
        [x, y]: [&Tensor; 2],
        w: &Filter,
        convolution: &Convolution,
        arch: u32,
    ) -> Result<Problem, Refusal> {
        let Some(moves) = &convolution.moves else { return Err(bad("the convolution is not set")) };
        let (output, told) = descriptor::output(x, w, convolution, x.dims.len());
        told?;
        if output != y.dims {
            return Err(bad("the output has other extents than the convolution gives"));
        }
        if w.dims[0] % convolution.groups != 0 {
            return Err(bad("the groups do not divide the filter's outputs"));
        }
        let (Some(data), true) = (data_of(x.data), x.data == w.data && x.data == y.data) else {
            return Err(unsupported("no combination of types in the library's tables"));
        };
        match (data, moves.compute) {
            (Data::F64, 1) | (Data::F32 | Data::F16, 0) => {}
            (Data::Bf16, 0) if arch >= 80 => {}
            (Data::Bf16, 0) => return Err(unsupported("bfloat16 needs compute capability 8.0")),
            _ => return Err(unsupported("a type of sums that does not belong to the elements")),
        }
        let (x, y, w) = (Image::tensor(x)?, Image::tensor(y)?, Image::filter(w)?);
        if w.last && !(x.last && y.last) {
            return Err(unsupported("a filter in NHWC with images in NCHW"));
        }
        let pair = |values: &[i32]| [values[0] as usize, values[1] as usize];
        Ok(Problem {
            direction,
            data,
            x,
            w,
            y,
            padding: pair(&moves.padding),
            stride: pair(&moves.stride),
            dilation: pair(&moves.dilation),
            groups: convolution.groups as usize,
            mirrored: moves.mode == 0,
            math: convolution.math,
            rounding: rounding(data, convolution.math, arch),
        })
    }

    /// What is written.
    pub fn target(&self) -> &Image {
        match self.direction {
            Direction::Forward => &self.y,
            Direction::Data => &self.x,
            Direction::Filter => &self.w,
        }
    }

    /// Whether a filter or an image is in NHWC and in nothing else.
    pub fn channels_last(&self) -> bool {
        [self.x, self.w, self.y].iter().any(|image| !image.first)
    }

    /// Factors in each sum.
    pub fn depth(&self) -> usize {
        self.w.dims[1..].iter().product()
    }
}

/// The library's rules for what comes behind a fused convolution. Says whether there is a ReLU.
pub fn fused(
    problem: &Problem,
    algorithm: u32,
    bias: &Tensor,
    activation: Activation,
    z: [&Tensor; 2],
) -> Result<bool, Refusal> {
    let [z, y] = z;
    if (z.data, &z.dims, &z.strides) != (y.data, &y.dims, &y.strides) {
        return Err(unsupported("the image that is added is not described as the output is"));
    }
    if activation.nan != 0 {
        return Err(unsupported("an activation that propagates NaN"));
    }
    let channels = problem.y.dims[1];
    if bias.dims.len() != 4 || bias.dims[1] as usize != channels || [0, 2, 3].iter().any(|&dim| bias.dims[dim] != 1) {
        return Err(unsupported("a bias that is not of shape [1, channels, 1, 1]"));
    }
    if bias.strides[1] != 1 || bias.data != y.data {
        return Err(unsupported("a bias with gaps, or of another type than the output"));
    }
    match activation.mode {
        1 => Ok(true),
        5 if algorithm == 1 => Ok(false),
        5 => Err(unsupported("the identity goes with IMPLICIT_PRECOMP_GEMM only")),
        _ => Err(unsupported("an activation that is neither ReLU nor the identity")),
    }
}
