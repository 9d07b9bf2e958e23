//! Page-locked host memory for tensors of the CPU that are on their way to the device.
//!
//! The driver takes long to lock pages, so memory that is given back is kept for the next batch of its size.

use std::{collections::BTreeMap, fmt};

use kiln_backend::{HostMemory, Result};

use crate::{device::Device, pinned::Pinned};

/// Sizes are multiples of a page.
const PAGE: usize = 4096;
/// Pieces that are kept while nobody uses them.
const MOST_FREE: usize = 16;

/// What a device has of it.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    free: Vec<Pinned>,
    /// The sizes of all pieces by their addresses.
    all: BTreeMap<usize, usize>,
}

impl Pages {
    /// Whether these bytes lie in it.
    pub(crate) fn hold(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr() as usize;
        let piece = self.all.range(..=start).next_back();
        piece.is_some_and(|(address, size)| start + bytes.len() <= address + size)
    }
}

/// One piece. It goes back when it is dropped.
pub(crate) struct PageLocked {
    device: &'static Device,
    /// Always there until the drop.
    memory: Option<Pinned>,
}

impl Device {
    /// Page-locked memory for `bytes` bytes.
    pub(crate) fn pin(&'static self, bytes: usize) -> Result<PageLocked> {
        let mut pages = self.pages.lock();
        // The smallest that fits, and none that is twice as large as need be.
        let len = |memory: &Pinned| memory.bytes().len();
        let fits = |(_, memory): &(usize, &Pinned)| len(memory) >= bytes && len(memory) / 2 <= bytes.max(PAGE);
        let found = pages.free.iter().enumerate().filter(fits).min_by_key(|(_, memory)| len(memory)).map(|(i, _)| i);
        let memory = match found {
            Some(i) => pages.free.swap_remove(i),
            None => {
                let size = bytes.max(1).checked_next_multiple_of(PAGE).unwrap_or(usize::MAX);
                let memory = Pinned::new(&self.stream.context, size)?;
                pages.all.insert(memory.bytes().as_ptr() as usize, size);
                memory
            }
        };
        Ok(PageLocked { device: self, memory: Some(memory) })
    }
}

impl Drop for PageLocked {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let mut pages = self.device.pages.lock();
        if pages.free.len() < MOST_FREE {
            pages.free.push(memory);
        } else {
            pages.all.remove(&(memory.bytes().as_ptr() as usize));
            memory.free(&self.device.stream.context);
        }
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
        write!(f, "PageLocked({} bytes by cuda:{})", self.bytes().len(), self.device.index())
    }
}
