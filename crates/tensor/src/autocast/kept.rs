//! Copies of parameters in half precision that outlive regions of autocast, because the optimizer's step writes them along with
//! the parameters. A region then has nothing to convert.

use std::sync::{Arc, Weak};

use kiln_backend::{DType, Result};

use crate::{
    autograd::no_grad,
    captured::{before_launch, is_capturing, note_low_copy, valid_while},
    ops::image_layout,
    storage::Storage,
    tensor::{Inner, Tensor},
};

/// What a parameter knows about its copy. There is one for parameters that regions have converted.
pub(crate) struct LowCopy {
    dtype: DType,
    /// Whether a region has used it since the latest step: a step writes no copy that nobody reads.
    in_use: bool,
    /// `None` before the first step, and while a thread converts it.
    kept: Option<Kept>,
}

struct Kept {
    /// Without history.
    copy: Tensor,
    /// The versions of the parameter's memory and of the copy's when the copy was made; any later change makes it stale.
    versions: [u32; 2],
}

impl Kept {
    fn new(param: &Tensor, copy: Tensor) -> Kept {
        Kept { versions: [param.version(), copy.version()], copy }
    }

    fn is_of(&self, param: &Tensor) -> bool {
        self.versions == [param.version(), self.copy.version()]
    }

    /// Whether somebody else has it, such as a tape whose backward pass is still to come.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.copy.0.storage) > 1
    }

    /// Another handle to its memory, for a history of its own.
    fn handle(&self) -> Tensor {
        Tensor::from_storage(self.copy.0.storage.clone(), *self.copy.layout())
    }
}

/// Takes the copy out of the parameter's lock, under which no work is done.
fn take(param: &Inner) -> Option<Kept> {
    param.meta.lock().low_copy.as_mut()?.kept.take()
}

fn put(param: &Inner, kept: Kept) {
    let mut meta = param.meta.lock();
    let old = match &mut meta.low_copy {
        Some(low) => low.kept.replace(kept),
        None => Some(kept),
    };
    drop(meta);
    drop(old);
}

/// The parameter's copy, converted again if it is stale; `None` if no step has kept one in this dtype.
pub(super) fn kept(param: &Tensor, dtype: DType) -> Result<Option<Tensor>> {
    let (kept, of_another) = {
        let mut meta = param.0.meta.lock();
        let new = || Box::new(LowCopy { dtype, in_use: true, kept: None });
        let low = meta.low_copy.get_or_insert_with(new);
        if low.dtype == dtype {
            low.in_use = true;
            (low.kept.take(), None)
        } else if low.in_use {
            return Ok(None);
        } else {
            (None, Some(std::mem::replace(low, new())))
        }
    };
    drop(of_another);
    let Some(mut kept) = kept else { return Ok(None) };
    if !kept.is_of(param) {
        if is_capturing() {
            // The conversion is part of the work, and its result a part of the graph.
            put(&param.0, kept);
            return Ok(None);
        }
        kept = refreshed(param, kept)?;
    }
    let handle = kept.handle();
    if is_capturing() {
        keep_for_launches(param, &kept.copy);
    }
    put(&param.0, kept);
    Ok(Some(handle))
}

/// The copy with the parameter's present values: in its own memory, unless others still read the old values there.
fn refreshed(param: &Tensor, kept: Kept) -> Result<Kept> {
    no_grad(|| {
        if kept.is_shared() {
            return Ok(Kept::new(param, param.converted_in_order(kept.copy.dtype())?));
        }
        kept.copy.copy_(param)?;
        Ok(Kept::new(param, kept.copy))
    })
}

/// Makes launches of the step that this thread captures find the copy as the capture has found it.
fn keep_for_launches(param: &Tensor, copy: &Tensor) {
    let (leaf, memory) = (Arc::downgrade(&param.0), Arc::downgrade(&copy.0.storage));
    valid_while(move || {
        leaf.upgrade().is_some_and(|leaf| {
            leaf.meta
                .lock()
                .low_copy
                .as_ref()
                .and_then(|low| low.kept.as_ref())
                .is_some_and(|kept| is_in(kept, &memory))
        })
    });
    let leaf = Arc::downgrade(&param.0);
    before_launch(move || leaf.upgrade().map_or(Ok(()), |leaf| ready_for_launch(&Tensor(leaf))));
}

fn is_in(kept: &Kept, memory: &Weak<Storage>) -> bool {
    std::ptr::eq(memory.as_ptr(), Arc::as_ptr(&kept.copy.0.storage))
}

/// What the parameter's change since the last launch makes necessary.
fn ready_for_launch(param: &Tensor) -> Result<()> {
    {
        let mut meta = param.0.meta.lock();
        let Some(low) = &mut meta.low_copy else { return Ok(()) };
        low.in_use = true;
        if low.kept.as_ref().is_none_or(|kept| kept.is_of(param)) {
            return Ok(());
        }
    }
    let Some(mut kept) = take(&param.0) else { return Ok(()) };
    no_grad(|| kept.copy.copy_(param))?;
    kept = Kept::new(param, kept.copy);
    put(&param.0, kept);
    Ok(())
}

/// The copy that a step is to write, if regions use one. With `may_skip` the step may leave everything as it is, so the copy
/// holds the parameter's values already.
pub(crate) fn for_step(param: &Tensor, may_skip: bool) -> Result<Option<Tensor>> {
    let (dtype, kept) = {
        let mut meta = param.0.meta.lock();
        let Some(low) = &mut meta.low_copy else { return Ok(None) };
        if !std::mem::replace(&mut low.in_use, false) {
            let unused = meta.low_copy.take();
            drop(meta);
            drop(unused);
            return Ok(None);
        }
        (low.dtype, low.kept.take())
    };
    // The values of this region's copies are those of before the step.
    super::cache::forget(param);
    let kept = match kept {
        Some(kept) if kept.is_shared() || (is_capturing() && !kept.is_of(param)) => {
            put(&param.0, kept);
            return Ok(None);
        }
        Some(kept) if may_skip && !kept.is_of(param) => refreshed(param, kept)?,
        Some(kept) => kept,
        // What a capture makes belongs to its graph.
        None if is_capturing() => return Ok(None),
        None if may_skip => Kept::new(param, no_grad(|| param.converted_in_order(dtype))?),
        None => {
            let backend = param.0.storage.backend;
            let buffer = backend.alloc(dtype, param.numel())?;
            let storage = Storage::new(param.device(), backend, buffer);
            Kept::new(param, Tensor::from_storage(storage, image_layout(param, *param.shape())))
        }
    };
    let copy = kept.copy.clone();
    put(&param.0, kept);
    Ok(Some(copy))
}

/// A step has ended that was to write the copy.
pub(crate) fn after_step(param: &Tensor, has_written: bool) {
    set_valid(&param.0, has_written.then(|| param.version()));
    if has_written {
        note_low_copy(param);
    }
}

/// Makes the copy one of this version of the parameter, or drops it.
fn set_valid(param: &Inner, version: Option<u32>) {
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
