//! Loaded PTX modules, whose functions are found among the kernels that were compiled for the host.
use std::collections::HashMap;

use crate::engine::Kernel;
use crate::profile::{Profile, SHARED_PER_BLOCK};
use crate::ptx::{self, Entry, Ptx};
use crate::report::{Kind, Report};
use crate::status::Status;

/// A loaded module; its functions are known by handle.
pub struct Module {
    pub device: usize,
    ptx: Ptx,
    functions: HashMap<String, usize>,
}

/// A kernel of a loaded module.
pub struct Function {
    pub name: String,
    pub entry: Entry,
    pub kernel: &'static Kernel,
    /// Dynamic shared memory that a launch may ask for.
    pub dynamic_limit: u32,
    pub module: usize,
    /// PTX version and target, as the attributes tell them.
    pub ptx_version: u32,
    pub target: u32,
}

/// Reads a module's text for a device as the driver of `profile` would.
pub fn load(text: &str, profile: &Profile, device: usize) -> Result<Module, Status> {
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
    Ok(Module { device, ptx, functions: HashMap::new() })
}

impl Module {
    /// The handle of the function of this name, if it was asked for before.
    pub fn known(&self, name: &str) -> Option<usize> {
        self.functions.get(name).copied()
    }

    /// Looks a function up: in the text, and in what was compiled for this machine.
    pub fn find(&mut self, name: &str, module: usize, handle: usize, report: &mut Report) -> Result<Function, Status> {
        let entry = self.ptx.entries.get(name).ok_or(Status::NOT_FOUND)?;
        let Some(kernel) = Kernel::find(name) else {
            report.find(Kind::Signature, format!("kernel `{name}` of the PTX was not built for the simulator"));
            return Err(Status::NOT_FOUND);
        };
        if kernel.sizes() != entry.parameters {
            let text = format!(
                "kernel `{name}` has parameters of {:?} bytes in the PTX, of {:?} in the simulator's build",
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
            ptx_version: self.ptx.version,
            target: self.ptx.target,
        })
    }
}
