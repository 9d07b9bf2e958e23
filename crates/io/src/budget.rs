//! The memory budget of loading one file. A small file can declare large contents; it gets an error instead of all
//! the machine's memory.
//!
//! Allocations whose size the file decides can fail with an error. Small ones (names, map nodes, tensor handles)
//! cannot, so memory for them is probed in advance, a megabyte at a time.

#[cfg(feature = "pth")]
use std::collections::HashSet;
#[cfg(any(feature = "npy", feature = "pth"))]
use std::{collections::HashMap, hash::Hash};
use std::{
    hint::black_box,
    path::{Path, PathBuf},
};

use kiln_tensor::{Error, Result};

use crate::{
    load_options::LoadOptions,
    source::{Source, out_of_memory},
};

/// Bytes of a tensor without elements: handle, storage and layout.
pub(crate) const TENSOR: usize = 512;
/// Bytes of an entry of a map or list besides its contents.
const ENTRY: usize = 64;
/// Bytes of a JSON value that is parsed without a type.
const JSON_VALUE: usize = 128;

/// How far ahead of small allocations the machine's memory is probed.
const STEP: usize = 1 << 20;

/// Counts allocated memory against the limit of one file.
#[derive(Debug)]
pub(crate) struct Budget {
    path: PathBuf,
    limit: usize,
    left: usize,
    /// Bytes found to be available that have not been allocated yet.
    ahead: usize,
}

impl Clone for Budget {
    fn clone(&self) -> Budget {
        // The memory that was found may be taken by the time the copy is used.
        Budget { path: self.path.clone(), ahead: 0, ..*self }
    }
}

impl Budget {
    /// A budget with the limit that the options set, or ten times the file's length plus 64 MiB.
    pub fn new(source: &Source, options: &LoadOptions) -> Budget {
        let default = source.len().saturating_mul(10).saturating_add(64 << 20);
        let limit = options.limit().unwrap_or(default);
        Budget { path: source.path().to_owned(), limit, left: limit, ahead: 0 }
    }

    /// The bytes left.
    #[cfg(feature = "pth")]
    pub fn left(&self) -> usize {
        self.left
    }

    /// The error for a file that exceeds the limit; it says how to raise it.
    pub fn exceeded(&self) -> Error {
        let Budget { limit, .. } = self;
        let message = format!(
            "loading it takes more than {limit} bytes of memory: it is malicious, or needs a larger \
             `LoadOptions::memory_limit`"
        );
        Error::file(&self.path, message)
    }

    /// Counts memory that is about to be allocated, and makes sure that the machine has it available.
    pub fn spend(&mut self, bytes: usize) -> Result<()> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.exceeded())?;
        self.look_for(bytes)?;
        self.ahead -= bytes;
        Ok(())
    }

    /// Makes sure that the machine has this much memory available, without counting it.
    pub fn look_for(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.ahead {
            return Ok(());
        }
        let wanted = bytes.saturating_add(STEP.min(self.left));
        let mut memory = Vec::<u8>::new();
        memory.try_reserve_exact(wanted).map_err(|_| out_of_memory(&self.path, bytes))?;
        // The compiler may remove an allocation that nothing uses.
        black_box(&mut memory);
        self.ahead = wanted;
        Ok(())
    }

    /// Inserts into a map; growing it can fail without aborting the program.
    #[cfg(any(feature = "npy", feature = "pth"))]
    pub fn insert<K: Eq + Hash, V>(&self, map: &mut HashMap<K, V>, key: K, value: V) -> Result<Option<V>> {
        map.try_reserve(1).map_err(|_| self.no_room::<(K, V)>(map.len()))?;
        Ok(map.insert(key, value))
    }

    /// [`insert`](Budget::insert) into a set.
    #[cfg(feature = "pth")]
    pub fn remember<K: Eq + Hash>(&self, set: &mut HashSet<K>, key: K) -> Result<()> {
        set.try_reserve(1).map_err(|_| self.no_room::<K>(set.len()))?;
        set.insert(key);
        Ok(())
    }

    /// Pushes to a vector; growing it can fail without aborting the program.
    pub fn push<T>(&self, vec: &mut Vec<T>, value: T) -> Result<()> {
        vec.try_reserve(1).map_err(|_| self.no_room::<T>(vec.len()))?;
        vec.push(value);
        Ok(())
    }

    fn no_room<T>(&self, len: usize) -> Error {
        out_of_memory(&self.path, (len + 1).saturating_mul(size_of::<T>()))
    }

    /// Counts memory that was freed.
    pub fn give_back(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(self.limit);
    }

    /// Counts an entry of a map or list with this many bytes of contents.
    pub fn entry(&mut self, bytes: usize) -> Result<()> {
        self.spend(bytes.saturating_add(ENTRY))
    }

    /// Counts the most that parsing a JSON text into values of any type may take.
    pub fn json(&mut self, text: &[u8]) -> Result<()> {
        let values = text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{' | b':')).count();
        self.spend(values.saturating_mul(JSON_VALUE).saturating_add(text.len()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
