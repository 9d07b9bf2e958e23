//! A convolution as a cuDNN operation graph: tensors with unique ids, the convolution, and the operations fused with
//! it.

use cudarc::cudnn::sys::cudnnHandle_t;
use kiln_backend::DType;

use super::{
    descriptor::{ConvolutionMode, DataType, Descriptor, Failed, Kind, PointwiseMode, ReductionOperator, attribute},
    problem::{Direction, Problem, Step},
};
use crate::{library_dtypes::convolution_type, libs::Cudnn};

/// The unique ids of tensors in memory. A variant pack binds them to addresses.
pub(crate) mod uid {
    pub(crate) const X: i64 = 1;
    pub(crate) const W: i64 = 2;
    pub(crate) const Y: i64 = 3;
    /// A vector with an element per channel: a bias, or its gradient.
    pub(crate) const BIAS: i64 = 4;
    /// A tensor of the result's shape: a residual, or a ReLU's output.
    pub(crate) const LIKE: i64 = 5;
    /// The first id of the tensors between two operations, which are not in memory.
    pub(super) const BETWEEN: i64 = 10;
}

/// The alignment of tensors that are not in memory.
const VIRTUAL_ALIGNMENT: i64 = 16;
/// `CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE`
const NOT_SUPPORTED: u32 = 3003;

/// The constants of a direction's operation: its kind, and the attributes of x, w, y, the rule, alpha and beta.
fn operation(direction: Direction) -> (Kind, [u32; 6]) {
    match direction {
        Direction::GradInput => (Kind::ConvolutionBackwardData, [710, 709, 711, 708, 706, 707]),
        Direction::GradWeight => (Kind::ConvolutionBackwardFilter, [716, 715, 717, 714, 712, 713]),
        _ => (Kind::ConvolutionForward, [704, 703, 705, 702, 700, 701]),
    }
}

/// Extents and strides in the library's integer type.
fn wide(values: [usize; 4]) -> [i64; 4] {
    values.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

struct Builder<'a> {
    library: &'static Cudnn,
    problem: &'a Problem,
    /// The type of sums and of intermediate tensors: at least `f32`.
    compute: DataType,
}

impl Builder<'_> {
    fn described(&self, uid: i64, dims: [usize; 4], dtype: DataType, alignment: i64) -> Result<Descriptor, Failed> {
        Descriptor::new(self.library, Kind::Tensor)?
            .set(attribute::TENSOR_UNIQUE_ID, &[uid])?
            .set(attribute::TENSOR_DATA_TYPE, &[dtype])?
            .set(attribute::TENSOR_DIMENSIONS, &wide(dims))?
            .set(attribute::TENSOR_STRIDES, &wide(self.problem.format.strides(dims)))?
            .set(attribute::TENSOR_BYTE_ALIGNMENT, &[alignment])
    }

    /// A dense tensor in the problem's memory order.
    fn tensor(&self, uid: i64, dims: [usize; 4]) -> Result<Descriptor, Failed> {
        let (dtype, alignment) = (self.problem.dtype, i64::from(self.problem.alignment));
        let data = convolution_type(dtype).ok_or_else(|| Failed {
            call: "cudnnBackendSetAttribute",
            code: NOT_SUPPORTED,
            said: format!("no convolution of {dtype}"),
        })?;
        self.described(uid, dims, data, alignment)?.finalize()
    }

    /// An intermediate tensor between two operations.
    fn between(&self, uid: i64, dims: [usize; 4]) -> Result<Descriptor, Failed> {
        let tensor = self.described(uid, dims, self.compute, VIRTUAL_ALIGNMENT)?;
        tensor.set(attribute::TENSOR_IS_VIRTUAL, &[true])?.finalize()
    }

    fn convolution(&self, [x, w, y]: [&Descriptor; 3]) -> Result<Descriptor, Failed> {
        let rule = &self.problem.rule;
        let pair = |[h, w]: [usize; 2]| {
            let [h, w, ..] = wide([h, w, 0, 0]);
            [h, w]
        };
        let moves = Descriptor::new(self.library, Kind::Convolution)?
            .set(attribute::CONVOLUTION_COMP_TYPE, &[self.compute])?
            .set(attribute::CONVOLUTION_CONV_MODE, &[ConvolutionMode::CROSS_CORRELATION])?
            .set(attribute::CONVOLUTION_SPATIAL_DIMS, &[2i64])?
            .set(attribute::CONVOLUTION_DILATIONS, &pair(rule.dilation))?
            .set(attribute::CONVOLUTION_FILTER_STRIDES, &pair(rule.stride))?
            .set(attribute::CONVOLUTION_PRE_PADDINGS, &pair(rule.padding))?
            .set(attribute::CONVOLUTION_POST_PADDINGS, &pair(rule.padding))?
            .finalize()?;
        let (kind, [to_x, to_w, to_y, to_moves, alpha, beta]) = operation(self.problem.direction.parts().0);
        let operation = Descriptor::new(self.library, kind)?
            .set_descriptors(to_x, &[x])?
            .set_descriptors(to_w, &[w])?
            .set_descriptors(to_y, &[y])?
            .set_descriptors(to_moves, &[&moves])?;
        let old = if self.problem.accumulate { 1.0 } else { 0.0 };
        if self.compute == DataType::DOUBLE {
            operation.set(alpha, &[1.0f64])?.set(beta, &[old])?.finalize()
        } else {
            operation.set(alpha, &[1.0f32])?.set(beta, &[old as f32])?.finalize()
        }
    }

    /// An element-wise operation; its operands and its result come with the attributes that they are set as.
    fn pointwise(&self, mode: PointwiseMode, tensors: &[(u32, &Descriptor)]) -> Result<Descriptor, Failed> {
        let rule = Descriptor::new(self.library, Kind::Pointwise)?
            .set(attribute::POINTWISE_MODE, &[mode])?
            .set(attribute::POINTWISE_MATH_PREC, &[self.compute])?
            .finalize()?;
        let mut operation = Descriptor::new(self.library, Kind::PointwiseOperation)?
            .set_descriptors(attribute::OPERATION_POINTWISE, &[&rule])?;
        for &(name, tensor) in tensors {
            operation = operation.set_descriptors(name, &[tensor])?;
        }
        operation.finalize()
    }

    /// The sums of each channel of `x`.
    fn channel_sums(&self, x: &Descriptor, channels: usize) -> Result<Descriptor, Failed> {
        let (dims, alignment) = ([1, channels, 1, 1], i64::from(self.problem.alignment));
        let sums = self.described(uid::BIAS, dims, self.compute, alignment)?.finalize()?;
        let rule = Descriptor::new(self.library, Kind::Reduction)?
            .set(attribute::REDUCTION_OPERATOR, &[ReductionOperator::ADD])?
            .set(attribute::REDUCTION_COMP_TYPE, &[self.compute])?
            .finalize()?;
        Descriptor::new(self.library, Kind::ReductionOperation)?
            .set_descriptors(attribute::OPERATION_REDUCTION, &[&rule])?
            .set_descriptors(attribute::OPERATION_REDUCTION_X, &[x])?
            .set_descriptors(attribute::OPERATION_REDUCTION_Y, &[&sums])?
            .finalize()
    }
}

/// The graph of a problem for the device of `handle`, or without a handle for a described device.
pub(crate) fn operation_graph(
    library: &'static Cudnn,
    handle: Option<cudnnHandle_t>,
    problem: &Problem,
) -> Result<Descriptor, Failed> {
    use attribute::{
        OPERATION_POINTWISE_B as B, OPERATION_POINTWISE_DX as DX, OPERATION_POINTWISE_DY as DY,
        OPERATION_POINTWISE_X as X, OPERATION_POINTWISE_Y as Y,
    };
    let compute = if problem.sums_dtype() == DType::F64 { DataType::DOUBLE } else { DataType::FLOAT };
    let builder = Builder { library, problem, compute };
    let steps = problem.direction.parts().1;
    let tensors = [(uid::X, problem.x), (uid::W, problem.w), (uid::Y, problem.y)];
    let result = problem.direction.result();
    let (number, dims) = tensors[result];
    // The result of the convolution, and after it of each step: the last has memory.
    let last = steps.iter().rposition(|step| *step != Step::ChannelSums).map_or(0, |i| i + 1);
    let value = |i: usize| {
        if i == last { builder.tensor(number, dims) } else { builder.between(uid::BETWEEN + i as i64, dims) }
    };
    let whole = |i: usize| if i == result { value(0) } else { builder.tensor(tensors[i].0, tensors[i].1) };
    let mut ends = vec![whole(0)?, whole(1)?, whole(2)?];
    let mut operations = vec![builder.convolution([&ends[0], &ends[1], &ends[2]])?];
    let mut x = ends.swap_remove(result);
    for (i, step) in steps.iter().enumerate() {
        let to = value((i + 1).min(last))?;
        operations.push(match step {
            Step::Bias => {
                let bias = builder.tensor(uid::BIAS, [1, dims[1], 1, 1])?;
                builder.pointwise(PointwiseMode::ADD, &[(X, &x), (B, &bias), (Y, &to)])?
            }
            Step::Residual => {
                let like = builder.tensor(uid::LIKE, dims)?;
                builder.pointwise(PointwiseMode::ADD, &[(X, &x), (B, &like), (Y, &to)])?
            }
            Step::Relu => builder.pointwise(PointwiseMode::RELU_FWD, &[(X, &x), (Y, &to)])?,
            Step::ReluGrad => {
                let like = builder.tensor(uid::LIKE, dims)?;
                builder.pointwise(PointwiseMode::RELU_BWD, &[(X, &like), (DY, &x), (DX, &to)])?
            }
            Step::ChannelSums => builder.channel_sums(&x, dims[1])?,
        });
        x = to;
    }
    let all: Vec<&Descriptor> = operations.iter().collect();
    let mut graph =
        Descriptor::new(library, Kind::OperationGraph)?.set_descriptors(attribute::GRAPH_OPERATIONS, &all)?;
    if let Some(handle) = handle {
        graph = graph.set(attribute::GRAPH_HANDLE, &[handle])?;
    }
    graph.finalize()
}
