//! A convolution as a cuDNN operation graph: tensors with unique ids, the convolution, and the operations fused with
//! it.

use cudarc::cudnn::sys::cudnnHandle_t;
use kiln_backend::DType;

use super::{
    descriptor::{ConvolutionMode, DataType, Descriptor, Failed, Kind, PointwiseMode, attribute},
    problem::{Direction, Problem},
};
use crate::{library_dtypes::convolution_type, libs::Cudnn};

/// The unique ids of tensors in memory. A variant pack binds them to addresses.
pub(crate) mod uid {
    pub(crate) const X: i64 = 1;
    pub(crate) const W: i64 = 2;
    pub(crate) const Y: i64 = 3;
    pub(crate) const BIAS: i64 = 4;
    /// The ids of tensors between two operations, which are not in memory.
    pub(super) const SUM: i64 = 10;
    pub(super) const BIASED: i64 = 11;
}

/// The alignment of tensors that are not in memory.
const VIRTUAL_ALIGNMENT: i64 = 16;
/// `CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE`
const NOT_SUPPORTED: u32 = 3003;

/// The constants of a direction's operation: its kind, and the attributes of x, w, y, the rule, alpha and beta.
fn operation(direction: Direction) -> (Kind, [u32; 6]) {
    match direction {
        Direction::Forward | Direction::ForwardBiasRelu => (Kind::ConvolutionForward, [704, 703, 705, 702, 700, 701]),
        Direction::GradInput => (Kind::ConvolutionBackwardData, [710, 709, 711, 708, 706, 707]),
        Direction::GradWeight => (Kind::ConvolutionBackwardFilter, [716, 715, 717, 714, 712, 713]),
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
        let (kind, [to_x, to_w, to_y, to_moves, alpha, beta]) = operation(self.problem.direction);
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

    /// An element-wise operation on `x` and the matching elements of `b`.
    fn pointwise(
        &self,
        mode: PointwiseMode,
        x: &Descriptor,
        b: Option<&Descriptor>,
        y: &Descriptor,
    ) -> Result<Descriptor, Failed> {
        let rule = Descriptor::new(self.library, Kind::Pointwise)?
            .set(attribute::POINTWISE_MODE, &[mode])?
            .set(attribute::POINTWISE_MATH_PREC, &[self.compute])?
            .finalize()?;
        let mut operation = Descriptor::new(self.library, Kind::PointwiseOperation)?
            .set_descriptors(attribute::OPERATION_POINTWISE, &[&rule])?
            .set_descriptors(attribute::OPERATION_POINTWISE_X, &[x])?
            .set_descriptors(attribute::OPERATION_POINTWISE_Y, &[y])?;
        if let Some(b) = b {
            operation = operation.set_descriptors(attribute::OPERATION_POINTWISE_B, &[b])?;
        }
        operation.finalize()
    }
}

/// The graph of a problem for the device of `handle`, or without a handle for a described device.
pub(crate) fn operation_graph(
    library: &'static Cudnn,
    handle: Option<cudnnHandle_t>,
    problem: &Problem,
) -> Result<Descriptor, Failed> {
    let compute = if problem.dtype == DType::F64 { DataType::DOUBLE } else { DataType::FLOAT };
    let builder = Builder { library, problem, compute };
    let (x, w, y) =
        (builder.tensor(uid::X, problem.x)?, builder.tensor(uid::W, problem.w)?, builder.tensor(uid::Y, problem.y)?);
    let operations = if problem.direction == Direction::ForwardBiasRelu {
        let bias = builder.tensor(uid::BIAS, [1, problem.y[1], 1, 1])?;
        let (sum, biased) = (builder.between(uid::SUM, problem.y)?, builder.between(uid::BIASED, problem.y)?);
        vec![
            builder.convolution([&x, &w, &sum])?,
            builder.pointwise(PointwiseMode::ADD, &sum, Some(&bias), &biased)?,
            builder.pointwise(PointwiseMode::RELU_FWD, &biased, None, &y)?,
        ]
    } else {
        vec![builder.convolution([&x, &w, &y])?]
    };
    let all: Vec<&Descriptor> = operations.iter().collect();
    let mut graph =
        Descriptor::new(library, Kind::OperationGraph)?.set_descriptors(attribute::GRAPH_OPERATIONS, &all)?;
    if let Some(handle) = handle {
        graph = graph.set(attribute::GRAPH_HANDLE, &[handle])?;
    }
    graph.finalize()
}
