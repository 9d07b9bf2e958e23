//! The functions of cuBLASLt that Kiln calls.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, cublasStatus_t,
    cudaDataType, cudaStream_t,
};

use super::{Open, functions, search};

functions! {
    /// cuBLASLt. One a process; a handle a device.
    CublasLt: cublasStatus_t as c_uint, sys;
    create = cublasLtCreate(handle: *mut cublasLtHandle_t);
    desc_create = cublasLtMatmulDescCreate(
        desc: *mut cublasLtMatmulDesc_t,
        compute: cublasComputeType_t,
        scale: cudaDataType,
    );
    desc_set = cublasLtMatmulDescSetAttribute(
        desc: cublasLtMatmulDesc_t,
        attribute: cublasLtMatmulDescAttributes_t,
        value: *const c_void,
        bytes: usize,
    );
    desc_destroy = cublasLtMatmulDescDestroy(desc: cublasLtMatmulDesc_t);
    layout_create = cublasLtMatrixLayoutCreate(
        layout: *mut cublasLtMatrixLayout_t,
        dtype: cudaDataType,
        rows: u64,
        cols: u64,
        ld: i64,
    );
    layout_set = cublasLtMatrixLayoutSetAttribute(
        layout: cublasLtMatrixLayout_t,
        attribute: cublasLtMatrixLayoutAttribute_t,
        value: *const c_void,
        bytes: usize,
    );
    layout_destroy = cublasLtMatrixLayoutDestroy(layout: cublasLtMatrixLayout_t);
    preference_create = cublasLtMatmulPreferenceCreate(preference: *mut cublasLtMatmulPreference_t);
    preference_set = cublasLtMatmulPreferenceSetAttribute(
        preference: cublasLtMatmulPreference_t,
        attribute: cublasLtMatmulPreferenceAttributes_t,
        value: *const c_void,
        bytes: usize,
    );
    preference_destroy = cublasLtMatmulPreferenceDestroy(preference: cublasLtMatmulPreference_t);
    heuristic = cublasLtMatmulAlgoGetHeuristic(
        handle: cublasLtHandle_t,
        operation: cublasLtMatmulDesc_t,
        a: cublasLtMatrixLayout_t,
        b: cublasLtMatrixLayout_t,
        c: cublasLtMatrixLayout_t,
        d: cublasLtMatrixLayout_t,
        preference: cublasLtMatmulPreference_t,
        requested: c_int,
        results: *mut cublasLtMatmulHeuristicResult_t,
        returned: *mut c_int,
    );
    matmul = cublasLtMatmul(
        handle: cublasLtHandle_t,
        operation: cublasLtMatmulDesc_t,
        alpha: *const c_void,
        a: *const c_void,
        a_layout: cublasLtMatrixLayout_t,
        b: *const c_void,
        b_layout: cublasLtMatrixLayout_t,
        beta: *const c_void,
        c: *const c_void,
        c_layout: cublasLtMatrixLayout_t,
        d: *mut c_void,
        d_layout: cublasLtMatrixLayout_t,
        algorithm: *const cublasLtMatmulAlgo_t,
        workspace: *mut c_void,
        workspace_bytes: usize,
        stream: cudaStream_t,
    );
}

impl CublasLt {
    /// Finds and opens the library that fits the driver.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(crate) fn open(driver_version: i32) -> Result<CublasLt, String> {
        CublasLt::resolve(Open::new(&search::cublas_lt(driver_version))?)
    }
}

/// Name of a status code of cuBLAS (<https://docs.nvidia.com/cuda/cublas/#cublasstatus-t>).
pub(crate) fn status_name(code: u32) -> &'static str {
    match code {
        0 => "CUBLAS_STATUS_SUCCESS",
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        16 => "CUBLAS_STATUS_LICENSE_ERROR",
        _ => "a status that Kiln does not know",
    }
}
