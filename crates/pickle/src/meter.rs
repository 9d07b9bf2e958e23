//! The memory that reading a pickle may take: every allocation whose size the input decides is counted, and fails
//! with an error instead of ending the process.

use crate::{Error, Result};

/// What a heap allocation costs besides its contents.
const ALLOCATION: usize = 16;

/// Counts memory against a limit.
pub(crate) struct Meter {
    limit: usize,
    left: usize,
}

impl Meter {
    pub fn new(limit: usize) -> Meter {
        Meter { limit, left: limit }
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

    /// Counts a box of this many bytes.
    pub fn take_box(&mut self, bytes: usize) -> Result<()> {
        self.take(bytes + ALLOCATION)
    }

    /// Makes room for `more` elements, in steps that double.
    pub fn reserve<T>(&mut self, vec: &mut Vec<T>, more: usize) -> Result<()> {
        let (size, old) = (size_of::<T>(), vec.capacity());
        if old - vec.len() >= more {
            return Ok(());
        }
        let new = (vec.len() + more).max(old * 2).max(4);
        // The old elements are there until they have been moved.
        self.take_box(new * size)?;
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

    /// A vector of these elements and no room for more.
    pub fn collect<T: Copy>(&mut self, values: &[T]) -> Result<Vec<T>> {
        let mut out = Vec::new();
        if !values.is_empty() {
            self.take_box(size_of_val(values))?;
            out.try_reserve_exact(values.len()).map_err(|_| Error::OutOfMemory { bytes: size_of_val(values) })?;
            out.extend_from_slice(values);
        }
        Ok(out)
    }

    /// Adds elements, and frees the vector that they come in.
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
