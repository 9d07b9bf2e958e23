//! The driver's error codes, with their names and messages.
use std::ffi::CStr;

/// A `CUresult`.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(pub i32);

macro_rules! codes {
    ($($name:ident $code:literal $long:literal $text:literal;)*) => {
        /// The codes that the simulator supports, with the driver's names.
        pub fn error_codes() -> Vec<(i32, &'static str)> {
            vec![$(($code, $long)),*]
        }

        #[allow(missing_docs, reason = "the driver's names for its errors")]
        impl Status {
            $(pub const $name: Status = Status($code);)*

            /// Not one of the driver's: the call waits for other ranks, and is made again.
            pub(crate) const BLOCKED: Status = Status(-1);

            /// Name and message of a code.
            pub fn texts(self) -> Option<(&'static CStr, &'static CStr)> {
                match self.0 {
                    $($code => Some((
                        constant(concat!($long, "\0").as_bytes()),
                        constant(concat!($text, "\0").as_bytes()),
                    )),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    SUCCESS 0 "CUDA_SUCCESS" "no error";
    INVALID_VALUE 1 "CUDA_ERROR_INVALID_VALUE" "invalid argument";
    OUT_OF_MEMORY 2 "CUDA_ERROR_OUT_OF_MEMORY" "out of memory";
    NOT_INITIALIZED 3 "CUDA_ERROR_NOT_INITIALIZED" "initialization error";
    NO_DEVICE 100 "CUDA_ERROR_NO_DEVICE" "no CUDA-capable device is detected";
    INVALID_DEVICE 101 "CUDA_ERROR_INVALID_DEVICE" "invalid device ordinal";
    INVALID_IMAGE 200 "CUDA_ERROR_INVALID_IMAGE" "device kernel image is invalid";
    INVALID_CONTEXT 201 "CUDA_ERROR_INVALID_CONTEXT" "invalid device context";
    NO_BINARY_FOR_GPU 209 "CUDA_ERROR_NO_BINARY_FOR_GPU" "no kernel image is available for execution on the device";
    INVALID_PTX 218 "CUDA_ERROR_INVALID_PTX" "a PTX JIT compilation failed";
    JIT_COMPILER_NOT_FOUND 221 "CUDA_ERROR_JIT_COMPILER_NOT_FOUND" "PTX JIT compiler library not found";
    UNSUPPORTED_PTX_VERSION 222 "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" "the provided PTX was compiled with an unsupported toolchain.";
    JIT_COMPILATION_DISABLED 223 "CUDA_ERROR_JIT_COMPILATION_DISABLED" "PTX JIT compilation was disabled";
    INVALID_HANDLE 400 "CUDA_ERROR_INVALID_HANDLE" "invalid resource handle";
    ILLEGAL_STATE 401 "CUDA_ERROR_ILLEGAL_STATE" "the operation cannot be performed in the present state";
    NOT_FOUND 500 "CUDA_ERROR_NOT_FOUND" "named symbol not found";
    NOT_READY 600 "CUDA_ERROR_NOT_READY" "device not ready";
    ILLEGAL_ADDRESS 700 "CUDA_ERROR_ILLEGAL_ADDRESS" "an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES 701 "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES" "too many resources requested for launch";
    CONTEXT_IS_DESTROYED 709 "CUDA_ERROR_CONTEXT_IS_DESTROYED" "context is destroyed";
    ASSERT 710 "CUDA_ERROR_ASSERT" "device-side assert triggered";
    MISALIGNED_ADDRESS 716 "CUDA_ERROR_MISALIGNED_ADDRESS" "misaligned address";
    LAUNCH_FAILED 719 "CUDA_ERROR_LAUNCH_FAILED" "unspecified launch failure";
    NOT_SUPPORTED 801 "CUDA_ERROR_NOT_SUPPORTED" "operation not supported";
    STREAM_CAPTURE_UNSUPPORTED 900 "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" "operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED 901 "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" "operation failed due to a previous error during capture";
    STREAM_CAPTURE_MERGE 902 "CUDA_ERROR_STREAM_CAPTURE_MERGE" "operation would result in a merge of separate capture sequences";
    STREAM_CAPTURE_UNMATCHED 903 "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED" "capture was not ended in the same stream as it began";
    STREAM_CAPTURE_UNJOINED 904 "CUDA_ERROR_STREAM_CAPTURE_UNJOINED" "capturing stream has unjoined work";
    STREAM_CAPTURE_ISOLATION 905 "CUDA_ERROR_STREAM_CAPTURE_ISOLATION" "dependency created on uncaptured work in another stream";
    STREAM_CAPTURE_IMPLICIT 906 "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT" "operation would make the legacy stream depend on a capturing blocking stream";
    CAPTURED_EVENT 907 "CUDA_ERROR_CAPTURED_EVENT" "operation not permitted on an event last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD 908 "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD" "attempt to terminate a thread-local capture sequence from another thread";
    GRAPH_EXEC_UPDATE_FAILURE 910 "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE" "the graph update was not performed because it included changes which violated constraints specific to instantiated graph update";
}

/// Zero-terminated text without other zeros.
fn constant(text: &'static [u8]) -> &'static CStr {
    CStr::from_bytes_with_nul(text).unwrap_or_default()
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.texts() {
            Some((name, _)) => write!(f, "{}", name.to_string_lossy()),
            None => write!(f, "CUresult {}", self.0),
        }
    }
}
