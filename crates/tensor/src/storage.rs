//! The memory of tensors: one buffer, shared by a tensor and its views.

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use kiln_backend::{Backend, Buffer, DType, Layout, View, ViewMut, is_capturing};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::device::Device;

thread_local! {
    /// The memory that this thread makes, while a trace notes it.
    static MADE: RefCell<Option<Made>> = const { RefCell::new(None) };
    /// The memory that this thread changes in place, while a capture notes it.
    static CHANGED: RefCell<Option<Changed>> = const { RefCell::new(None) };
}

/// Memory that was made while it was noted. It is kept alive, so that no address is reused.
#[derive(Default)]
pub(crate) struct Made {
    storages: Vec<Arc<Storage>>,
    addresses: HashSet<usize>,
}

impl Made {
    pub fn contains(&self, storage: &Arc<Storage>) -> bool {
        self.addresses.contains(&(Arc::as_ptr(storage) as usize))
    }
}

/// Replaces the list in which this thread notes new memory: `None` to note none. Returns the previous one.
pub(crate) fn swap_made(made: Option<Made>) -> Option<Made> {
    MADE.replace(made)
}

/// Whether this thread has made this memory since it began to note it.
pub(crate) fn was_made(storage: &Arc<Storage>) -> bool {
    MADE.with_borrow(|made| made.as_ref().is_some_and(|made| made.contains(storage)))
}

/// Memory that was changed in place while it was noted, each once, in the order of the first changes.
#[derive(Default)]
pub(crate) struct Changed {
    storages: Vec<Weak<Storage>>,
    addresses: HashSet<usize>,
}

/// Begins to note the memory that this thread changes.
pub(crate) fn note_changes() {
    CHANGED.set(Some(Changed::default()));
}

/// The memory that was changed since [`note_changes`]; ends the noting.
pub(crate) fn changes() -> Vec<Weak<Storage>> {
    CHANGED.take().map_or_else(Vec::new, |changed| changed.storages)
}

/// One buffer on one device. The lock makes in-place operations safe from any thread; the version counts them, so that
/// autograd notices when a saved tensor has changed.
#[derive(Debug)]
pub(crate) struct Storage {
    pub device: Device,
    pub backend: &'static dyn Backend,
    pub dtype: DType,
    pub len: usize,
    buffer: RwLock<Box<dyn Buffer>>,
    version: AtomicU32,
}

impl Storage {
    pub fn new(device: Device, backend: &'static dyn Backend, buffer: Box<dyn Buffer>) -> Arc<Storage> {
        let (dtype, len) = (buffer.dtype(), buffer.len());
        let (buffer, version) = (RwLock::new(buffer), AtomicU32::new(0));
        let storage = Arc::new(Storage { device, backend, dtype, len, buffer, version });
        MADE.with_borrow_mut(|made| {
            if let Some(made) = made {
                made.storages.push(storage.clone());
                made.addresses.insert(Arc::as_ptr(&storage) as usize);
            }
        });
        storage
    }

    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    pub fn bump_version(self: &Arc<Self>) {
        if is_capturing() {
            CHANGED.with_borrow_mut(|changed| {
                if let Some(changed) = changed
                    && changed.addresses.insert(Arc::as_ptr(self) as usize)
                {
                    changed.storages.push(Arc::downgrade(self));
                }
            });
        }
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Recursive, so that a thread may read a storage twice (`x + x`) while another waits to write it.
    pub fn read(&self) -> RwLockReadGuard<'_, Box<dyn Buffer>> {
        self.buffer.read_recursive()
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Box<dyn Buffer>> {
        self.buffer.write()
    }
}

impl Storage {
    /// Does not wait; for code that locks several storages at once.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, Box<dyn Buffer>>> {
        self.buffer.try_read_recursive()
    }

    /// Without waiting.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, Box<dyn Buffer>>> {
        self.buffer.try_write()
    }
}

/// A tensor locked for reading.
pub(crate) struct Reading<'a> {
    pub guard: RwLockReadGuard<'a, Box<dyn Buffer>>,
    pub layout: &'a Layout,
}

impl Reading<'_> {
    pub fn view(&self) -> View<'_> {
        View { buffer: &**self.guard, layout: self.layout }
    }

    /// The same memory through another layout.
    pub fn through<'a>(&'a self, layout: &'a Layout) -> View<'a> {
        View { buffer: &**self.guard, layout }
    }
}

/// A tensor locked for writing.
pub(crate) struct Writing<'a> {
    pub guard: RwLockWriteGuard<'a, Box<dyn Buffer>>,
    pub layout: &'a Layout,
}

impl Writing<'_> {
    pub fn view(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut **self.guard, layout: self.layout }
    }
}

/// Locks `target` for writing and `sources` (none of which is `target`) for reading, in address order, so that two
/// threads that run `a += b` and `b += a` never deadlock.
pub(crate) fn lock_for_update<'a, const N: usize>(
    target: (&'a Storage, &'a Layout),
    sources: [Option<(&'a Storage, &'a Layout)>; N],
) -> (Writing<'a>, [Option<Reading<'a>>; N]) {
    let mut order: [Option<usize>; N] = std::array::from_fn(Some);
    let address = |i: &Option<usize>| i.and_then(|i| sources[i]).map_or(0, |(s, _)| std::ptr::from_ref(s) as usize);
    order.sort_by_key(address);
    let target_address = std::ptr::from_ref(target.0) as usize;
    let mut writing = None;
    let mut readings = [const { None }; N];
    for i in order.into_iter().flatten() {
        let Some((storage, layout)) = sources[i] else { continue };
        if writing.is_none() && target_address < std::ptr::from_ref(storage) as usize {
            writing = Some(target.0.write());
        }
        readings[i] = Some(Reading { guard: storage.read(), layout });
    }
    let guard = writing.unwrap_or_else(|| target.0.write());
    (Writing { guard, layout: target.1 }, readings)
}
