//! Locks of the memory of many tensors, for operations that change several at once.

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use crate::tensor::Tensor;

type Memory = Box<dyn kiln_backend::Buffer>;

/// A tensor's memory, locked.
pub(super) enum Guard<'a> {
    Read(RwLockReadGuard<'a, Memory>),
    Write(RwLockWriteGuard<'a, Memory>),
}

/// Locks tensors, `true` for writing, all or none: while it waits for one lock it holds no other, so it cannot deadlock
/// with a thread that reads two parameters in any order.
pub(super) fn lock_all<'a>(wanted: &[(&'a Tensor, bool)]) -> Vec<Guard<'a>> {
    loop {
        let try_lock = |&(tensor, write): &(&'a Tensor, bool)| {
            let storage = &tensor.0.storage;
            let guard = if write { storage.try_write().map(Guard::Write) } else { storage.try_read().map(Guard::Read) };
            guard.ok_or((tensor, write))
        };
        match wanted.iter().map(try_lock).collect() {
            Ok(guards) => return guards,
            Err((busy, true)) => drop(busy.0.storage.write()),
            Err((busy, false)) => drop(busy.0.storage.read()),
        }
    }
}
