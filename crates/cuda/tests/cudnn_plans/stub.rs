//! A stand-in for the driver's library, which cuDNN's own libraries need to load, where there is none: what they look up
//! hands out an object, succeeds, or fails. Nothing is executed.

use std::{env, ffi::OsString, fmt::Write, fs, process::Command};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Functions that hand out an object.
const MAKERS: &str = "cuLibraryLoadData cuLibraryGetKernel cuKernelGetFunction cuModuleLoadData cuModuleGetFunction";
/// Functions that just succeed.
const SUCCEED: &str = "cuLibraryUnload cuModuleUnload cuKernelSetAttribute cuFuncSetAttribute cuCtxGetCurrent \
    cuCtxPushCurrent cuCtxPopCurrent";
/// Functions that fail when they are called.
const FAIL: &str = "cuKernelGetAttribute cuFuncGetAttribute cuCtxGetLimit cuTensorMapEncodeTiled cuTensorMapEncodeIm2col \
    cuLaunchKernel cuLaunchKernelEx cuLaunchCooperativeKernel cuGetErrorName cuStreamGetCtx cuLinkCreate cuLinkAddData \
    cuLinkComplete cuLinkDestroy cuLibraryLoadFromFile cuOccupancyMaxPotentialClusterSize \
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuDeviceGet cuDeviceGetCount cuDeviceGetAttribute cuInit";

/// Loads a driver for the whole process: the machine's, or else the stand-in.
pub fn load() {
    let open = |name: OsString| {
        // SAFETY: neither library has initializers with requirements on the caller.
        unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }
    };
    if let Ok(driver) = open("libcuda.so.1".into()) {
        std::mem::forget(driver);
        return;
    }
    let mut text = String::from("#include <stdlib.h>\n");
    for name in MAKERS.split_whitespace() {
        let _ = writeln!(text, "int {name}(void **out) {{ *out = malloc(64); return 0; }}");
    }
    for (names, status) in [(SUCCEED, 0), (FAIL, 999)] {
        for name in names.split_whitespace() {
            let _ = writeln!(text, "int {name}(void) {{ return {status}; }}");
        }
    }
    text += "int cuGetErrorString(int code, const char **text) { *text = \"a stand-in\"; return 0; }\n";
    text += "int cuDriverGetVersion(int *version) { *version = 13000; return 0; }\n";
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("driver.c"), folder.path().join("libcuda.so.1"));
    fs::write(&source, text).unwrap();
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command.args(["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&library).arg(&source);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::mem::forget(open(library.into_os_string()).unwrap());
}
