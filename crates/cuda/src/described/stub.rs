//! A stub of the driver's library for machines without one, which cuDNN's own libraries need in order to load: each
//! function returns an object, success, or failure. Nothing is executed.

use std::{
    env,
    ffi::OsString,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Functions that return an object.
const MAKERS: &str = "cuLibraryLoadData cuLibraryGetKernel cuKernelGetFunction cuModuleLoadData cuModuleGetFunction";
/// Functions that return success.
const SUCCEED: &str = "cuLibraryUnload cuModuleUnload cuKernelSetAttribute cuFuncSetAttribute cuCtxGetCurrent \
    cuCtxPushCurrent cuCtxPopCurrent";
/// Functions that return an error.
const FAIL: &str = "cuKernelGetAttribute cuFuncGetAttribute cuCtxGetLimit cuTensorMapEncodeTiled cuTensorMapEncodeIm2col \
    cuLaunchKernel cuLaunchKernelEx cuLaunchCooperativeKernel cuGetErrorName cuStreamGetCtx cuLinkCreate cuLinkAddData \
    cuLinkComplete cuLinkDestroy cuLibraryLoadFromFile cuOccupancyMaxPotentialClusterSize \
    cuOccupancyMaxActiveBlocksPerMultiprocessor cuDeviceGet cuDeviceGetCount cuDeviceGetAttribute cuInit";

/// Loads a driver library for the whole process: the machine's, or else a stub, which is compiled with a C compiler.
///
/// # Errors
/// If there is neither a driver nor a C compiler.
pub fn load() -> Result<(), String> {
    /// The stub's folder is named after the process. Whoever comes second finds the stub loaded, by its name.
    static LOADING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let open = |name: OsString| {
        // SAFETY: neither library has initializers with requirements on the caller.
        unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }
    };
    if let Ok(driver) = open("libcuda.so.1".into()) {
        // It stays loaded: cuDNN's libraries refer to it.
        std::mem::forget(driver);
        return Ok(());
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
    text += "int cuGetErrorString(int code, const char **text) { *text = \"a stub\"; return 0; }\n";
    text += "int cuDriverGetVersion(int *version) { *version = 13000; return 0; }\n";
    let folder = env::temp_dir().join(format!("kiln-driver-{}", std::process::id()));
    let made = fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display())).and_then(|()| {
        let library = compile(&folder, &text)?;
        open(library.into_os_string()).map_err(|error| format!("the stub of the driver does not load: {error}"))
    });
    // The file is mapped by now, or useless.
    let _ = fs::remove_dir_all(&folder);
    made.map(std::mem::forget)
}

/// Compiles a shared library from this source.
fn compile(folder: &Path, text: &str) -> Result<PathBuf, String> {
    let (source, library) = (folder.join("driver.c"), folder.join("libcuda.so.1"));
    fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command.args(["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o"]).arg(&library).arg(&source);
    let without = "without a GPU's driver (libcuda.so.1), a C compiler is needed to build a stub of it";
    match command.output() {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => Err(format!("{without}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{without}: {}: {error}", compiler.display())),
    }
}
