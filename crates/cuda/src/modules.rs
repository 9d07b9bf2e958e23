//! Loading of the embedded kernels: picks the newest PTX that the device can run, loads a file when it is first needed,
//! and keeps each kernel's handle.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use cudarc::driver::sys::{CUfunc_st, CUjit_option, CUmod_st};
use kiln_backend::Result;
use parking_lot::Mutex;

use crate::{
    context::{Context, OUT_OF_MEMORY},
    error::CudaError,
    launch::{ENTRIES, MODULES, Module},
    stream::Kernel,
};

/// Bytes for what the driver's compiler has to say.
const LOG: usize = 4096;

#[derive(Debug)]
pub(crate) struct Kernels {
    /// The device's compute capability, 75 for 7.5.
    capability: u32,
    /// A handle for each of [`ENTRIES`]; null until it is first used.
    handles: Box<[AtomicPtr<CUfunc_st>]>,
    /// The files that are loaded. The driver compiles one when it is, which takes a while (once: it keeps a cache).
    loaded: Mutex<HashMap<&'static str, Loaded>>,
}

/// A loaded module, which is never unloaded.
#[derive(Clone, Copy, Debug)]
struct Loaded(*mut CUmod_st);

// SAFETY: a handle that any thread may use.
unsafe impl Send for Loaded {}

/// Of the versions of a file, the newest that a device of this capability can run.
fn best<'a>(modules: &'a [Module], file: &str, capability: u32) -> Option<&'a Module> {
    modules.iter().filter(|m| m.file == file && m.capability <= capability).max_by_key(|m| m.capability)
}

/// What a device of this capability runs of what is built in, for the report; the error is the reason why there is nothing.
pub(crate) fn describe(compute_capability: (u32, u32)) -> Result<String, String> {
    let kernels = Kernels::new(compute_capability)?;
    let runs = MODULES.iter().map(|module| module.capability).filter(|&built| built <= kernels.capability).max();
    let runs = runs.unwrap_or_default();
    Ok(format!("PTX for compute_{runs}, which the driver compiles when a module is first used"))
}

/// The architectures that kernels are built in for, for the report.
pub(crate) fn built_in() -> String {
    let mut built: Vec<u32> = MODULES.iter().map(|module| module.capability).collect();
    built.sort_unstable();
    built.dedup();
    let built: Vec<String> = built.iter().map(|capability| format!("compute_{capability}")).collect();
    if built.is_empty() { "none".into() } else { format!("PTX for {}", built.join(", ")) }
}

impl Kernels {
    /// # Errors
    /// The reason why there are no kernels for this device.
    pub(crate) fn new((major, minor): (u32, u32)) -> Result<Kernels, String> {
        let capability = 10 * major + minor;
        let Some(lowest) = MODULES.iter().map(|module| module.capability).min() else {
            return Err(
                "this build of Kiln has no CUDA kernels. Build with the feature `cuda` on a machine with NVIDIA's \
                        nvcc, and without KILN_CUDA_STUB"
                    .into(),
            );
        };
        if capability < lowest {
            return Err(format!(
                "its compute capability is {major}.{minor}, and this build has kernels for {}.{} and newer \
                 (CUDA_COMPUTE_CAP at build time says for which; CUDA 13 supports 7.5 and newer)",
                lowest / 10,
                lowest % 10
            ));
        }
        let handles = ENTRIES.iter().map(|_| AtomicPtr::default()).collect();
        Ok(Kernels { capability, handles, loaded: Mutex::default() })
    }

    /// The kernel with this number in [`ENTRIES`].
    pub(crate) fn get(&self, context: &Context, number: usize) -> Result<Kernel> {
        let (handle, name) = (&self.handles[number], ENTRIES[number].name);
        let known = handle.load(Ordering::Acquire);
        if !known.is_null() {
            return Ok(Kernel { raw: known, name });
        }
        context.bind()?;
        let module = self.module(context, ENTRIES[number].file)?;
        let text = CString::new(name).unwrap_or_default();
        let mut raw = ptr::null_mut();
        // SAFETY: a loaded module and a string that ends with a zero.
        let code = unsafe { (context.driver.module_get_function)(&raw mut raw, module.0, text.as_ptr()) };
        if code != 0 {
            return Err(failed(context, format!("{} ({name})", ENTRIES[number].file), code, String::new()));
        }
        handle.store(raw, Ordering::Release);
        Ok(Kernel { raw, name })
    }

    /// How many modules are loaded, and of which architecture, for the report.
    pub(crate) fn loaded(&self) -> String {
        format!("{} loaded so far", self.loaded.lock().len())
    }

    fn module(&self, context: &Context, file: &'static str) -> Result<Loaded> {
        let mut loaded = self.loaded.lock();
        if let Some(&module) = loaded.get(file) {
            return Ok(module);
        }
        let Some(module) = best(MODULES, file, self.capability) else {
            return Err(failed(context, file.into(), 209, String::new()));
        };
        let text = CString::new(module.ptx).unwrap_or_default();
        let mut log = [0u8; LOG];
        let mut names = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        // The size goes where a pointer would.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG)];
        let mut raw = ptr::null_mut();
        // SAFETY: the text ends with a zero; the log has as many bytes as is said.
        let code = unsafe {
            (context.driver.module_load_data)(
                &raw mut raw,
                text.as_ptr().cast(),
                names.len() as u32,
                names.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        if code != 0 {
            let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().trim().to_string();
            return Err(failed(context, file.into(), code, said));
        }
        loaded.insert(file, Loaded(raw));
        Ok(Loaded(raw))
    }
}

fn failed(context: &Context, module: String, code: u32, log: String) -> kiln_backend::Error {
    if code == OUT_OF_MEMORY {
        return context.lacks_memory(&format!("the module of {module}"));
    }
    let status = context.driver.describe(code);
    CudaError::Module { device: context.index, module, status, log }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_runs_is_taken() {
        let module = |file, capability| Module { file, capability, ptx: "" };
        let modules = [module("unary", 75), module("unary", 90), module("unary", 80), module("fill", 90)];
        let found = |file, capability| best(&modules, file, capability).map(|module| module.capability);
        assert_eq!(
            [found("unary", 75), found("unary", 86), found("unary", 90), found("unary", 120)],
            [Some(75), Some(80), Some(90), Some(90)]
        );
        assert_eq!([found("fill", 89), found("unary", 70)], [None, None]);
        if MODULES.is_empty() {
            assert!(Kernels::new((9, 0)).unwrap_err().contains("nvcc"));
        } else {
            assert!(Kernels::new((9, 0)).is_ok() && Kernels::new((3, 5)).is_err());
        }
    }
}
