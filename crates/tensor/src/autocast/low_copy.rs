//! A parameter's copy in half precision, as the parameter holds it, and what a captured step notes about it.
//!
//! Which regions and steps of optimizers make and write it is in [`super::kept`].

use std::sync::{Arc, Weak};

use kiln_backend::DType;

use crate::{
    storage::Storage,
    tensor::{Inner, Tensor},
};

/// What a parameter knows about its copy. There is one for parameters that regions have converted.
pub(crate) struct LowCopy {
    pub(super) dtype: DType,
    /// Whether a region has used it since the latest step: a step writes no copy that nobody reads.
    pub(super) in_use: bool,
    /// `None` before the first step, and while a thread converts it.
    pub(super) kept: Option<Kept>,
}

pub(super) struct Kept {
    /// Without history.
    pub(super) copy: Tensor,
    /// The versions of the parameter's memory and of the copy's when the copy was made; any later change makes it stale.
    versions: [u32; 2],
}

impl Kept {
    pub(super) fn new(param: &Tensor, copy: Tensor) -> Kept {
        Kept { versions: [param.version(), copy.version()], copy }
    }

    pub(super) fn is_of(&self, param: &Tensor) -> bool {
        self.versions == [param.version(), self.copy.version()]
    }

    /// Whether somebody else has it, such as a tape whose backward pass is still to come.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.copy.0.storage) > 1
    }

    /// Another handle to its memory, for a history of its own.
    pub(super) fn handle(&self) -> Tensor {
        Tensor::from_storage(self.copy.0.storage.clone(), *self.copy.layout())
    }
}

/// Takes the copy out of the parameter's lock, under which no work is done.
pub(super) fn take(param: &Inner) -> Option<Kept> {
    param.meta.lock().low_copy.as_mut()?.kept.take()
}

pub(super) fn put(param: &Inner, kept: Kept) {
    let mut meta = param.meta.lock();
    let old = match &mut meta.low_copy {
        Some(low) => low.kept.replace(kept),
        None => Some(kept),
    };
    drop(meta);
    drop(old);
}

pub(super) fn is_in(kept: &Kept, memory: &Weak<Storage>) -> bool {
    std::ptr::eq(memory.as_ptr(), Arc::as_ptr(&kept.copy.0.storage))
}

/// Makes the copy one of this version of the parameter, or drops it.
pub(super) fn set_valid(param: &Inner, version: Option<u32>) {
    let mut meta = param.meta.lock();
    let Some(low) = &mut meta.low_copy else { return };
    let dropped = match version {
        Some(version) => {
            if let Some(Kept { copy, versions }) = &mut low.kept {
                *versions = [version, copy.version()];
            }
            None
        }
        None => low.kept.take(),
    };
    drop(meta);
    drop(dropped);
}

/// Whether the copy has the parameter's present values, after a capture.
pub(crate) fn is_valid(param: &Arc<Inner>) -> bool {
    let param = Tensor(param.clone());
    let meta = param.0.meta.lock();
    meta.low_copy.as_ref().and_then(|low| low.kept.as_ref()).is_some_and(|kept| kept.is_of(&param))
}

/// The address of the copy's memory.
pub(crate) fn memory_of_copy(param: &Arc<Inner>) -> Option<*const Storage> {
    param.meta.lock().low_copy.as_ref()?.kept.as_ref().map(|kept| Arc::as_ptr(&kept.copy.0.storage))
}

/// After a launch that has changed the parameter and written the copy, which has the parameter's values if it had them after the
/// capture.
pub(crate) fn after_launch(param: &Arc<Inner>, is_valid: bool) {
    let mut meta = param.meta.lock();
    let Some(Kept { copy, versions }) = meta.low_copy.as_mut().and_then(|low| low.kept.as_mut()) else { return };
    copy.0.storage.bump_version();
    if is_valid {
        *versions = [param.storage.version(), copy.version()];
    }
}

/// After a capture whose work is not done: what it noted is not so.
pub(crate) fn drop_copy(param: &Arc<Inner>) {
    set_valid(param, None);
}
