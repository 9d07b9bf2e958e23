//! A convolution as a cuDNN operation graph: tensors with unique ids, the convolution, and the operations fused with
//! it.

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t::{self as Name, *},
    cudnnBackendDescriptorType_t::{self as Kind, *},
    cudnnBackendNumericalNote_t::{
        CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
        CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
    },
    cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
    cudnnDataType_t, cudnnHandle_t,
    cudnnPointwiseMode_t::{self, CUDNN_POINTWISE_ADD, CUDNN_POINTWISE_RELU_BWD, CUDNN_POINTWISE_RELU_FWD},
    cudnnReduceTensorOp_t::CUDNN_REDUCE_TENSOR_ADD,
    cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE,
};
use kiln_backend::{Conv2dDirection, DType};

use super::problem::{Problem, Step};
use crate::{
    cudnn::{
        descriptor::Descriptor,
        plan::{Computation, Engine},
    },
    library_dtypes::convolution_type,
    libs::{Cudnn, Failed},
};

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

/// A direction's operation, and the attributes of its x, w, y, rule, alpha and beta.
fn operation(direction: Conv2dDirection) -> (Kind, [Name; 6]) {
    match direction {
        Conv2dDirection::GradInput => (
            CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
            [
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            ],
        ),
        Conv2dDirection::GradWeight => (
            CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
            [
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            ],
        ),
        Conv2dDirection::Forward => (
            CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
            [
                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            ],
        ),
    }
}

/// Extents and strides in the library's integer type.
fn wide<const N: usize>(values: [usize; N]) -> [i64; N] {
    values.map(|value| i64::try_from(value).unwrap_or(i64::MAX))
}

struct Builder<'a, const R: usize, const A: usize> {
    library: &'static Cudnn,
    problem: &'a Problem<R, A>,
    data: cudnnDataType_t,
    /// The type of sums and of intermediate tensors: at least `f32`.
    compute: cudnnDataType_t,
}

impl<const R: usize, const A: usize> Builder<'_, R, A> {
    /// A dense tensor in the problem's memory order.
    fn described(&self, uid: i64, dims: [usize; R], data: cudnnDataType_t) -> Result<Descriptor, Failed> {
        let alignment = if uid < uid::BETWEEN { i64::from(self.problem.alignment) } else { VIRTUAL_ALIGNMENT };
        Descriptor::new(self.library, CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .set(CUDNN_ATTR_TENSOR_UNIQUE_ID, &[uid])?
            .set(CUDNN_ATTR_TENSOR_DATA_TYPE, &[data])?
            .set(CUDNN_ATTR_TENSOR_DIMENSIONS, &wide(dims))?
            .set(CUDNN_ATTR_TENSOR_STRIDES, &wide(self.problem.format.strides(dims)))?
            .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[alignment])?
            .set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[uid >= uid::BETWEEN])?
            .finalize()
    }

    /// A tensor in memory.
    fn tensor(&self, uid: i64, dims: [usize; R]) -> Result<Descriptor, Failed> {
        self.described(uid, dims, self.data)
    }

    /// The extents of a number per channel.
    fn per_channel(channels: usize) -> [usize; R] {
        std::array::from_fn(|dim| if dim == 1 { channels } else { 1 })
    }

    /// An operation, not finalized yet, on tensors and by a rule that are these of its attributes.
    fn operation(&self, kind: Kind, parts: &[(Name, &Descriptor)]) -> Result<Descriptor, Failed> {
        let operation = Descriptor::new(self.library, kind)?;
        parts.iter().try_fold(operation, |operation, (name, part)| operation.set(*name, &[part.raw()]))
    }

    fn convolution(&self, [x, w, y]: [&Descriptor; 3]) -> Result<Descriptor, Failed> {
        let rule = &self.problem.rule;
        let moves = Descriptor::new(self.library, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[self.compute])?
            .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[CUDNN_CROSS_CORRELATION])?
            .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[A as i64])?
            .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, &wide(rule.dilation))?
            .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &wide(rule.stride))?
            .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &wide(rule.padding))?
            .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &wide(rule.padding))?
            .finalize()?;
        let (kind, [to_x, to_w, to_y, to_moves, alpha, beta]) = operation(self.problem.direction);
        let operation = self.operation(kind, &[(to_x, x), (to_w, w), (to_y, y), (to_moves, &moves)])?;
        let old = if self.problem.accumulate { 1.0 } else { 0.0 };
        if self.compute == cudnnDataType_t::CUDNN_DATA_DOUBLE {
            operation.set(alpha, &[1.0f64])?.set(beta, &[old])?.finalize()
        } else {
            operation.set(alpha, &[1.0f32])?.set(beta, &[old as f32])?.finalize()
        }
    }

    /// An element-wise operation on these tensors.
    fn pointwise(&self, mode: cudnnPointwiseMode_t, tensors: &[(Name, &Descriptor)]) -> Result<Descriptor, Failed> {
        let rule = Descriptor::new(self.library, CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .set(CUDNN_ATTR_POINTWISE_MODE, &[mode])?
            .set(CUDNN_ATTR_POINTWISE_MATH_PREC, &[self.compute])?
            .finalize()?;
        self.operation(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, tensors)?
            .set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[rule.raw()])?
            .finalize()
    }

    /// The sums of each channel of `x`.
    fn channel_sums(&self, x: &Descriptor, channels: usize) -> Result<Descriptor, Failed> {
        let sums = self.described(uid::BIAS, Self::per_channel(channels), self.compute)?;
        let rule = Descriptor::new(self.library, CUDNN_BACKEND_REDUCTION_DESCRIPTOR)?
            .set(CUDNN_ATTR_REDUCTION_OPERATOR, &[CUDNN_REDUCE_TENSOR_ADD])?
            .set(CUDNN_ATTR_REDUCTION_COMP_TYPE, &[self.compute])?
            .finalize()?;
        let parts = [
            (CUDNN_ATTR_OPERATION_REDUCTION_DESC, &rule),
            (CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x),
            (CUDNN_ATTR_OPERATION_REDUCTION_YDESC, &sums),
        ];
        self.operation(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, &parts)?.finalize()
    }
}

impl<const R: usize, const A: usize> Computation for Problem<R, A> {
    fn graph(&self, library: &'static Cudnn, handle: Option<cudnnHandle_t>) -> Result<Descriptor, Failed> {
        operation_graph(library, handle, self)
    }

    fn fits(&self, engine: &Engine) -> bool {
        // Tensor cores round factors of `f32` to TensorFloat-32, and some engines round them to half precision.
        let rounds_factors = engine.is(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)
            || !self.tf32 && engine.is(CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
        let varies = engine.is(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
        !(self.dtype == DType::F32 && rounds_factors || self.deterministic && varies)
    }
}

fn operation_graph<const R: usize, const A: usize>(
    library: &'static Cudnn,
    handle: Option<cudnnHandle_t>,
    problem: &Problem<R, A>,
) -> Result<Descriptor, Failed> {
    use Name::{
        CUDNN_ATTR_OPERATION_POINTWISE_BDESC as B, CUDNN_ATTR_OPERATION_POINTWISE_DXDESC as DX,
        CUDNN_ATTR_OPERATION_POINTWISE_DYDESC as DY, CUDNN_ATTR_OPERATION_POINTWISE_XDESC as X,
        CUDNN_ATTR_OPERATION_POINTWISE_YDESC as Y,
    };
    let code_of = |dtype: DType| {
        convolution_type(dtype).ok_or_else(|| Failed {
            call: "cudnnBackendSetAttribute",
            code: CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE as u32,
            said: format!("no convolution of {dtype}"),
        })
    };
    let builder = Builder { library, problem, data: code_of(problem.dtype)?, compute: code_of(problem.sums_dtype())? };
    let steps = problem.steps();
    let tensors = [(uid::X, problem.x), (uid::W, problem.w), (uid::Y, problem.y)];
    let result = problem.result();
    let (number, dims) = tensors[result];
    // The result of the convolution, and after it of each step: the last has memory.
    let last = steps.iter().rposition(|step| *step != Step::ChannelSums).map_or(0, |i| i + 1);
    let value = |i: usize| match i {
        i if i == last => builder.tensor(number, dims),
        i => builder.described(uid::BETWEEN + i as i64, dims, builder.compute),
    };
    let whole = |i: usize| if i == result { value(0) } else { builder.tensor(tensors[i].0, tensors[i].1) };
    let mut operations = vec![builder.convolution([&whole(0)?, &whole(1)?, &whole(2)?])?];
    for (i, step) in steps.iter().enumerate() {
        let (x, to) = (value(i)?, value((i + 1).min(last))?);
        let like = || builder.tensor(uid::LIKE, dims);
        operations.push(match step {
            Step::Bias => {
                let bias = builder.tensor(uid::BIAS, Builder::<R, A>::per_channel(dims[1]))?;
                builder.pointwise(CUDNN_POINTWISE_ADD, &[(X, &x), (B, &bias), (Y, &to)])?
            }
            Step::Residual => builder.pointwise(CUDNN_POINTWISE_ADD, &[(X, &x), (B, &like()?), (Y, &to)])?,
            Step::Relu => builder.pointwise(CUDNN_POINTWISE_RELU_FWD, &[(X, &x), (Y, &to)])?,
            Step::ReluGrad => builder.pointwise(CUDNN_POINTWISE_RELU_BWD, &[(X, &like()?), (DY, &x), (DX, &to)])?,
            Step::ChannelSums => builder.channel_sums(&x, dims[1])?,
        });
    }
    let all: Vec<_> = operations.iter().map(Descriptor::raw).collect();
    let graph = Descriptor::new(library, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    let mut graph = graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, &all)?;
    if let Some(handle) = handle {
        graph = graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
    }
    graph.finalize()
}
