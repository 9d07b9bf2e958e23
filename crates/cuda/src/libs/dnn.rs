//! The functions of cuDNN that Kiln calls: convolution by the API that takes descriptors of tensors, filters and
//! convolutions (<https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-cnn-library.html>).

use std::ffi::{c_int, c_uint, c_void};

use cudarc::cudnn::sys::{
    self, cudaStream_t, cudnnActivationDescriptor_t, cudnnActivationMode_t, cudnnConvolutionDescriptor_t,
    cudnnConvolutionMode_t, cudnnDataType_t, cudnnFilterDescriptor_t, cudnnHandle_t, cudnnNanPropagation_t,
    cudnnStatus_t, cudnnTensorDescriptor_t, cudnnTensorFormat_t,
};

use super::{Open, functions, search};

/// One candidate of a heuristic or of a search. The library has a type for each direction, which differ only in the
/// enum of the first field. Codes are numbers here: one that is newer than the bindings is no valid value of an enum.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidate {
    pub(crate) algorithm: c_uint,
    pub(crate) status: c_uint,
    /// Milliseconds; negative from a heuristic.
    time: f32,
    /// Bytes of workspace.
    pub(crate) memory: usize,
    pub(crate) deterministic: c_uint,
    pub(crate) math: c_uint,
    reserved: [c_int; 3],
}

const _: () = assert!(size_of::<Candidate>() == size_of::<sys::cudnnConvolutionFwdAlgoPerf_t>());
const _: () = assert!(size_of::<Candidate>() == size_of::<sys::cudnnConvolutionBwdDataAlgoPerf_t>());
const _: () = assert!(size_of::<Candidate>() == size_of::<sys::cudnnConvolutionBwdFilterAlgoPerf_t>());

functions! {
    /// cuDNN. One a process; a handle a device.
    Cudnn: cudnnStatus_t as c_uint, sys;
    create = cudnnCreate(handle: *mut cudnnHandle_t);
    set_stream = cudnnSetStream(handle: cudnnHandle_t, stream: cudaStream_t);
    tensor_create = cudnnCreateTensorDescriptor(desc: *mut cudnnTensorDescriptor_t);
    tensor_set = cudnnSetTensorNdDescriptor(
        desc: cudnnTensorDescriptor_t,
        dtype: cudnnDataType_t,
        rank: c_int,
        dims: *const c_int,
        strides: *const c_int,
    );
    tensor_destroy = cudnnDestroyTensorDescriptor(desc: cudnnTensorDescriptor_t);
    filter_create = cudnnCreateFilterDescriptor(desc: *mut cudnnFilterDescriptor_t);
    filter_set = cudnnSetFilterNdDescriptor(
        desc: cudnnFilterDescriptor_t,
        dtype: cudnnDataType_t,
        format: cudnnTensorFormat_t,
        rank: c_int,
        dims: *const c_int,
    );
    filter_destroy = cudnnDestroyFilterDescriptor(desc: cudnnFilterDescriptor_t);
    conv_create = cudnnCreateConvolutionDescriptor(desc: *mut cudnnConvolutionDescriptor_t);
    conv_set = cudnnSetConvolutionNdDescriptor(
        desc: cudnnConvolutionDescriptor_t,
        axes: c_int,
        padding: *const c_int,
        stride: *const c_int,
        dilation: *const c_int,
        mode: cudnnConvolutionMode_t,
        compute: cudnnDataType_t,
    );
    conv_set_groups = cudnnSetConvolutionGroupCount(desc: cudnnConvolutionDescriptor_t, groups: c_int);
    conv_destroy = cudnnDestroyConvolutionDescriptor(desc: cudnnConvolutionDescriptor_t);
    activation_create = cudnnCreateActivationDescriptor(desc: *mut cudnnActivationDescriptor_t);
    activation_set = cudnnSetActivationDescriptor(
        desc: cudnnActivationDescriptor_t,
        mode: cudnnActivationMode_t,
        nan: cudnnNanPropagation_t,
        coefficient: f64,
    );
    activation_destroy = cudnnDestroyActivationDescriptor(desc: cudnnActivationDescriptor_t);
    // A math type, an algorithm or a candidate is a number here.
    [unchecked] conv_set_math = cudnnSetConvolutionMathType(desc: cudnnConvolutionDescriptor_t, math: c_uint);
    [unchecked] forward_candidates = cudnnGetConvolutionForwardAlgorithm_v7(
        handle: cudnnHandle_t,
        x: cudnnTensorDescriptor_t,
        w: cudnnFilterDescriptor_t,
        conv: cudnnConvolutionDescriptor_t,
        y: cudnnTensorDescriptor_t,
        requested: c_int,
        returned: *mut c_int,
        candidates: *mut Candidate,
    );
    [unchecked] input_candidates = cudnnGetConvolutionBackwardDataAlgorithm_v7(
        handle: cudnnHandle_t,
        w: cudnnFilterDescriptor_t,
        dy: cudnnTensorDescriptor_t,
        conv: cudnnConvolutionDescriptor_t,
        dx: cudnnTensorDescriptor_t,
        requested: c_int,
        returned: *mut c_int,
        candidates: *mut Candidate,
    );
    [unchecked] weight_candidates = cudnnGetConvolutionBackwardFilterAlgorithm_v7(
        handle: cudnnHandle_t,
        x: cudnnTensorDescriptor_t,
        dy: cudnnTensorDescriptor_t,
        conv: cudnnConvolutionDescriptor_t,
        dw: cudnnFilterDescriptor_t,
        requested: c_int,
        returned: *mut c_int,
        candidates: *mut Candidate,
    );
    [unchecked] forward_search = cudnnFindConvolutionForwardAlgorithmEx(
        handle: cudnnHandle_t,
        x_desc: cudnnTensorDescriptor_t,
        x: *const c_void,
        w_desc: cudnnFilterDescriptor_t,
        w: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        y_desc: cudnnTensorDescriptor_t,
        y: *mut c_void,
        requested: c_int,
        returned: *mut c_int,
        candidates: *mut Candidate,
        workspace: *mut c_void,
        workspace_bytes: usize,
    );
    [unchecked] input_search = cudnnFindConvolutionBackwardDataAlgorithmEx(
        handle: cudnnHandle_t,
        w_desc: cudnnFilterDescriptor_t,
        w: *const c_void,
        dy_desc: cudnnTensorDescriptor_t,
        dy: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        dx_desc: cudnnTensorDescriptor_t,
        dx: *mut c_void,
        requested: c_int,
        returned: *mut c_int,
        candidates: *mut Candidate,
        workspace: *mut c_void,
        workspace_bytes: usize,
    );
    [unchecked] weight_search = cudnnFindConvolutionBackwardFilterAlgorithmEx(
        handle: cudnnHandle_t,
        x_desc: cudnnTensorDescriptor_t,
        x: *const c_void,
        dy_desc: cudnnTensorDescriptor_t,
        dy: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        dw_desc: cudnnFilterDescriptor_t,
        dw: *mut c_void,
        requested: c_int,
        returned: *mut c_int,
        candidates: *mut Candidate,
        workspace: *mut c_void,
        workspace_bytes: usize,
    );
    [unchecked] forward = cudnnConvolutionForward(
        handle: cudnnHandle_t,
        alpha: *const c_void,
        x_desc: cudnnTensorDescriptor_t,
        x: *const c_void,
        w_desc: cudnnFilterDescriptor_t,
        w: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        algorithm: c_uint,
        workspace: *mut c_void,
        workspace_bytes: usize,
        beta: *const c_void,
        y_desc: cudnnTensorDescriptor_t,
        y: *mut c_void,
    );
    [unchecked] forward_fused = cudnnConvolutionBiasActivationForward(
        handle: cudnnHandle_t,
        alpha: *const c_void,
        x_desc: cudnnTensorDescriptor_t,
        x: *const c_void,
        w_desc: cudnnFilterDescriptor_t,
        w: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        algorithm: c_uint,
        workspace: *mut c_void,
        workspace_bytes: usize,
        alpha_z: *const c_void,
        z_desc: cudnnTensorDescriptor_t,
        z: *const c_void,
        bias_desc: cudnnTensorDescriptor_t,
        bias: *const c_void,
        activation: cudnnActivationDescriptor_t,
        y_desc: cudnnTensorDescriptor_t,
        y: *mut c_void,
    );
    [unchecked] backward_input = cudnnConvolutionBackwardData(
        handle: cudnnHandle_t,
        alpha: *const c_void,
        w_desc: cudnnFilterDescriptor_t,
        w: *const c_void,
        dy_desc: cudnnTensorDescriptor_t,
        dy: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        algorithm: c_uint,
        workspace: *mut c_void,
        workspace_bytes: usize,
        beta: *const c_void,
        dx_desc: cudnnTensorDescriptor_t,
        dx: *mut c_void,
    );
    [unchecked] backward_weight = cudnnConvolutionBackwardFilter(
        handle: cudnnHandle_t,
        alpha: *const c_void,
        x_desc: cudnnTensorDescriptor_t,
        x: *const c_void,
        dy_desc: cudnnTensorDescriptor_t,
        dy: *const c_void,
        conv: cudnnConvolutionDescriptor_t,
        algorithm: c_uint,
        workspace: *mut c_void,
        workspace_bytes: usize,
        beta: *const c_void,
        dw_desc: cudnnFilterDescriptor_t,
        dw: *mut c_void,
    );
}

impl Cudnn {
    /// Finds and opens the library.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(crate) fn open() -> Result<Cudnn, String> {
        Cudnn::resolve(Open::new(&search::CUDNN)?)
    }
}

/// Whether a status means that the library cannot do this problem by this algorithm, and another may.
pub(crate) fn is_unsupported(code: u32) -> bool {
    (3000..4000).contains(&code)
}

/// Name of a status code of cuDNN
/// (<https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html#cudnnstatus-t>).
pub(crate) fn status_name(code: u32) -> &'static str {
    match code {
        0 => "CUDNN_STATUS_SUCCESS",
        1001 => "CUDNN_STATUS_NOT_INITIALIZED",
        1002 => "CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH",
        1008 => "CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
        2002 => "CUDNN_STATUS_BAD_PARAM_NULL_POINTER",
        2003 => "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER",
        2000..3000 => "CUDNN_STATUS_BAD_PARAM",
        3000..4000 => "CUDNN_STATUS_NOT_SUPPORTED",
        4003 => "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        4004 => "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        4000..5000 => "CUDNN_STATUS_INTERNAL_ERROR",
        5000..6000 => "CUDNN_STATUS_EXECUTION_FAILED",
        _ => "a status that Kiln does not know",
    }
}
