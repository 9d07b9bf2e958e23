//! The codes that cuBLASLt and cuDNN have for dtypes.

use cudarc::{
    cublaslt::sys::{cublasComputeType_t as Compute, cudaDataType as Data},
    cudnn::sys::cudnnDataType_t,
};
use kiln_backend::{DType, Error, Result};

/// cuBLASLt's types for products of a dtype: of the elements, of sums, and of the scalars.
///
/// # Errors
/// If cuBLASLt does not support the dtype.
pub(crate) fn product_types(dtype: DType, tf32: bool) -> Result<(Data, Compute, Data)> {
    Ok(match dtype {
        DType::F64 => (Data::CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F, Data::CUDA_R_64F),
        DType::F16 => (Data::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F, Data::CUDA_R_32F),
        DType::BF16 => (Data::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F, Data::CUDA_R_32F),
        DType::F32 if tf32 => (Data::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F_FAST_TF32, Data::CUDA_R_32F),
        DType::F32 => (Data::CUDA_R_32F, Compute::CUBLAS_COMPUTE_32F, Data::CUDA_R_32F),
        other => return Err(Error::dtype("matmul", other, "cuBLASLt has no products of it")),
    })
}

/// cuDNN's code of a dtype that it convolves.
pub(crate) fn convolution_type(dtype: DType) -> Option<cudnnDataType_t> {
    match dtype {
        DType::F64 => Some(cudnnDataType_t::CUDNN_DATA_DOUBLE),
        DType::F32 => Some(cudnnDataType_t::CUDNN_DATA_FLOAT),
        DType::F16 => Some(cudnnDataType_t::CUDNN_DATA_HALF),
        DType::BF16 => Some(cudnnDataType_t::CUDNN_DATA_BFLOAT16),
        _ => None,
    }
}
