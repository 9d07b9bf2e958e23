//! Records the effects of a captured step on the host, which each launch repeats: versions of memory, gradients, and actions that
//! layers and optimizers have registered.

use std::{
    cell::RefCell,
    sync::{Arc, Weak},
};

use kiln_backend::{Result, is_capturing};

use super::refuse::set_device;
use crate::{
    autocast::low_copy::{after_launch, drop_copy, is_valid, memory_of_copy},
    device::Device,
    storage::{Storage, changes, note_changes},
    tensor::{Inner, Tensor},
};

type Action = Box<dyn FnMut() -> Result<()> + Send>;
type Condition = Box<dyn Fn() -> bool + Send>;

thread_local! {
    static RECORD: RefCell<Option<Record>> = const { RefCell::new(None) };
}

/// What this thread's capture notes.
#[derive(Default)]
pub(super) struct Record {
    /// The memory that was changed in place, set at the end.
    changed: Vec<Weak<Storage>>,
    grads: Vec<Slot>,
    before: Vec<Action>,
    conditions: Vec<Condition>,
    /// Parameters whose copies in half precision the step writes.
    low_copies: Vec<Weak<Inner>>,
}

/// A leaf whose gradient the step reads or replaces.
struct Slot {
    leaf: Weak<Inner>,
    /// The gradient before the step.
    initial: Option<Tensor>,
    /// Whether the step reads it.
    is_read: bool,
}

/// What a launch of the graph does on the host.
pub(super) struct Effects {
    /// Owned, since the graph keeps the memory anyway: looking whether each still exists took a quarter of a launch.
    changed: Vec<Arc<Storage>>,
    grads: Vec<Grad>,
    before: Vec<Action>,
    conditions: Vec<Condition>,
    /// Parameters whose copies in half precision the step writes, and whether a copy has the parameter's values after the step.
    low_copies: Vec<(Weak<Inner>, bool)>,
}

struct Grad {
    leaf: Weak<Inner>,
    /// The gradient before the step.
    initial: Option<Tensor>,
    /// Whether the step reads it.
    is_read: bool,
    /// The gradient after the step.
    left: Option<Tensor>,
}

fn with(body: impl FnOnce(&mut Record)) {
    if is_capturing() {
        RECORD.with_borrow_mut(|record| record.as_mut().map(body));
    }
}

/// Begins to note what this thread does, for a capture on `device`.
pub(super) fn begin(device: Device) {
    set_device(Some(device));
    note_changes();
    RECORD.set(Some(Record::default()));
}

/// Ends the noting, and returns what was noted.
pub(super) fn end() -> Option<Record> {
    set_device(None);
    let changed = changes();
    RECORD.take().map(|record| Record { changed, ..record })
}

impl Record {
    /// Restores the gradients, after a capture that failed: its work was not done.
    pub fn undo(self) {
        self.low_copies.iter().filter_map(Weak::upgrade).for_each(|param| drop_copy(&param));
        for Slot { leaf, initial, .. } in self.grads {
            if let Some(leaf) = leaf.upgrade() {
                let _old = std::mem::replace(&mut leaf.meta.lock().grad, initial);
            }
        }
    }

    pub fn finish(self) -> Effects {
        let Record { changed, grads, before, conditions, low_copies } = self;
        let grads = grads.into_iter().map(|Slot { leaf, initial, is_read }| {
            let left = leaf.upgrade().and_then(|leaf| leaf.meta.lock().grad.clone());
            Grad { leaf, initial, is_read, left }
        });
        // The step's temporaries no longer exist.
        let parameters: Vec<_> = low_copies.iter().filter_map(Weak::upgrade).collect();
        // The memory of copies belongs to the parameters, which must be able to tell whether anybody else uses it.
        let copies: Vec<_> = parameters.iter().filter_map(memory_of_copy).collect();
        let changed = changed.iter().filter(|storage| !copies.contains(&storage.as_ptr())).filter_map(Weak::upgrade);
        let changed = changed.collect();
        let low_copies = parameters.iter().map(|param| (Arc::downgrade(param), is_valid(param))).collect();
        Effects { changed, grads: grads.collect(), before, conditions, low_copies }
    }
}

fn is_same(a: Option<&Tensor>, b: Option<&Tensor>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.is_same(b),
        _ => false,
    }
}

impl Effects {
    /// Whether everything that the step depends on is as it was in the capture.
    pub fn hold(&self) -> bool {
        self.conditions.iter().all(|condition| condition())
            && self.grads.iter().all(|Grad { leaf, initial, is_read, .. }| {
                if !is_read {
                    return leaf.strong_count() > 0;
                }
                leaf.upgrade().is_some_and(|leaf| is_same(leaf.meta.lock().grad.as_ref(), initial.as_ref()))
            })
    }

    /// Whether [`hold`](Effects::hold) can never be true again, because a leaf of the step no longer exists.
    pub fn are_stale(&self) -> bool {
        self.grads.iter().any(|grad| grad.leaf.strong_count() == 0)
    }

    /// Call before each launch.
    pub fn before(&mut self) -> Result<()> {
        self.before.iter_mut().try_for_each(|action| action())
    }

    /// Call after the first launch was queued: drops the earlier gradients that the step does not read.
    pub fn settle(&mut self) {
        self.grads.iter_mut().filter(|grad| !grad.is_read).for_each(|grad| grad.initial = None);
    }

    /// Call if the first launch has failed: restores the gradients.
    pub fn undo(&self) {
        self.low_copies.iter().filter_map(|(param, _)| param.upgrade()).for_each(|param| drop_copy(&param));
        for Grad { leaf, initial, .. } in &self.grads {
            if let Some(leaf) = leaf.upgrade() {
                let _old = std::mem::replace(&mut leaf.meta.lock().grad, initial.clone());
            }
        }
    }

    /// Call after each launch but the first, whose effects the capture itself had.
    pub fn after(&self) {
        self.changed.iter().for_each(Storage::bump_version);
        for (param, is_valid) in &self.low_copies {
            if let Some(param) = param.upgrade() {
                after_launch(&param, *is_valid);
            }
        }
        for Grad { leaf, left, .. } in &self.grads {
            let Some(leaf) = leaf.upgrade() else { continue };
            let mut meta = leaf.meta.lock();
            if !is_same(meta.grad.as_ref(), left.as_ref()) {
                let old = std::mem::replace(&mut meta.grad, left.clone());
                drop(meta);
                drop(old);
            }
        }
    }
}

/// Call when work was queued that writes a parameter and its copy in half precision.
pub(crate) fn note_low_copy(param: &Tensor) {
    with(|record| {
        if !record.low_copies.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&param.0))) {
            record.low_copies.push(Arc::downgrade(&param.0));
        }
    });
}

fn note_grad(leaf: &Tensor, is_read: bool) {
    with(|record| {
        if !record.grads.iter().any(|slot| std::ptr::eq(slot.leaf.as_ptr(), Arc::as_ptr(&leaf.0))) {
            let initial = leaf.0.meta.lock().grad.clone();
            record.grads.push(Slot { leaf: Arc::downgrade(&leaf.0), initial, is_read });
        }
    });
}

/// Call before reading a gradient, or adding to it.
pub(crate) fn note_grad_read(leaf: &Tensor) {
    note_grad(leaf, true);
}

/// Call before replacing a gradient without reading it.
pub(crate) fn note_grad_replaced(leaf: &Tensor) {
    note_grad(leaf, false);
}

/// Whether the gradient that a leaf gets now is a new one in every launch of the step that this thread captures, because the
/// step has dropped the one before; also if nothing is captured. Otherwise the step finds the gradient of the launch before,
/// and is valid for that tensor.
pub(crate) fn is_grad_new(leaf: &Tensor) -> bool {
    let mut is_new = true;
    with(|record| {
        let slot = record.grads.iter().find(|slot| std::ptr::eq(slot.leaf.as_ptr(), Arc::as_ptr(&leaf.0)));
        is_new = slot.is_some_and(|slot| !slot.is_read);
    });
    is_new
}

/// Registers what the host has to do before each launch of the step that this thread captures, including the first. For
/// example, optimizers upload a learning rate that has changed.
pub fn before_launch(action: impl FnMut() -> Result<()> + Send + 'static) {
    with(|record| record.before.push(Box::new(action)));
}

/// Registers a condition under which launching the step that this thread captures does what running it would do. While the
/// condition is false, the step runs.
pub fn valid_while(condition: impl Fn() -> bool + Send + 'static) {
    with(|record| record.conditions.push(Box::new(condition)));
}
