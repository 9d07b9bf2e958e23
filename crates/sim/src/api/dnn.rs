//! The functions of cuDNN, under their own names and with the library's own rules.
use std::ffi::{c_char, c_void};

use crate::dnn::plan_text::VERSION;
use crate::dnn::{DnnStatus, Refusal, bad};
use crate::world::{self, CURRENT, World};

use super::stream::known;

fn call(name: &'static str, body: impl FnOnce(&mut World) -> Result<(), Refusal>) -> DnnStatus {
    world::with(|world| {
        world.collect_hits();
        world.report.called(name);
        match body(world) {
            Ok(()) => DnnStatus::SUCCESS,
            Err(Refusal(status, why)) => {
                world.dnn.last_error = why.to_string();
                world.report.refusals.insert(format!("{name} returned {status:?}: {why}"));
                status
            }
        }
    })
}

/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    unsafe { super::put(out, value) }.map_err(|_| bad("a null pointer for an answer"))
}

/// Defines functions of the library: arguments, and what each does with the world.
macro_rules! library {
    ($(fn $name:ident($world:ident $(, $argument:ident: $kind:ty)*) $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of cuDNN.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> DnnStatus {
                call(stringify!($name), |$world: &mut World| {
                    #[allow(dead_code, reason = "not every function has a use for its name")]
                    const NAME: &str = stringify!($name);
                    // SAFETY: the pointers are what the library's manual requires of a caller; null is checked for.
                    #[allow(unused_unsafe, reason = "not every function has pointers")]
                    unsafe { $body }
                })
            }
        )*
    };
}

library! {
    fn cudnnCreate(world, out: *mut usize) {
        if out.is_null() {
            return Err(bad("a null pointer for an answer"));
        }
        let ready = world.initialized && CURRENT.with_borrow(|stack| stack.last().is_some_and(|context| *context != 0));
        if !ready {
            return Err(Refusal(DnnStatus::NOT_INITIALIZED, "there is no current context"));
        }
        world.asked_to_refuse("create", 0)?;
        if !world.lazy_memory(NAME) {
            return Err(Refusal(DnnStatus::DEVICE_ALLOCATION_FAILED, "there is no memory for the library"));
        }
        let handle = world.handle();
        world.dnn.handles.insert(handle, 0);
        put(out, handle)
    }

    fn cudnnDestroy(world, handle: usize) {
        if handle != 0 {
            world.dnn_stream(NAME, handle)?;
            world.dnn.handles.remove(&handle);
        }
        Ok(())
    }

    fn cudnnSetStream(world, handle: usize, stream: usize) {
        world.dnn_stream(NAME, handle)?;
        known(world, stream).map_err(|_| bad("no stream (any more)"))?;
        world.dnn.handles.insert(handle, stream);
        Ok(())
    }

    fn cudnnBackendCreateDescriptor(world, kind: u32, out: *mut usize) {
        put(out, world.create_descriptor(kind)?)
    }

    fn cudnnBackendDestroyDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, desc)
    }

    fn cudnnBackendSetAttribute(
        world, desc: usize, attribute: u32, kind: u32, count: i64, values: *const c_void
    ) {
        world.set_attribute(NAME, desc, (attribute, kind), count, values)
    }

    fn cudnnBackendGetAttribute(
        world, desc: usize, attribute: u32, kind: u32, room: i64, count: *mut i64, values: *mut c_void
    ) {
        world.get_attribute(NAME, desc, (attribute, kind), room, count, values)
    }

    fn cudnnBackendFinalize(world, desc: usize) {
        world.finalize(NAME, desc)
    }

    fn cudnnBackendExecute(world, handle: usize, plan: usize, pack: usize) {
        world.execute_plan(NAME, handle, plan, pack)
    }
}

/// `cudnnGetVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetVersion() -> usize {
    VERSION
}

/// `cudnnGetCudartVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetCudartVersion() -> usize {
    world::with(|world| world.profile.libraries().unsigned_abs() as usize)
}

/// `cudnnGetLastErrorString` of cuDNN.
///
/// # Safety
/// There is room for as many bytes as `room` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetLastErrorString(message: *mut c_char, room: usize) {
    let text = world::with(|world| std::mem::take(&mut world.dnn.last_error));
    if message.is_null() || room == 0 {
        return;
    }
    let count = text.len().min(room - 1);
    // SAFETY: the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, count);
        message.add(count).write(0);
    }
}

/// `cudnnGetErrorString` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetErrorString(status: u32) -> *const c_char {
    let text = match status {
        0 => c"CUDNN_STATUS_SUCCESS",
        1001 => c"CUDNN_STATUS_NOT_INITIALIZED",
        2000 => c"CUDNN_STATUS_BAD_PARAM",
        3000 => c"CUDNN_STATUS_NOT_SUPPORTED",
        4004 => c"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        4003 => c"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        5000 => c"CUDNN_STATUS_EXECUTION_FAILED",
        _ => c"CUDNN_UNKNOWN_STATUS",
    };
    text.as_ptr()
}
