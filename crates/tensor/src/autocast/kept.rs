//! Copies of parameters in half precision that outlive regions of autocast, because the optimizer's step writes them along with
//! the parameters. A region then has nothing to convert.

use std::sync::Arc;

use kiln_backend::{DType, Result};

use super::{
    cache,
    low_copy::{Kept, LowCopy, is_in, put, set_valid, take},
};
use crate::{
    autograd::no_grad,
    captured::{before_launch, is_capturing, note_low_copy, valid_while},
    ops::image_layout,
    storage::Storage,
    tensor::Tensor,
};

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
    cache::forget(param);
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
