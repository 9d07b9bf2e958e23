//! Loads the embedded kernels: a file's image when one of its kernels is first needed, several files in parallel if
//! need be, and the handle of each kernel.

use std::{
    ffi::{CStr, CString, c_void},
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cudarc::driver::sys::{CUfunc_st, CUjit_option, CUmod_st};
use kiln_backend::{Error, Result};
use parking_lot::Mutex;

use crate::{
    capture::relaxed::Relaxed,
    context::{Context, OUT_OF_MEMORY},
    error::CudaError,
    images::{self, Choice},
    launch::{Code, ENTRIES, IMAGES, Image, TOOLKIT},
    libs::release,
    stream::Kernel,
};

/// Bytes for messages of the driver's compiler.
const LOG: usize = 4096;
/// After waiting this long for the driver's compiler, the user is told why.
const PATIENCE: Duration = Duration::from_secs(2);
/// The driver's codes for SASS that it does not run: INVALID_IMAGE, NO_BINARY_FOR_GPU, INVALID_PTX,
/// UNSUPPORTED_PTX_VERSION.
const REFUSED: [u32; 4] = [200, 209, 218, 222];

#[derive(Debug)]
pub(crate) struct Kernels {
    choice: Choice,
    /// A handle for each of [`ENTRIES`]; null until it is first used.
    handles: Box<[AtomicPtr<CUfunc_st>]>,
    /// The files, sorted by name.
    files: Box<[(&'static str, File)]>,
    /// The driver's message about SASS that it should have run.
    refused: OnceLock<String>,
    /// Nanoseconds that threads have waited for the driver's compiler.
    compiling: AtomicU64,
    told: AtomicBool,
}

/// A file of kernels. The lock is held while the file is loaded, which takes long if the driver has to compile it;
/// other files can be loaded meanwhile.
type File = Mutex<Option<Loaded>>;

/// A loaded module, which is never unloaded.
#[derive(Clone, Copy, Debug)]
struct Loaded(*mut CUmod_st);

// SAFETY: a handle that any thread may use.
unsafe impl Send for Loaded {}

/// An image that the driver refuses.
struct Refusal {
    code: u32,
    /// The output of the driver's compiler.
    log: String,
}

/// What a device of this capability loads under this driver, for the report; the error is the reason if there is
/// nothing.
pub(crate) fn describe(compute_capability: (u32, u32), driver: i32) -> Result<String, String> {
    Ok(Kernels::new(compute_capability, driver)?.describe())
}

/// The embedded images, for the report.
pub(crate) fn built_in() -> String {
    let of = |code| {
        let mut built: Vec<u32> = IMAGES.iter().filter(|image| image.code == code).map(|i| i.capability).collect();
        built.sort_unstable();
        built.dedup();
        built.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
    };
    if IMAGES.is_empty() {
        return "none".into();
    }
    let toolkit = release(TOOLKIT, 1000);
    format!("SASS of CUDA {toolkit} for {}, and PTX for {}", of(Code::Sass), of(Code::Ptx))
}

impl Kernels {
    /// # Errors
    /// The reason, if there are no kernels for this device.
    pub(crate) fn new((major, minor): (u32, u32), driver: i32) -> Result<Kernels, String> {
        let choice = images::choose(IMAGES, TOOLKIT, 10 * major + minor, driver)?;
        let handles = ENTRIES.iter().map(|_| AtomicPtr::default()).collect();
        let mut files: Vec<&str> = IMAGES.iter().map(|image| image.file).collect();
        files.sort_unstable();
        files.dedup();
        Ok(Kernels {
            choice,
            handles,
            files: files.into_iter().map(|file| (file, File::default())).collect(),
            refused: OnceLock::new(),
            compiling: AtomicU64::new(0),
            told: AtomicBool::new(false),
        })
    }

    /// What is loaded on this device, why it is not SASS, and how to change that.
    pub(crate) fn describe(&self) -> String {
        match (self.refused.get(), self.choice.sass) {
            (Some(status), _) => {
                let note = images::jit_note(&self.choice);
                format!("PTX: the driver refuses the {} ({status}), and so {note}", self.choice)
            }
            (None, Ok(_)) => self.choice.to_string(),
            (None, Err(_)) => {
                format!("PTX for compute_{}: {}", self.choice.ptx.unwrap_or(0), images::jit_note(&self.choice))
            }
        }
    }

    /// The kernel with this index in [`ENTRIES`].
    pub(crate) fn get(&self, context: &Context, number: usize) -> Result<Kernel> {
        let (handle, name) = (&self.handles[number], ENTRIES[number].name);
        let known = handle.load(Ordering::Acquire);
        if !known.is_null() {
            return Ok(Kernel { raw: known, name });
        }
        context.bind()?;
        let file = ENTRIES[number].file;
        let module = self.module(context, file)?;
        let text = CString::new(name).unwrap_or_default();
        let mut raw = ptr::null_mut();
        // SAFETY: a loaded module and a string that ends with a zero.
        let code = unsafe { (context.driver.module_get_function)(&raw mut raw, module.0, text.as_ptr()) };
        if code != 0 {
            return Err(self.failed(context, format!("{file} ({name})"), Refusal { code, log: String::new() }));
        }
        handle.store(raw, Ordering::Release);
        Ok(Kernel { raw, name })
    }

    /// How many files are loaded, for the report.
    pub(crate) fn loaded(&self) -> String {
        // A file that is just being loaded is not counted.
        let loaded = self.files.iter().filter(|(_, file)| file.try_lock().is_some_and(|file| file.is_some()));
        format!("{} loaded so far", loaded.count())
    }

    fn module(&self, context: &Context, file: &'static str) -> Result<Loaded> {
        let slot = self.files.binary_search_by_key(&file, |(name, _)| name).ok().map(|at| &self.files[at].1);
        let Some(slot) = slot else {
            return Err(self.failed(context, file.into(), Refusal { code: 209, log: String::new() }));
        };
        let mut loaded = slot.lock();
        if let Some(module) = *loaded {
            return Ok(module);
        }
        let _relaxed = Relaxed::new(context);
        let module = self.load(context, file).map_err(|refusal| self.failed(context, file.into(), refusal))?;
        *loaded = Some(module);
        Ok(module)
    }

    /// Loads the SASS of a file, or its PTX if there is no SASS that the driver accepts.
    fn load(&self, context: &Context, file: &str) -> Result<Loaded, Refusal> {
        let of = |code, capability| {
            IMAGES.iter().find(|image| (image.file, image.code, image.capability) == (file, code, capability))
        };
        let sass = self.choice.sass.ok().filter(|_| self.refused.get().is_none());
        let sass = sass.and_then(|capability| of(Code::Sass, capability));
        let ptx = self.choice.ptx.and_then(|capability| of(Code::Ptx, capability));
        if let Some(image) = sass {
            match load(context, image) {
                Err(refusal) if REFUSED.contains(&refusal.code) && ptx.is_some() => {
                    // After the first refusal, the other files are loaded as PTX at once.
                    self.refused.get_or_init(|| context.driver.describe(refusal.code));
                }
                result => return result,
            }
        }
        let image = ptx.ok_or(Refusal { code: 209, log: String::new() })?;
        let start = Instant::now();
        let module = load(context, image)?;
        self.waited(context, start.elapsed());
        Ok(module)
    }

    /// Prints once, to standard error, why the program starts slowly.
    fn waited(&self, context: &Context, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let all = self.compiling.fetch_add(time, Ordering::Relaxed).saturating_add(time);
        if u128::from(all) > PATIENCE.as_nanos() && !self.told.swap(true, Ordering::Relaxed) {
            eprintln!("kiln: cuda:{}: {}", context.index, self.describe());
        }
    }

    fn failed(&self, context: &Context, module: String, Refusal { code, log }: Refusal) -> Error {
        let device = context.index;
        if code == OUT_OF_MEMORY {
            return context.lacks_memory(&format!("the module of {module}"));
        }
        let (status, advice) = (context.driver.describe(code), self.choice.advice(code));
        CudaError::Module { device, module, status, advice, log }.into()
    }
}

fn load(context: &Context, image: &Image) -> Result<Loaded, Refusal> {
    let bytes = image.bytes().map_err(|error| Refusal { code: 200, log: error.to_string() })?;
    let mut log = [0u8; LOG];
    let mut names = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes the size in place of a pointer.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG)];
    let mut raw = ptr::null_mut();
    // SAFETY: an ELF file, which contains its length, or text that ends with a zero; the log has the given number of
    // bytes.
    let code = unsafe {
        (context.driver.module_load_data)(
            &raw mut raw,
            bytes.as_ptr().cast(),
            names.len() as u32,
            names.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    if code == 0 {
        return Ok(Loaded(raw));
    }
    let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy().trim().to_string();
    Err(Refusal { code, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_need_images_that_the_device_runs() {
        if IMAGES.is_empty() {
            assert!(Kernels::new((9, 0), 13000).unwrap_err().contains("nvcc"));
        } else {
            assert!(Kernels::new((99, 0), 99000).is_ok() && Kernels::new((3, 5), 13000).is_err());
        }
    }

    #[test]
    fn images_are_whole() {
        for image in IMAGES {
            let bytes = image.bytes().unwrap();
            match image.code {
                Code::Sass => assert!(bytes.starts_with(b"\x7fELF"), "{image:?}"),
                Code::Ptx => assert!(bytes.starts_with(b".version ") && bytes.ends_with(b"\n\0"), "{image:?}"),
            }
        }
    }
}
