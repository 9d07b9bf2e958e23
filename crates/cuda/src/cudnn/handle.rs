//! A handle of cuDNN for the work of one device, with the plans that are on disk.

use std::{
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

use cudarc::cudnn::sys::cudnnHandle_t;
use kiln_backend::{Error, Result};

use super::plan::{Computation, Plan, Target};
use crate::{
    context::DeviceInfo,
    libs::{Cudnn, Failed, Failure},
    memory::DeviceMemory,
    plan_cache::PlanCache,
    stream::Stream,
};

/// The limit on a plan's workspace, as a fraction of the device's memory, unless no plan takes less.
const WORKSPACE_SHARE: usize = 4;

/// A handle. It serves one thread at a time, which is up to its owner.
pub(crate) struct Handle {
    pub(crate) library: &'static Cudnn,
    pub(crate) stream: &'static Stream,
    pub(crate) memory: &'static DeviceMemory,
    raw: cudnnHandle_t,
    /// The limit on a plan's workspace in bytes, unless no plan takes less.
    pub(crate) workspace_limit: usize,
    /// Plans of earlier processes, unless the cache is off.
    cache: Option<PlanCache>,
    /// Where the handle's work goes, as a number.
    destination: AtomicUsize,
}

// SAFETY: a handle may be used from any thread, one at a time, which its owner ensures.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// Whether a call failed, or may have failed, because the library had no memory.
fn lacks_memory<T>(memory: &DeviceMemory, result: &Result<T, Failed>) -> bool {
    result.as_ref().is_err_and(|failed| match failed.class() {
        Failure::OutOfMemory => true,
        Failure::Other => memory.may_lack_memory(),
        Failure::Unsupported | Failure::Environment => false,
    })
}

impl Handle {
    /// A handle for the work of `stream`, whose context must be current.
    pub(crate) fn new(
        library: &'static Cudnn,
        stream: &'static Stream,
        memory: &'static DeviceMemory,
        info: &DeviceInfo,
    ) -> Result<Handle> {
        let mut raw = ptr::null_mut();
        // SAFETY: writes the handle.
        let create = || library.check("cudnnCreate", unsafe { (library.create)(&raw mut raw) });
        let created = memory.with_room(create, |made| lacks_memory(memory, made));
        let workspace_limit = info.total_memory / WORKSPACE_SHARE;
        let cache = library.version().and_then(|version| PlanCache::open(version, &info.kind()));
        let handle = Handle { library, stream, memory, raw, workspace_limit, cache, destination: AtomicUsize::new(0) };
        created.map_err(|failed| handle.error("this device", failed))?;
        handle.prepare()?;
        Ok(handle)
    }

    /// Lets what is queued next go to the device's stream, or to that which captures it.
    pub(crate) fn prepare(&self) -> Result<()> {
        self.stream.context.bind()?;
        let stream = self.stream.raw();
        if self.destination.load(Ordering::Relaxed) == stream as usize {
            return Ok(());
        }
        // SAFETY: a stream of the current context, which lives as long as the process.
        let code = unsafe { (self.library.set_stream)(self.raw, stream.cast()) };
        self.library.check("cudnnSetStream", code).map_err(|failed| self.error("this device", failed))?;
        self.destination.store(stream as usize, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn raw(&self) -> cudnnHandle_t {
        self.raw
    }

    /// The device of the handle, to make plans for.
    pub(crate) fn target(&self) -> Target<'static> {
        Target::Handle(self.raw)
    }

    /// Calls the library again, with more memory, if it lacked some.
    pub(crate) fn with_room<T>(&self, call: impl FnMut() -> Result<T, Failed>) -> Result<T, Failed> {
        self.memory.with_room(call, |result| lacks_memory(self.memory, result))
    }

    pub(crate) fn error(&self, problem: &str, failed: Failed) -> Error {
        let (class, call) = (failed.class(), failed.call);
        let error = self.library.error(self.memory.device_index(), problem, failed);
        match class {
            Failure::OutOfMemory => self.memory.out_of_memory(call, &error.to_string()),
            _ => error.into(),
        }
    }

    /// A plan of an earlier process, or one that was built ahead of time.
    pub(crate) fn kept(&self, problem: &dyn Computation) -> Option<Plan> {
        let cache = self.cache.as_ref()?;
        let text = cache.read(problem)?;
        let plan = Plan::from_text(self.library, self.target(), problem, &text);
        plan.map_err(|reason| cache.refuse(problem, reason)).ok()
    }

    /// Keeps a plan for later processes.
    pub(crate) fn keep(&self, problem: &dyn Computation, plan: &Plan) {
        if let Some(cache) = &self.cache
            && let Ok(text) = plan.text()
        {
            cache.write(problem, &text);
        }
    }

    /// The state of the cache on disk, unless it is off.
    pub(crate) fn kept_plans(&self) -> Option<String> {
        self.cache.as_ref().map(PlanCache::describe)
    }
}
