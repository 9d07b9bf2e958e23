//! What a captured step changes on the host: versions of memory, gradients, and whatever layers and optimizers register.
//! A launch changes it again.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    sync::{Arc, Weak},
};

use kiln_backend::{Result, is_capturing, refuse_capture};

use crate::{
    device::Device,
    storage::Storage,
    tensor::{Inner, Tensor},
};

type Action = Box<dyn FnMut() -> Result<()> + Send>;
type Condition = Box<dyn Fn() -> bool + Send>;

thread_local! {
    static RECORD: RefCell<Option<Record>> = const { RefCell::new(None) };
    /// Whether work on other devices is meant to be done now.
    static ON_HOST: Cell<bool> = const { Cell::new(false) };
}

/// What this thread's capture has noted.
pub(super) struct Record {
    device: Device,
    changed: Vec<Weak<Storage>>,
    seen: HashSet<usize>,
    grads: Vec<Slot>,
    before: Vec<Action>,
    conditions: Vec<Condition>,
}

/// A leaf whose gradient the step touches.
struct Slot {
    leaf: Weak<Inner>,
    /// What it was.
    initial: Option<Tensor>,
    /// Whether the step depends on that.
    is_read: bool,
}

/// The same for launches.
pub(super) struct Effects {
    changed: Vec<Weak<Storage>>,
    grads: Vec<Grad>,
    before: Vec<Action>,
    conditions: Vec<Condition>,
}

struct Grad {
    leaf: Weak<Inner>,
    /// What it was, and whether the step depends on that.
    initial: Option<Tensor>,
    is_read: bool,
    left: Option<Tensor>,
}

fn with(body: impl FnOnce(&mut Record)) {
    if is_capturing() {
        RECORD.with_borrow_mut(|record| record.as_mut().map(body));
    }
}

/// Begins to note what happens on this thread.
pub(super) fn begin(device: Device) {
    let (changed, seen, grads) = (Vec::new(), HashSet::new(), Vec::new());
    RECORD.set(Some(Record { device, changed, seen, grads, before: Vec::new(), conditions: Vec::new() }));
}

/// What was noted.
pub(super) fn end() -> Option<Record> {
    RECORD.take()
}

impl Record {
    /// Takes back what was done on the host, because none of it was done on the device.
    pub fn undo(self) {
        for Slot { leaf, initial, .. } in self.grads {
            if let Some(leaf) = leaf.upgrade() {
                let _old = std::mem::replace(&mut leaf.meta.lock().grad, initial);
            }
        }
    }

    pub fn finish(self) -> Effects {
        let Record { changed, grads, before, conditions, .. } = self;
        let grads = grads.into_iter().map(|Slot { leaf, initial, is_read }| {
            let left = leaf.upgrade().and_then(|leaf| leaf.meta.lock().grad.clone());
            Grad { leaf, initial, is_read, left }
        });
        // What the step made for itself is gone.
        let changed = changed.into_iter().filter(|storage| storage.strong_count() > 0).collect();
        Effects { changed, grads: grads.collect(), before, conditions }
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
    /// Whether everything that the step depends on is as it was.
    pub fn hold(&self) -> bool {
        self.conditions.iter().all(|condition| condition())
            && self.grads.iter().all(|Grad { leaf, initial, is_read, .. }| {
                let Some(leaf) = leaf.upgrade() else { return false };
                !is_read || is_same(leaf.meta.lock().grad.as_ref(), initial.as_ref())
            })
    }

    /// Whether it will never be again: a tensor that the step changes is no more.
    pub fn are_stale(&self) -> bool {
        self.grads.iter().any(|grad| grad.leaf.strong_count() == 0)
    }

    /// Before a launch.
    pub fn before(&mut self) -> Result<()> {
        self.before.iter_mut().try_for_each(|action| action())
    }

    /// The first launch was queued: what was there before is needed only where the step depends on it.
    pub fn settle(&mut self) {
        self.grads.iter_mut().filter(|grad| !grad.is_read).for_each(|grad| grad.initial = None);
    }

    /// The first launch has failed: gradients are what they were.
    pub fn undo(&self) {
        for Grad { leaf, initial, .. } in &self.grads {
            if let Some(leaf) = leaf.upgrade() {
                let _old = std::mem::replace(&mut leaf.meta.lock().grad, initial.clone());
            }
        }
    }

    /// After a launch, but the first, whose effects the capture had.
    pub fn after(&self) {
        self.changed.iter().filter_map(Weak::upgrade).for_each(|storage| storage.bump_version());
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

/// Memory was changed in place.
pub(crate) fn note_changed(storage: &Arc<Storage>) {
    if !is_capturing() {
        return;
    }
    refuse_elsewhere(storage.device, "a change in place").unwrap_or(());
    with(|record| {
        if record.seen.insert(Arc::as_ptr(storage) as usize) {
            record.changed.push(Arc::downgrade(storage));
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

/// A gradient is going to be looked at, or added to.
pub(crate) fn note_grad_read(leaf: &Tensor) {
    note_grad(leaf, true);
}

/// A gradient is going to be replaced, whatever it is.
pub(crate) fn note_grad_replaced(leaf: &Tensor) {
    note_grad(leaf, false);
}

/// Before something is computed on a device: an error if it is not the one whose work is captured.
pub(crate) fn refuse_elsewhere(device: Device, op: &'static str) -> Result<()> {
    let mut elsewhere = false;
    with(|record| elsewhere = record.device != device && !ON_HOST.get());
    if !elsewhere {
        return Ok(());
    }
    Err(refuse_capture(op, format!("on {device} it would happen now, and not when the step is launched")))
}

/// Before values of a tensor are read: an error if they are not computed yet.
pub(crate) fn refuse_read(device: Device, op: &'static str) -> Result<()> {
    if device.is_cuda() {
        kiln_backend::unless_capturing(op, "it reads values, and nothing that is captured has been computed yet")?;
    }
    Ok(())
}

/// Before values of the host are taken to a device: an error if launches would go on to use these.
pub(crate) fn refuse_upload(device: Device, op: &'static str) -> Result<()> {
    refuse_elsewhere(device, op)?;
    if device.is_cuda() {
        kiln_backend::unless_capturing(op, "the values would be those of the capture whenever the step is launched")?;
    }
    Ok(())
}

/// Registers what a launch of the step that is being captured needs the host to do beforehand; the first launch as well.
/// Optimizers write a learning rate that was changed.
pub fn before_launch(action: impl FnMut() -> Result<()> + Send + 'static) {
    with(|record| record.before.push(Box::new(action)));
}

/// Registers a condition under which the step that is being captured is what it would be if it ran. While it does not hold,
/// the step runs.
pub fn valid_while(condition: impl Fn() -> bool + Send + 'static) {
    with(|record| record.conditions.push(Box::new(condition)));
}

/// Runs what is to happen once, on the host, although a step is being captured.
pub fn on_host<T>(body: impl FnOnce() -> T) -> T {
    /// Restores it when the body panics, too.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ON_HOST.set(self.0);
        }
    }
    let _restore = Restore(ON_HOST.replace(true));
    body()
}
