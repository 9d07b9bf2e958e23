//! Errors of the driver and the libraries, with what was being done when they occurred.

use std::{fmt, path::PathBuf};

use kiln_backend::Error;

/// A failure of the driver or of a library, inside [`ErrorKind::Other`](kiln_backend::ErrorKind::Other).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are what the messages say
pub enum CudaError {
    /// A failed call of the driver.
    Driver { device: usize, call: &'static str, status: String },
    /// A kernel that could not be launched.
    Launch { device: usize, kernel: &'static str, grid: [u32; 3], block: [u32; 3], status: String },
    /// Work that was queued earlier and failed. `operations` are the last ones, newest last.
    Asynchronous { device: usize, operations: Vec<&'static str>, exact: bool, status: String },
    /// A failed call of cuBLASLt or cuDNN, and the problem that it was called for.
    Library { device: usize, call: &'static str, problem: String, status: String },
    /// A library that cannot work on this system, whatever it is called for: it does not fit the driver, the device or
    /// the libraries that it opens itself. `said` is its own message, if any; `files` are NVIDIA's libraries that are
    /// loaded.
    Environment { device: usize, call: &'static str, status: String, said: String, files: Vec<PathBuf>, fix: String },
    /// A module of kernels that the driver does not accept. `advice` is what the user can do about it.
    Module { device: usize, module: String, status: String, advice: String, log: String },
    /// What the device has computed is undefined, because a collective was aborted.
    Undefined { device: usize, reason: String },
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
            CudaError::Undefined { device, reason } => {
                write!(f, "cuda:{device}: what was computed is undefined, since a collective was aborted: {reason}")
            }
            CudaError::Library { device, call, problem, status } => {
                write!(f, "cuda:{device}: {call} failed for {problem}: {status}")
            }
            CudaError::Environment { device, call, status, said, files, fix } => {
                write!(f, "cuda:{device}: {call} failed because of the installed environment: {status}")?;
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
            "cuda:0: cudnnCreate failed because of the installed environment: \
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
