//! The functions of the CUDA driver that Kiln calls.

use std::{
    ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void},
    path::PathBuf,
};

use cudarc::driver::sys::{
    self, CUDA_MEMCPY3D, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUgraph,
    CUgraphExec, CUgraphNode, CUjit_option, CUmodule, CUresult, CUstream, CUstreamCaptureMode,
};

use kiln_dylib::Open;

use super::{functions, search};

include!("driver_functions.rs");

impl Driver {
    /// Finds, opens and initializes the driver.
    ///
    /// # Errors
    /// The reason, if there is none, or none that works.
    pub(crate) fn open() -> Result<Driver, String> {
        let driver = Driver::resolve(Open::new(&search::driver(), |_| Ok(()))?)?;
        // SAFETY: has no requirements; it must precede every other call.
        match unsafe { (driver.init)(0) } {
            0 => Ok(driver),
            code => Err(format!(
                "the NVIDIA driver {} did not start: cuInit: {}. To fix it, {}",
                driver.file().display(),
                driver.describe(code),
                advice(code)
            )),
        }
    }

    /// The CUDA version that the driver supports, e.g. 12080.
    pub(crate) fn version(&self) -> i32 {
        let mut version = 0;
        // SAFETY: writes one integer. It cannot fail with a valid pointer; 0 would count as old.
        unsafe { (self.driver_get_version)(&raw mut version) };
        version
    }

    /// The file that it was loaded from.
    pub(crate) fn file(&self) -> PathBuf {
        self.open.file("cuInit")
    }

    /// Name and text of a status code, e.g. `CUDA_ERROR_OUT_OF_MEMORY (2): out of memory`.
    pub(crate) fn describe(&self, code: u32) -> String {
        let text = |get: unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint| {
            let mut text = std::ptr::null();
            // SAFETY: any number is allowed; on success the pointer is a string that is never freed.
            unsafe {
                (get(code, &raw mut text) == 0 && !text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy())
            }
        };
        match (text(self.get_error_name), text(self.get_error_string)) {
            (Some(name), Some(text)) => format!("{name} ({code}): {text}"),
            _ => format!("an error that the driver has no name for ({code})"),
        }
    }
}

/// How to fix a driver that does not start.
fn advice(code: u32) -> &'static str {
    match code {
        34 => "take the toolkit's `stubs` off LD_LIBRARY_PATH: they are for linking, and no driver",
        100 => {
            "check that `nvidia-smi` lists a GPU, that CUDA_VISIBLE_DEVICES does not hide it, and, in a container, that it \
             was started with GPU access (e.g. `docker run --gpus all`)"
        }
        802 => {
            "start NVIDIA's fabric manager (`systemctl start nvidia-fabricmanager`), which GPUs behind NVSwitch need"
        }
        803 => {
            "bring the driver's library and its kernel module to one version: reboot after an update; in a container, use \
             the host's library"
        }
        804 => {
            "take the folder of `cuda-compat` off LD_LIBRARY_PATH: this GPU only works with its driver's own library"
        }
        _ => "check `nvidia-smi`, and that the kernel module for compute is loaded (`modprobe nvidia_uvm`)",
    }
}
