//! Page-locked host memory for CPU tensors (`pin_memory`), which the device reads directly.
//!
//! Locking pages takes the driver long, so freed memory is kept for the next batch of its size.

use std::{collections::BTreeMap, fmt};

use kiln_backend::{HostMemory, Result};

use parking_lot::Mutex;

use crate::{context::Context, pinned::Pinned};

/// Sizes are multiples of a page.
const PAGE: usize = 4096;
/// Maximum number of unused blocks that are kept.
const MAX_FREE: usize = 16;

/// The page-locked memory of a device.
#[derive(Debug)]
pub(crate) struct Pages {
    context: Context,
    pieces: Mutex<Pieces>,
}

#[derive(Debug, Default)]
struct Pieces {
    free: Vec<Pinned>,
    /// The sizes of all blocks by address.
    all: BTreeMap<usize, usize>,
}

/// A block of page-locked memory, returned when it is dropped.
pub(crate) struct PageLocked {
    pages: &'static Pages,
    /// Always present until the drop.
    memory: Option<Pinned>,
}

impl Pages {
    pub(crate) fn new(context: Context) -> Pages {
        Pages { context, pieces: Mutex::default() }
    }

    /// Whether these bytes lie in one of the blocks.
    pub(crate) fn hold(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr() as usize;
        let pieces = self.pieces.lock();
        let piece = pieces.all.range(..=start).next_back();
        piece.is_some_and(|(address, size)| start + bytes.len() <= address + size)
    }

    /// A block of at least `bytes` bytes. Pages are locked and unlocked while other threads may look up blocks.
    pub(crate) fn pin(&'static self, bytes: usize) -> Result<PageLocked> {
        // The smallest that fits, and none that is more than twice as large as needed.
        let len = |memory: &Pinned| memory.bytes().len();
        let fits = |(_, memory): &(usize, &Pinned)| len(memory) >= bytes && len(memory) / 2 <= bytes.max(PAGE);
        let found = {
            let free = &mut self.pieces.lock().free;
            let found = free.iter().enumerate().filter(fits).min_by_key(|(_, memory)| len(memory)).map(|(i, _)| i);
            found.map(|i| free.swap_remove(i))
        };
        let memory = match found {
            Some(memory) => memory,
            None => {
                let size = bytes.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
                let memory = Pinned::new(&self.context, size)?;
                self.pieces.lock().all.insert(memory.bytes().as_ptr() as usize, size);
                memory
            }
        };
        Ok(PageLocked { pages: self, memory: Some(memory) })
    }
}

impl Drop for PageLocked {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        {
            let mut pieces = self.pages.pieces.lock();
            if pieces.free.len() < MAX_FREE {
                return pieces.free.push(memory);
            }
            // Removed before the memory can become anyone else's.
            pieces.all.remove(&(memory.bytes().as_ptr() as usize));
        }
        memory.free(&self.pages.context);
    }
}

impl HostMemory for PageLocked {
    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], Pinned::bytes)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], Pinned::bytes_mut)
    }
}

impl fmt::Debug for PageLocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageLocked({} bytes by cuda:{})", self.bytes().len(), self.pages.context.index)
    }
}
