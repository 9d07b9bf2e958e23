//! Descriptors as the library keeps them, with the rules that it has when they are set. All of this was compared with
//! cuDNN 9.26, which needs no device for it (`tests/dnn_headers.rs`).
use super::{Refusal, bad, unsupported};

/// `CUDNN_DIM_MAX`
const MAX_DIMS: usize = 8;

/// What is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Tensor,
    Filter,
    Convolution,
    Activation,
}

impl Sort {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Tensor => "tensor descriptor",
            Sort::Filter => "filter descriptor",
            Sort::Convolution => "convolution descriptor",
            Sort::Activation => "activation descriptor",
        }
    }
}

/// A `cudnnTensorDescriptor_t`.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub data: i32,
    pub dims: Vec<i32>,
    pub strides: Vec<i32>,
}

/// A `cudnnFilterDescriptor_t`.
#[derive(Clone, Debug)]
pub struct Filter {
    pub data: i32,
    pub format: i32,
    pub dims: Vec<i32>,
}

/// How the filter moves, per axis.
#[derive(Clone, Debug)]
pub struct Moves {
    pub padding: Vec<i32>,
    pub stride: Vec<i32>,
    pub dilation: Vec<i32>,
    /// `CUDNN_CONVOLUTION` or `CUDNN_CROSS_CORRELATION`.
    pub mode: i32,
    /// The type of sums.
    pub compute: i32,
}

/// A `cudnnConvolutionDescriptor_t`. Groups and math type are set on their own, and stay when the rest is set.
#[derive(Clone, Debug)]
pub struct Convolution {
    pub moves: Option<Moves>,
    pub groups: i32,
    pub math: i32,
}

/// A `cudnnActivationDescriptor_t`.
#[derive(Clone, Copy, Debug)]
pub struct Activation {
    pub mode: i32,
    pub nan: i32,
}

/// A descriptor; nothing in it until it is set.
#[derive(Clone, Debug)]
pub enum Descriptor {
    Tensor(Option<Tensor>),
    Filter(Option<Filter>),
    Convolution(Convolution),
    Activation(Option<Activation>),
}

impl Descriptor {
    pub fn new(sort: Sort) -> Descriptor {
        match sort {
            Sort::Tensor => Descriptor::Tensor(None),
            Sort::Filter => Descriptor::Filter(None),
            Sort::Convolution => Descriptor::Convolution(Convolution { moves: None, groups: 1, math: 0 }),
            Sort::Activation => Descriptor::Activation(None),
        }
    }

    pub fn sort(&self) -> Sort {
        match self {
            Descriptor::Tensor(_) => Sort::Tensor,
            Descriptor::Filter(_) => Sort::Filter,
            Descriptor::Convolution(_) => Sort::Convolution,
            Descriptor::Activation(_) => Sort::Activation,
        }
    }
}

/// How many extents are read: refused before they are, if the number is wrong.
pub fn rank(count: i32, least: i32, most: usize) -> Result<usize, Refusal> {
    match usize::try_from(count) {
        Ok(count) if count > most => Err(unsupported("more dimensions than the library takes")),
        Ok(rank) if count >= least => Ok(rank),
        _ => Err(bad("fewer dimensions than the library takes")),
    }
}

pub fn tensor_rank(count: i32) -> Result<usize, Refusal> {
    rank(count, 2, MAX_DIMS)
}

pub fn filter_rank(count: i32) -> Result<usize, Refusal> {
    rank(count, 3, MAX_DIMS)
}

/// Axes of a convolution, which the images have two more than.
pub fn axes(count: i32) -> Result<usize, Refusal> {
    rank(count, 0, MAX_DIMS - 2)
}

impl Tensor {
    pub fn new(data: i32, dims: &[i32], strides: &[i32]) -> Result<Tensor, Refusal> {
        if !(0..=9).contains(&data) {
            return Err(bad("there is no such type of a tensor's elements"));
        }
        if dims.iter().any(|&dim| dim <= 0) || strides.contains(&0) {
            return Err(bad("extents are positive, and strides not 0"));
        }
        // From the first element to behind the last one.
        let mut reach = 1u64;
        for (&dim, &stride) in dims.iter().zip(strides) {
            let steps = u64::from(dim.unsigned_abs() - 1) * u64::from(stride.unsigned_abs());
            reach = reach.saturating_add(steps);
        }
        if reach > i32::MAX as u64 {
            return Err(unsupported("a tensor of 2^31 elements or more"));
        }
        Ok(Tensor { data, dims: dims.to_vec(), strides: strides.to_vec() })
    }
}

impl Filter {
    pub fn new(data: i32, format: i32, dims: &[i32]) -> Result<Filter, Refusal> {
        if !matches!(data, 0..=3 | 5..=9) {
            return Err(bad("there is no such type of a filter's elements"));
        }
        if !matches!(format, 0 | 1) {
            return Err(bad("an order of a filter's elements that is not NCHW or NHWC"));
        }
        if dims.iter().any(|&dim| dim <= 0) {
            return Err(bad("extents are positive"));
        }
        Ok(Filter { data, format, dims: dims.to_vec() })
    }
}

impl Moves {
    pub fn new([padding, stride, dilation]: [&[i32]; 3], mode: i32, compute: i32) -> Result<Moves, Refusal> {
        if !matches!(mode, 0 | 1) {
            return Err(bad("there is no such mode of convolutions"));
        }
        if !matches!(compute, 0 | 1 | 2 | 4) {
            return Err(bad("there is no such type of sums"));
        }
        if padding.iter().any(|&value| value < 0) || [stride, dilation].concat().iter().any(|&value| value <= 0) {
            return Err(bad("padding is not negative; strides and dilations are positive"));
        }
        let [padding, stride, dilation] = [padding, stride, dilation].map(<[i32]>::to_vec);
        Ok(Moves { padding, stride, dilation, mode, compute })
    }
}

impl Convolution {
    pub fn set_groups(&mut self, groups: i32) -> Result<(), Refusal> {
        if groups < 1 {
            return Err(bad("there is at least one group"));
        }
        self.groups = groups;
        Ok(())
    }

    pub fn set_math(&mut self, math: i32) -> Result<(), Refusal> {
        if !(0..=3).contains(&math) {
            return Err(bad("there is no such math type"));
        }
        self.math = math;
        Ok(())
    }
}

impl Activation {
    pub fn new(mode: i32, nan: i32) -> Result<Activation, Refusal> {
        if !(0..=6).contains(&mode) || !matches!(nan, 0 | 1) {
            return Err(bad("there is no such activation, or no such propagation of NaN"));
        }
        Ok(Activation { mode, nan })
    }
}

/// The first extents of a convolution's output, as far as they can be told: the caller gets those before one that is
/// wrong, and hears nothing of those behind the ones that are asked for.
pub fn output(
    tensor: &Tensor,
    filter: &Filter,
    convolution: &Convolution,
    extents: usize,
) -> (Vec<i32>, Result<(), Refusal>) {
    let rank = tensor.dims.len();
    let Some(moves) = &convolution.moves else { return (Vec::new(), Err(bad("the convolution is not set"))) };
    if filter.dims.len() != rank || moves.stride.len() + 2 != rank {
        return (Vec::new(), Err(bad("tensor, filter and convolution differ in their dimensions")));
    }
    if i64::from(tensor.dims[1]) != i64::from(filter.dims[1]) * i64::from(convolution.groups) {
        return (Vec::new(), Err(bad("the filter's channels, times the groups, are not the tensor's")));
    }
    let mut dims = vec![tensor.dims[0], filter.dims[0]];
    for axis in 0..extents.min(rank).saturating_sub(2) {
        let [image, taps] = [&tensor.dims, &filter.dims].map(|dims| i64::from(dims[axis + 2]));
        let [pad, step, dilation] = [&moves.padding, &moves.stride, &moves.dilation].map(|of| i64::from(of[axis]));
        let room = image + 2 * pad - ((taps - 1) * dilation + 1);
        match i32::try_from(room / step + 1) {
            Ok(extent) if room >= 0 => dims.push(extent),
            _ => return (dims, Err(bad("the filter is larger than the image with its padding"))),
        }
    }
    (dims, Ok(()))
}
