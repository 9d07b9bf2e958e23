//! The functions of cuBLASLt that Kiln calls.

use std::{
    ffi::{c_int, c_uint, c_void},
    path::{Path, PathBuf},
};

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, cublasStatus_t,
    cudaDataType, cudaStream_t,
};

use kiln_dylib::Open;

use super::{functions, release::release, search};

include!("blas_functions.rs");

impl CublasLt {
    /// Finds and opens the library of one of these major CUDA versions, the preferred one first.
    ///
    /// # Errors
    /// The reason, if there is none.
    pub(crate) fn open(majors: &[u32]) -> Result<CublasLt, String> {
        // A file without a version in its name may be of any version.
        let check = |open: &Open| match version(open) {
            Some(version) if is_unversioned(open.path()) && !majors.contains(&(version / 10_000)) => {
                Err(format!("it is for CUDA {}", release(version, 10_000)))
            }
            _ => Ok(()),
        };
        CublasLt::resolve(Open::new(&search::cublas_lt(majors), check)?)
    }

    /// The version, 130401 for 13.4.1.
    pub(crate) fn version(&self) -> Option<u32> {
        version(&self.open)
    }

    /// The major CUDA version that it is for: that in its file name, by which other libraries find it, else the one it
    /// reports.
    pub(crate) fn cuda_major(&self) -> Option<u32> {
        let file = self.file();
        let named = file.extension().and_then(|extension| extension.to_str()?.parse().ok());
        named.or_else(|| Some(self.version()? / 10_000))
    }

    /// The file that it was loaded from.
    pub(crate) fn file(&self) -> PathBuf {
        self.open.file("cublasLtMatmul")
    }
}

fn version(open: &Open) -> Option<u32> {
    // SAFETY: a function of this type.
    u32::try_from(unsafe { open.number("cublasLtGetVersion") }?).ok()
}

/// Whether a library's file name ends without a version.
pub(super) fn is_unversioned(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "so")
}

/// `CUBLAS_STATUS_ALLOC_FAILED`
pub(crate) const ALLOC_FAILED: u32 = 3;

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

#[cfg(test)]
mod tests {
    use std::ffi::{CStr, c_char};

    use super::*;

    /// Where the real library is installed.
    #[test]
    fn names_are_the_librarys() {
        let Ok(library) = CublasLt::open(&[13, 12]) else { return };
        // SAFETY: the type of the function, which returns text that is never freed.
        let name = |code| unsafe {
            let get: unsafe extern "C" fn(c_uint) -> *const c_char = library.open.get("cublasLtGetStatusName").unwrap();
            CStr::from_ptr(get(code)).to_string_lossy().into_owned()
        };
        for code in 0..32 {
            let known = status_name(code);
            assert_eq!(known.starts_with("CUBLAS_"), name(code).starts_with("CUBLAS_"), "{code}: {}", name(code));
            assert!(known == name(code) || !known.starts_with("CUBLAS_"), "{code}: {known} is {}", name(code));
        }
        assert!(library.version().is_some_and(|version| version >= 120_000));
        assert!(library.file().is_absolute() && library.file().exists(), "{}", library.file().display());
    }
}
