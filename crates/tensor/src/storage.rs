//! The memory of tensors: one buffer, shared by a tensor and its views.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use kiln_backend::{Backend, Buffer, DType, Layout, Result, View, ViewMut};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{
    autograd::note_storage,
    captured::{note_changed, refuse_elsewhere},
    device::Device,
};

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
        note_storage(&storage);
        storage
    }

    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    pub fn bump_version(self: &Arc<Self>) {
        note_changed(self);
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

/// The memory of a tensor, for communication libraries.
#[doc(hidden)]
pub struct RawMemory<'a> {
    /// May be replaced by another buffer of its dtype and length, if a library that failed may still write to it.
    pub buffer: &'a mut Box<dyn Buffer>,
    /// The layout of the tensor's elements in the buffer.
    pub layout: &'a Layout,
    /// The backend of its device.
    pub backend: &'static dyn Backend,
}

impl crate::Tensor {
    /// Calls `f` with the memory of this tensor, which nothing else reads or writes meanwhile.
    ///
    /// # Errors
    /// Those of `f`.
    #[doc(hidden)]
    pub fn with_raw_memory<R>(&self, f: impl FnOnce(RawMemory<'_>) -> Result<R>) -> Result<R> {
        let storage = &self.0.storage;
        let mut guard = storage.write();
        let done = f(RawMemory { buffer: &mut guard, layout: self.layout(), backend: storage.backend });
        drop(guard);
        storage.bump_version();
        done
    }
}

/// The memory of a new tensor, filled by one backend call.
pub(crate) fn compute(
    device: Device,
    dtype: DType,
    layout: &Layout,
    write: impl FnOnce(&'static dyn Backend, ViewMut<'_>) -> Result<()>,
) -> Result<Arc<Storage>> {
    refuse_elsewhere(device, "a tensor")?;
    let backend = device.backend()?;
    let mut buffer = backend.alloc(dtype, layout.numel())?;
    write(backend, ViewMut { buffer: &mut *buffer, layout })?;
    Ok(Storage::new(device, backend, buffer))
}
