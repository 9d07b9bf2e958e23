//! Loaded modules, SASS or PTX, whose functions are looked up among the kernels that were compiled for the host.
use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::cubin;
use crate::engine::Kernel;
use crate::kind::Kind;
use crate::profile::{Jit, Profile, SHARED_PER_BLOCK};
use crate::ptx::{self, Entry};
use crate::report::Report;
use crate::status::Status;

/// A loaded module; its functions are identified by handle.
pub struct Module {
    pub device: usize,
    /// `SASS for sm_90`
    pub image: String,
    entries: HashMap<String, Entry>,
    /// As attributes of functions report them: the version of the PTX that the module was made of, and the architecture
    /// of the machine code.
    ptx_version: u32,
    binary_version: u32,
    functions: HashMap<String, usize>,
}

/// A kernel of a loaded module.
pub struct Function {
    pub name: String,
    pub entry: Entry,
    pub kernel: &'static Kernel,
    /// Dynamic shared memory that a launch may request.
    pub dynamic_limit: u32,
    pub module: usize,
    pub ptx_version: u32,
    pub binary_version: u32,
}

/// Reads machine code for a device as the driver of `profile` would: code for the same major architecture and no later
/// minor one, assembled by a CUDA release whose major version is no later than the driver's.
pub fn load_cubin(file: &[u8], profile: &Profile, device: usize) -> Result<Module, Status> {
    let cubin = cubin::parse(file).map_err(|cubin::Invalid| Status::INVALID_IMAGE)?;
    if profile.no_sass || cubin.toolkit / 10 > profile.driver.unsigned_abs() / 1000 {
        return Err(Status::INVALID_IMAGE);
    }
    if cubin.arch / 10 != profile.arch / 10 || cubin.arch > profile.arch {
        return Err(Status::NO_BINARY_FOR_GPU);
    }
    let (image, version) = (format!("SASS for sm_{}", cubin.arch), cubin.arch);
    let (entries, functions) = (cubin.entries, HashMap::new());
    Ok(Module { device, image, entries, ptx_version: version, binary_version: version, functions })
}

/// Reads PTX for a device as the driver of `profile` would, whose compiler caches its results in a folder.
pub fn load_ptx(text: &str, profile: &Profile, device: usize, report: &mut Report) -> Result<Module, Status> {
    match profile.jit {
        Jit::Works => {}
        Jit::Missing => return Err(Status::JIT_COMPILER_NOT_FOUND),
        Jit::Disabled => return Err(Status::JIT_COMPILATION_DISABLED),
    }
    let ptx = ptx::parse(text).map_err(|error| match error {
        ptx::Error::NotPtx => Status::INVALID_IMAGE,
        ptx::Error::Invalid => Status::INVALID_PTX,
    })?;
    if ptx.version > profile.ptx() {
        return Err(Status::UNSUPPORTED_PTX_VERSION);
    }
    // The driver's compiler refuses a target above its device.
    if ptx.target > profile.arch {
        return Err(Status::INVALID_PTX);
    }
    let mut hasher = DefaultHasher::new();
    (text, profile.arch, profile.driver).hash(&mut hasher);
    let kept = profile.jit_cache.as_ref().map(|folder| folder.join(format!("{:x}", hasher.finish())));
    if kept.as_ref().is_some_and(|kept| kept.exists()) {
        report.counts.cached += 1;
    } else {
        report.counts.compiled += 1;
        if let (Some(folder), Some(kept)) = (&profile.jit_cache, &kept) {
            // If the folder cannot be written, the driver reports nothing, and compiles again the next time.
            let _ = fs::create_dir_all(folder).and_then(|()| fs::write(kept, []));
        }
    }
    Ok(Module {
        device,
        image: format!("PTX for compute_{}", ptx.target),
        entries: ptx.entries,
        ptx_version: ptx.version,
        binary_version: profile.arch,
        functions: HashMap::new(),
    })
}

impl Module {
    /// The handle of the function with this name, if it was requested before.
    pub fn known(&self, name: &str) -> Option<usize> {
        self.functions.get(name).copied()
    }

    /// Looks a function up in the image, and among the kernels compiled for the host.
    pub fn find(&mut self, name: &str, module: usize, handle: usize, report: &mut Report) -> Result<Function, Status> {
        let entry = self.entries.get(name).ok_or(Status::NOT_FOUND)?;
        let Some(kernel) = Kernel::find(name) else {
            report.find(Kind::Signature, format!("kernel `{name}` of the module was not built for the simulator"));
            return Err(Status::NOT_FOUND);
        };
        if kernel.sizes() != entry.parameters {
            let text = format!(
                "kernel `{name}` has parameters of {:?} bytes in the module, of {:?} in the simulator's build",
                entry.parameters,
                kernel.sizes()
            );
            report.find(Kind::Signature, text);
            return Err(Status::INVALID_IMAGE);
        }
        self.functions.insert(name.to_string(), handle);
        Ok(Function {
            name: name.to_string(),
            entry: entry.clone(),
            kernel,
            dynamic_limit: (SHARED_PER_BLOCK as u32).saturating_sub(entry.shared),
            module,
            ptx_version: self.ptx_version,
            binary_version: self.binary_version,
        })
    }
}
