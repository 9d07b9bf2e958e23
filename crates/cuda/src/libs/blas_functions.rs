// The functions of cuBLASLt that Kiln calls, for two readers: `blas.rs` makes a table of them, and the simulator's coverage
// a list of their names.

functions! {
    /// cuBLASLt. One per process; one handle per device.
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
