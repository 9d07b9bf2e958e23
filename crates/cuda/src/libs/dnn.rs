//! The functions of cuDNN that Kiln calls: those of its graph API
//! (<https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html>).

use std::{
    ffi::{c_char, c_uint, c_void},
    fmt,
    path::{Path, PathBuf},
};

use cudarc::cudnn::sys::{
    self, cudaStream_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, cudnnBackendDescriptor_t,
    cudnnBackendDescriptorType_t, cudnnHandle_t, cudnnStatus_t,
};
use kiln_dylib::{Library, Open, nvidia_files, reason};

use super::{functions, release::release, search};
use crate::error::CudaError;

include!("dnn_functions.rs");

/// cuDNN's first sub-library, which the linked one opens itself. If it is missing, asking for the version ends the
/// process, so it is opened beforehand.
const GRAPH: &str = if cfg!(windows) { "cudnn_graph64_9.dll" } else { "libcudnn_graph.so.9" };

impl Cudnn {
    /// Finds and opens the library. `served` is the major CUDA version that the driver supports.
    ///
    /// # Errors
    /// The reason, if there is none.
    pub(crate) fn open(served: u32) -> Result<Cudnn, String> {
        Cudnn::resolve(Open::new(&search::cudnn(served), is_whole)?)
    }

    /// The version, 92600 for 9.26.0.
    pub(crate) fn version(&self) -> Option<u32> {
        // SAFETY: a function of this type; `is_whole` has checked that its dependencies are there.
        u32::try_from(unsafe { self.open.number("cudnnGetVersion") }?).ok()
    }

    /// The CUDA version that it was built for, 13040 for 13.4.
    pub(crate) fn cuda_version(&self) -> Option<u32> {
        // SAFETY: as above.
        u32::try_from(unsafe { self.open.number("cudnnGetCudartVersion") }?).ok()
    }

    /// The major CUDA version that it was built for.
    pub(crate) fn cuda_major(&self) -> Option<u32> {
        self.cuda_version().map(|version| version / 1000)
    }

    /// The file that it was loaded from.
    pub(crate) fn file(&self) -> PathBuf {
        self.open.file("cudnnCreate")
    }

    /// Its file and the CUDA version that it was built for, for messages.
    pub(crate) fn described(&self) -> String {
        let built =
            self.cuda_major().map_or_else(|| "an unknown version of CUDA".into(), |major| format!("CUDA {major}"));
        format!("cuDNN {} is for {built}", self.file().display())
    }

    /// The library's message about the last failure on this thread, beyond the status; empty if there is none.
    fn last_error(&self) -> String {
        let mut text = [0u8; 1024];
        // SAFETY: the type of the function, which writes at most the given number of bytes.
        unsafe {
            let get: Option<unsafe extern "C" fn(*mut c_char, usize)> = self.open.get("cudnnGetLastErrorString");
            let Some(get) = get else { return String::new() };
            get(text.as_mut_ptr().cast(), text.len());
        }
        // A message longer than the buffer may not end with a zero.
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        String::from_utf8_lossy(&text[..end]).trim().to_string()
    }

    /// Turns the status of a call into a result.
    pub(crate) fn check(&self, call: &'static str, code: u32) -> Result<(), Failed> {
        if code == 0 { Ok(()) } else { Err(Failed { call, code, said: self.last_error() }) }
    }

    /// The error of a failed call: if it is of the environment, with the loaded libraries and a fix, else with the
    /// problem.
    pub(crate) fn error(&self, device: usize, problem: &str, failed: Failed) -> CudaError {
        let class = failed.class();
        let Failed { call, code, said } = failed;
        let status = format!("{} ({code})", status_name(code));
        if class != Failure::Environment {
            let status = if said.is_empty() { status } else { format!("{status}; the library says: {said}") };
            return CudaError::Library { device, call, problem: problem.into(), status };
        }
        let mut files = nvidia_files();
        files.push(self.file());
        files.sort_unstable();
        files.dedup();
        CudaError::Environment { device, call, status, said, files, fix: self.fix(code) }
    }

    /// How to fix a status of the environment.
    fn fix(&self, code: u32) -> String {
        let major = self.cuda_major().unwrap_or(13);
        let ending = if major >= 13 { String::new() } else { format!("-cu{major}") };
        let together = format!("`pip install nvidia-cudnn-cu{major} nvidia-cublas{ending} nvidia-cuda-nvrtc{ending}`");
        match code {
            INCOMPATIBLE_CUDA_DRIVER => format!(
                "update the NVIDIA display driver to one that serves CUDA {}, or install a cuDNN for the CUDA that it \
                 serves",
                self.cuda_version().map_or_else(|| major.to_string(), |version| release(version, 1000))
            ),
            INCOMPATIBLE_CUDART => format!("install cuDNN, cuBLAS and NVRTC of one version of CUDA: {together}"),
            ARCH_MISMATCH => "install a newer cuDNN: this one has no code for the device's compute capability".into(),
            RUNTIME_PREREQUISITE_MISSING => format!(
                "install what this cuDNN opens at run time, cuBLASLt and NVRTC of CUDA {major} ({together}), or set \
                 KILN_CUDA_PATH to the folders that hold them"
            ),
            _ => {
                "reinstall cuDNN: all of its libraries (libcudnn_*) of one version in one folder, and no others on the \
                  loader's path"
                    .into()
            }
        }
    }
}

/// Checks that cuDNN's sub-libraries are there. What is opened here stays open, since the library opens it as well.
fn is_whole(open: &Open) -> Result<(), String> {
    let beside = open.file("cudnnCreate").with_file_name(GRAPH);
    let name = if beside.is_file() { &beside } else { Path::new(GRAPH) };
    // SAFETY: NVIDIA's libraries have no initializers with requirements on the caller.
    let graph = unsafe { Library::new(name) }
        .map_err(|error| format!("{GRAPH}, a part of it, does not load: {}", reason(&error)))?;
    // It must not be unloaded: its descriptors and the library's own handle to it live on.
    std::mem::forget(graph);
    // SAFETY: a function of this type; all that it needs is there.
    match unsafe { open.number("cudnnGetVersion") } {
        Some(version) if version < OLDEST => Err(format!("it is {version}, and {OLDEST} or newer is needed")),
        _ => Ok(()),
    }
}

/// cuDNN 9.1.
const OLDEST: usize = 90_100;

const INCOMPATIBLE_CUDA_DRIVER: u32 = 3005;
const INCOMPATIBLE_CUDART: u32 = 3006;
const ARCH_MISMATCH: u32 = 3007;
const RUNTIME_PREREQUISITE_MISSING: u32 = 3008;
const SUBLIBRARY_UNAVAILABLE: u32 = 3009;
const SUBLIBRARY_VERSION_MISMATCH: u32 = 1002;
const SUBLIBRARY_LOADING_FAILED: u32 = 1008;
const DEVICE_ALLOCATION_FAILED: u32 = 4004;

/// A failed call: the function, its status, and the library's message, which the next call would overwrite.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) code: u32,
    pub(crate) said: String,
}

impl Failed {
    pub(crate) fn class(&self) -> Failure {
        Failure::of(self.code)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} returned {}", self.call, status_name(self.code))?;
        if self.said.is_empty() { Ok(()) } else { write!(f, ": {}", self.said) }
    }
}

/// What an unsuccessful status means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The library does not support the problem in this way; it may in another.
    Unsupported,
    /// Library, driver and device do not fit together: nothing else will work, and the user has to fix the
    /// installation.
    Environment,
    /// The library found no device memory for itself.
    OutOfMemory,
    Other,
}

impl Failure {
    fn of(code: u32) -> Failure {
        match code {
            INCOMPATIBLE_CUDA_DRIVER..=SUBLIBRARY_UNAVAILABLE
            | SUBLIBRARY_VERSION_MISMATCH
            | SUBLIBRARY_LOADING_FAILED => Failure::Environment,
            3000..4000 => Failure::Unsupported,
            DEVICE_ALLOCATION_FAILED => Failure::OutOfMemory,
            _ => Failure::Other,
        }
    }
}

/// The name of a cuDNN status code
/// (<https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html#cudnnstatus-t>); for a code
/// newer than this list, its class.
fn status_name(code: u32) -> &'static str {
    match NAMES.iter().find(|(known, _)| *known == code) {
        Some((_, name)) => name,
        None => match code {
            2000..3000 => "an invalid argument, CUDNN_STATUS_BAD_PARAM",
            3000..4000 => "something unsupported, CUDNN_STATUS_NOT_SUPPORTED",
            4000..5000 => "an internal error, CUDNN_STATUS_INTERNAL_ERROR",
            5000..6000 => "a failure of the device, CUDNN_STATUS_EXECUTION_FAILED",
            _ => "a status that Kiln does not know",
        },
    }
}

const NAMES: [(u32, &str); 49] = [
    (0, "CUDNN_STATUS_SUCCESS"),
    (1001, "CUDNN_STATUS_NOT_INITIALIZED"),
    (1002, "CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH"),
    (1003, "CUDNN_STATUS_SERIALIZATION_VERSION_MISMATCH"),
    (1004, "CUDNN_STATUS_DEPRECATED"),
    (1005, "CUDNN_STATUS_LICENSE_ERROR"),
    (1006, "CUDNN_STATUS_RUNTIME_IN_PROGRESS"),
    (1007, "CUDNN_STATUS_RUNTIME_FP_OVERFLOW"),
    (1008, "CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED"),
    (2000, "CUDNN_STATUS_BAD_PARAM"),
    (2001, "CUDNN_STATUS_INVALID_VALUE"),
    (2002, "CUDNN_STATUS_BAD_PARAM_NULL_POINTER"),
    (2003, "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER"),
    (2004, "CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED"),
    (2005, "CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND"),
    (2006, "CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT"),
    (2007, "CUDNN_STATUS_BAD_PARAM_STREAM_MISMATCH"),
    (2008, "CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH"),
    (2009, "CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES"),
    (2010, "CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE"),
    (2011, "CUDNN_STATUS_BAD_PARAM_CUDA_GRAPH_MISMATCH"),
    (2012, "CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE"),
    (3000, "CUDNN_STATUS_NOT_SUPPORTED"),
    (3001, "CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN"),
    (3002, "CUDNN_STATUS_NOT_SUPPORTED_SHAPE"),
    (3003, "CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE"),
    (3004, "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT"),
    (3005, "CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDA_DRIVER"),
    (3006, "CUDNN_STATUS_NOT_SUPPORTED_INCOMPATIBLE_CUDART"),
    (3007, "CUDNN_STATUS_NOT_SUPPORTED_ARCH_MISMATCH"),
    (3008, "CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING"),
    (3009, "CUDNN_STATUS_NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE"),
    (3010, "CUDNN_STATUS_NOT_SUPPORTED_SHARED_MEMORY_INSUFFICIENT"),
    (3011, "CUDNN_STATUS_NOT_SUPPORTED_PADDING"),
    (3012, "CUDNN_STATUS_NOT_SUPPORTED_BAD_LAUNCH_PARAM"),
    (3013, "CUDNN_STATUS_NOT_SUPPORTED_CUDA_GRAPH_NATIVE_API"),
    (3014, "CUDNN_STATUS_NOT_SUPPORTED_INVALID_DYNAMIC_SHAPE"),
    (4000, "CUDNN_STATUS_INTERNAL_ERROR"),
    (4001, "CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED"),
    (4002, "CUDNN_STATUS_INTERNAL_ERROR_UNEXPECTED_VALUE"),
    (4003, "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    (4004, "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    (4005, "CUDNN_STATUS_INTERNAL_ERROR_BAD_LAUNCH_PARAM"),
    (4006, "CUDNN_STATUS_INTERNAL_ERROR_TEXTURE_CREATION_FAILED"),
    (5000, "CUDNN_STATUS_EXECUTION_FAILED"),
    (5001, "CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER"),
    (5002, "CUDNN_STATUS_EXECUTION_FAILED_CUBLAS"),
    (5003, "CUDNN_STATUS_EXECUTION_FAILED_CUDART"),
    (5004, "CUDNN_STATUS_EXECUTION_FAILED_CURAND"),
];

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn codes_of_the_environment_are_not_those_of_the_problem() {
        let of = |codes: &[u32]| codes.iter().map(|&code| Failure::of(code)).collect::<Vec<_>>();
        assert_eq!(of(&[3005, 3006, 3007, 3008, 3009, 1002, 1008]), [Failure::Environment; 7]);
        assert_eq!(of(&[3000, 3001, 3004, 3010, 3014, 3999]), [Failure::Unsupported; 6]);
        assert_eq!(
            of(&[4004, 4000, 5000, 2000, 1001]),
            [Failure::OutOfMemory, Failure::Other, Failure::Other, Failure::Other, Failure::Other]
        );
        assert_eq!(status_name(3008), "CUDNN_STATUS_NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING");
        assert!(status_name(3999).contains("NOT_SUPPORTED") && status_name(7).contains("does not know"));
    }

    /// Runs where the real library is installed.
    #[test]
    fn names_are_the_librarys() {
        let Ok(library) = Cudnn::open(13) else { return };
        // SAFETY: the type of the function, which returns text that is never freed.
        let name = |code| unsafe {
            let get: unsafe extern "C" fn(c_uint) -> *const c_char = library.open.get("cudnnGetErrorString").unwrap();
            CStr::from_ptr(get(code)).to_string_lossy().into_owned()
        };
        // The simulated library has few of the names.
        let newest = library.version().unwrap() >= 92_600 && std::env::var_os("KILN_SIM_REPORT").is_none();
        for code in 0..6000 {
            let known = NAMES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name);
            let theirs = Some(name(code)).filter(|name| name != "CUDNN_UNKNOWN_STATUS");
            // An older library lacks some, a newer one has more.
            assert!(known.is_none() || theirs.is_none() || known == theirs.as_deref(), "{code}: {known:?}, {theirs:?}");
            assert!(!newest || known.is_none() || theirs.is_some(), "{code}: {known:?}");
        }
        // If a handle cannot be made here, the library says why.
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes the handle.
        let code = unsafe { (library.create)(&raw mut handle) };
        if let Err(failed) = library.check("cudnnCreate", code) {
            let text = library.error(0, "this device", failed).to_string();
            assert!(text.contains("the library says: "), "{text}");
        }
    }
}
