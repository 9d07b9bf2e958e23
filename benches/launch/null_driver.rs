//! A stub of the driver, of cuBLASLt and of cuDNN that immediately returns success: the remaining cost is that of Kiln's own
//! code. A cdylib, which `main.rs` compiles unless a bundle contains it.

#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

/// A handle that is not null. Nothing dereferences it.
const HANDLE: usize = 0x1000;

/// Functions that succeed and write nothing.
macro_rules! silent {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        pub extern "C" fn $name() -> c_uint {
            0
        })*
    };
}

silent! {
    cuInit cuCtxSetCurrent cuCtxSynchronize cuMemFree_v2 cuMemFreeAsync cuMemFreeHost cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemsetD8Async
    cuStreamSynchronize cuStreamWaitEvent cuStreamQuery cuEventQuery cuEventRecord cuEventSynchronize cuEventElapsedTime
    cuEventDestroy_v2 cuLaunchKernel cuStreamBeginCapture_v2 cuThreadExchangeStreamCaptureMode cuGraphUpload
    cuGraphExecMemcpyNodeSetParams cuGraphLaunch cuGraphExecDestroy cuGraphDestroy
    cublasLtMatmulDescSetAttribute cublasLtMatmulDescDestroy cublasLtMatrixLayoutSetAttribute
    cublasLtMatrixLayoutDestroy cublasLtMatmulPreferenceSetAttribute cublasLtMatmulPreferenceDestroy cublasLtMatmul
    cudnnSetStream cudnnBackendDestroyDescriptor cudnnBackendSetAttribute cudnnBackendFinalize cudnnBackendExecute
}

/// Functions that make something and return a handle.
macro_rules! makes {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(handle: *mut usize) -> c_uint {
            unsafe { *handle = HANDLE };
            0
        })*
    };
}

makes! {
    cuDevicePrimaryCtxRetain cuStreamCreate cuEventCreate cuModuleLoadDataEx cuModuleGetFunction cublasLtCreate
    cuGraphCreate cuGraphAddMemcpyNode cuGraphAddChildGraphNode cuGraphInstantiateWithFlags
    cublasLtMatmulDescCreate cublasLtMatrixLayoutCreate cublasLtMatmulPreferenceCreate cudnnCreate
}

/// A graph with nothing in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(_stream: usize, graph: *mut usize) -> c_uint {
    unsafe { *graph = HANDLE };
    0
}

/// Functions that write one number.
macro_rules! numbers {
    ($($name:ident: $ty:ty = $value:expr;)*) => {
        $(#[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(number: *mut $ty) -> c_uint {
            unsafe { *number = $value };
            0
        })*
    };
}

numbers! {
    cuDriverGetVersion: c_int = 13000;
    cuDeviceGetCount: c_int = 1;
    cuDeviceGet: c_int = 0;
    // Of every attribute: a compute capability of 9.9 runs all PTX.
    cuDeviceGetAttribute: c_int = 9;
    cuDeviceTotalMem_v2: usize = 1 << 36;
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, _len: c_int, _device: c_int) -> c_uint {
    unsafe { *name = 0 };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_uint {
    unsafe { (*free, *total) = (1 << 35, 1 << 36) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut u64, bytes: usize) -> c_uint {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    unsafe { *pointer = NEXT.fetch_add((bytes as u64).next_multiple_of(1 << 21), Ordering::Relaxed) };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(pointer: *mut u64, bytes: usize, _stream: usize) -> c_uint {
    unsafe { cuMemAlloc_v2(pointer, bytes) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) -> c_uint {
    unsafe { *pointer = Box::leak(vec![0u8; bytes].into_boxed_slice()).as_mut_ptr().cast() };
    0
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_code: c_uint, name: *mut *const c_char) -> c_uint {
    unsafe { *name = ptr::null() };
    1
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(_code: c_uint, text: *mut *const c_char) -> c_uint {
    unsafe { *text = ptr::null() };
    1
}

/// One candidate, all zeros: no workspace, and the status of success.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    _handle: usize,
    _operation: usize,
    _a: usize,
    _b: usize,
    _c: usize,
    _d: usize,
    _preference: usize,
    _requested: c_int,
    _results: *mut c_void,
    returned: *mut c_int,
) -> c_uint {
    unsafe { *returned = 1 };
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetVersion() -> usize {
    92_600
}

#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetCudartVersion() -> usize {
    13_000
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnBackendCreateDescriptor(_kind: c_uint, descriptor: *mut usize) -> c_uint {
    unsafe { *descriptor = HANDLE };
    0
}

/// One proposal, of engine 0 without notes, which needs no workspace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnBackendGetAttribute(
    _descriptor: usize,
    name: c_uint,
    _kind: c_uint,
    _requested: i64,
    count: *mut i64,
    values: *mut c_void,
) -> c_uint {
    const NUMERICAL_NOTE: c_uint = 1303;
    const BEHAVIOR_NOTE: c_uint = 1305;
    const GLOBAL_INDEX: c_uint = 1301;
    const WORKSPACE_SIZE: c_uint = 402;
    unsafe {
        *count = i64::from(!matches!(name, NUMERICAL_NOTE | BEHAVIOR_NOTE));
        if matches!(name, GLOBAL_INDEX | WORKSPACE_SIZE) {
            *values.cast::<i64>() = 0;
        }
    }
    0
}
