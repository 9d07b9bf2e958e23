//! The part of NVRTC that a program uses that does not compile with it.
use std::ffi::c_int;

use crate::world;

/// `nvrtcVersion` of NVRTC: the version of CUDA that the libraries are for.
///
/// # Safety
/// Both are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    /// `NVRTC_ERROR_INVALID_INPUT`
    const INVALID_INPUT: c_int = 3;
    let version = world::with(|world| world.profile.libraries());
    if major.is_null() || minor.is_null() {
        return INVALID_INPUT;
    }
    // SAFETY: the caller's promise.
    unsafe {
        major.write(version / 1000);
        minor.write(version % 1000 / 10);
    }
    0
}
