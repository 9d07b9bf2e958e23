//! The memory limit of reading a pickle: every allocation whose size the input decides is counted, and fails with an
//! error instead of aborting the process. Boxes and short strings cannot fail, so memory for them is probed in advance,
//! a megabyte at a time.

use std::hint::black_box;

use crate::error::{Error, Result};

/// How far ahead of small allocations the machine's memory is probed.
const STEP: usize = 1 << 20;

/// Overhead of a heap allocation in bytes.
const ALLOCATION: usize = 16;

/// Counts memory against a limit.
pub(crate) struct Meter {
    limit: usize,
    left: usize,
    /// Bytes found to be available for boxes that have not been allocated yet.
    ahead: usize,
}

impl Meter {
    pub fn new(limit: usize) -> Meter {
        Meter { limit, left: limit, ahead: 0 }
    }

    /// Counts memory that is about to be allocated.
    pub fn take(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or(Error::MemoryLimit { limit: self.limit })?;
        Ok(())
    }

    /// Counts memory that was freed.
    pub fn give(&mut self, bytes: usize) {
        self.left += bytes;
    }

    /// Counts a box of this many bytes, and makes sure that the machine has them available.
    pub fn take_box(&mut self, bytes: usize) -> Result<()> {
        let bytes = bytes + ALLOCATION;
        self.take(bytes)?;
        if bytes > self.ahead {
            let wanted = bytes.saturating_add(STEP.min(self.left));
            let mut memory = Vec::<u8>::new();
            memory.try_reserve_exact(wanted).map_err(|_| Error::OutOfMemory { bytes })?;
            // The compiler may remove an allocation that nothing uses.
            black_box(&mut memory);
            self.ahead = wanted;
        }
        self.ahead -= bytes;
        Ok(())
    }

    /// Reserves capacity for `more` elements, doubling it each time.
    pub fn reserve<T>(&mut self, vec: &mut Vec<T>, more: usize) -> Result<()> {
        let (size, old) = (size_of::<T>(), vec.capacity());
        if old - vec.len() >= more {
            return Ok(());
        }
        let new = (vec.len() + more).max(old * 2).max(4);
        // The old allocation exists until the elements have been moved.
        self.take(new * size + ALLOCATION)?;
        vec.try_reserve_exact(new - vec.len()).map_err(|_| Error::OutOfMemory { bytes: new * size })?;
        if old > 0 {
            self.give(old * size + ALLOCATION);
        }
        Ok(())
    }

    pub fn push<T>(&mut self, vec: &mut Vec<T>, value: T) -> Result<()> {
        self.reserve(vec, 1)?;
        vec.push(value);
        Ok(())
    }

    /// A vector of these elements without spare capacity.
    pub fn collect<T: Copy>(&mut self, values: &[T]) -> Result<Vec<T>> {
        let mut out = Vec::new();
        if !values.is_empty() {
            self.take(size_of_val(values) + ALLOCATION)?;
            out.try_reserve_exact(values.len()).map_err(|_| Error::OutOfMemory { bytes: size_of_val(values) })?;
            out.extend_from_slice(values);
        }
        Ok(out)
    }

    /// Appends elements, and frees the vector that held them.
    pub fn append<T: Copy>(&mut self, vec: &mut Vec<T>, new: Vec<T>) -> Result<()> {
        if vec.capacity() == 0 {
            *vec = new;
            return Ok(());
        }
        self.reserve(vec, new.len())?;
        vec.extend_from_slice(&new);
        self.drop_vec(new);
        Ok(())
    }

    pub fn drop_vec<T>(&mut self, vec: Vec<T>) {
        if vec.capacity() > 0 {
            self.give(vec.capacity() * size_of::<T>() + ALLOCATION);
        }
    }
}
