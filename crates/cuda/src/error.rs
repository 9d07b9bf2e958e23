//! What the driver and the libraries report, as errors that say what was being done.

use std::{fmt, path::PathBuf};

use kiln_backend::Error;

/// A failure of the driver or of a library, inside [`ErrorKind::Other`](kiln_backend::ErrorKind::Other).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum CudaError {
    /// A call of the driver.
    Driver { device: usize, call: &'static str, status: String },
    /// A kernel that was not started.
    Launch { device: usize, kernel: &'static str, grid: [u32; 3], block: [u32; 3], status: String },
    /// Work that was started earlier and failed. `operations` are the last ones, the newest at the end.
    Asynchronous { device: usize, operations: Vec<&'static str>, exact: bool, status: String },
    /// A call of cuBLASLt or cuDNN. `problem` says with what.
    Library { device: usize, call: &'static str, problem: String, status: String },
    /// A library that cannot work here, whatever it is asked for: it does not fit the driver, the device or the libraries
    /// that it opens by itself. `said` are its own words, if it has any, `files` those of NVIDIA's libraries that are
    /// loaded.
    Environment { device: usize, call: &'static str, status: String, said: String, files: Vec<PathBuf>, fix: String },
    /// A kernel's module that the driver does not take. `advice` is what a user can do about it.
    Module { device: usize, module: String, status: String, advice: String, log: String },
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaError::Driver { device, call, status } => write!(f, "cuda:{device}: {call} failed: {status}"),
            CudaError::Launch { device, kernel, grid, block, status } => {
                write!(f, "cuda:{device}: kernel {kernel} with grid {grid:?} and block {block:?} failed: {status}")
            }
            CudaError::Asynchronous { device, operations, exact: true, status } => {
                write!(f, "cuda:{device}: {} failed: {status}", operations.last().unwrap_or(&"an operation"))
            }
            CudaError::Asynchronous { device, operations, exact: false, status } => write!(
                f,
                "cuda:{device}: an operation that was queued earlier failed: {status}. The last ones were {}; with the \
                 environment variable KILN_CUDA_LAUNCH_BLOCKING=1 each is waited for, and the one that fails is named",
                operations.join(", ")
            ),
            CudaError::Library { device, call, problem, status } => {
                write!(f, "cuda:{device}: {call} failed for {problem}: {status}")
            }
            CudaError::Environment { device, call, status, said, files, fix } => {
                write!(f, "cuda:{device}: {call} failed for want of a fitting environment: {status}")?;
                if !said.is_empty() {
                    write!(f, "; the library says: {said}")?;
                }
                let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                write!(f, ". Loaded are {}. To fix it, {fix}", files.join(", "))
            }
            CudaError::Module { device, module, status, advice, log } => {
                write!(f, "cuda:{device}: the kernels of {module} do not load: {status}")?;
                if !advice.is_empty() {
                    write!(f, "; {advice}")?;
                }
                if log.is_empty() { Ok(()) } else { write!(f, "; the driver's compiler says: {log}") }
            }
        }
    }
}

impl std::error::Error for CudaError {}

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Error {
        Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_failed() {
        let status = || "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered".to_string();
        let launch = CudaError::Launch {
            device: 1,
            kernel: "unary_exp_f32",
            grid: [4, 1, 1],
            block: [256, 1, 1],
            status: status(),
        };
        assert_eq!(
            Error::from(launch).to_string(),
            "cuda:1: kernel unary_exp_f32 with grid [4, 1, 1] and block [256, 1, 1] failed: CUDA_ERROR_ILLEGAL_ADDRESS \
             (700): an illegal memory access was encountered"
        );
        let late =
            |exact| CudaError::Asynchronous { device: 0, operations: vec!["matmul", "exp"], exact, status: status() };
        assert!(late(true).to_string().starts_with("cuda:0: exp failed: CUDA_ERROR_ILLEGAL_ADDRESS"));
        let text = late(false).to_string();
        assert!(text.contains("matmul, exp") && text.contains("KILN_CUDA_LAUNCH_BLOCKING=1"), "{text}");
        let environment = CudaError::Environment {
            device: 0,
            call: "cudnnCreate",
            status: "CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDART (3006)".into(),
            said: "cudart 11".into(),
            files: vec!["/a/libcudnn.so.9".into(), "/b/libcublasLt.so.12".into()],
            fix: "reinstall".into(),
        };
        assert_eq!(
            environment.to_string(),
            "cuda:0: cudnnCreate failed for want of a fitting environment: \
             CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDART (3006); the library says: cudart 11. Loaded are \
             /a/libcudnn.so.9, /b/libcublasLt.so.12. To fix it, reinstall"
        );
        let module = CudaError::Module {
            device: 0,
            module: "reduce".into(),
            status: "x".into(),
            advice: "update the driver".into(),
            log: "unknown opcode".into(),
        };
        assert!(module.to_string().ends_with("x; update the driver; the driver's compiler says: unknown opcode"));
    }
}
