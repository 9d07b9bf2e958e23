//! The driver's names and texts for its error codes.
use std::ffi::{CStr, c_char};

use super::put;
use crate::status::Status;
use crate::world;

/// # Safety
/// `out` is null or may be written.
unsafe fn tell(out: *mut *const c_char, text: Option<&'static CStr>) -> Status {
    let pointer = text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the caller's promise.
    let written = unsafe { put(out, pointer) };
    if written.is_err() || text.is_none() { Status::INVALID_VALUE } else { Status::SUCCESS }
}

/// `cuGetErrorName` of the driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: i32, out: *mut *const c_char) -> Status {
    world::with(|world| world.report.called("cuGetErrorName"));
    // SAFETY: the driver asks the same of its caller.
    unsafe { tell(out, Status(error).texts().map(|(name, _)| name)) }
}

/// `cuGetErrorString` of the driver API.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: i32, out: *mut *const c_char) -> Status {
    world::with(|world| world.report.called("cuGetErrorString"));
    // SAFETY: the driver asks the same of its caller.
    unsafe { tell(out, Status(error).texts().map(|(_, text)| text)) }
}
