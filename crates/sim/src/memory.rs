//! Device memory and pinned host memory: pages of one reserved address range. No address is used twice, so a stale
//! pointer never finds new data.
use std::collections::BTreeMap;

use crate::engine::{self, Access, Range};

const PAGE: u64 = 4096;
/// Sizes of the reserved address range, to try in order; memory is only taken when it is allocated.
const SPANS: [usize; 3] = [1 << 42, 1 << 38, 1 << 36];
/// Fills fresh memory: NaN in every float type, -1 in the integers.
const POISON: u8 = 0xff;

/// The kind of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Device,
    Pinned,
}

#[derive(Clone, Copy, Debug)]
pub struct Allocation {
    pub begin: u64,
    pub bytes: usize,
    pub home: Home,
    /// The device whose memory it is, or for which pinned memory was allocated.
    pub device: usize,
}

impl Allocation {
    pub fn end(&self) -> u64 {
        self.begin + self.bytes as u64
    }

    /// Whether kernels and libraries on a device may access it.
    pub fn is_for(&self, device: usize) -> bool {
        self.home == Home::Pinned || self.device == device
    }

    fn span(&self) -> usize {
        (self.bytes as u64).next_multiple_of(PAGE) as usize
    }
}

/// All allocations of the process.
pub struct Memory {
    next: u64,
    end: u64,
    live: BTreeMap<u64, Allocation>,
    capacity: usize,
    /// Bytes used on each device.
    used: BTreeMap<usize, usize>,
}

impl Memory {
    /// Reserves addresses. `capacity` is the memory of each device in bytes.
    pub fn new(capacity: usize) -> Self {
        let (next, size) = SPANS
            .iter()
            .map(|&size| (engine::reserve(size), size as u64))
            .find(|(base, _)| *base != 0)
            .unwrap_or((0, 0));
        Memory { next, end: next + size, live: BTreeMap::new(), capacity, used: BTreeMap::new() }
    }

    /// Frees everything on a device and returns what it was; addresses are not reused.
    pub fn reset(&mut self, device: usize) -> Vec<Allocation> {
        let all: Vec<u64> = self.live.values().filter(|one| one.device == device).map(|one| one.begin).collect();
        let all = all.into_iter().filter_map(|address| self.free(address)).collect();
        // What is left has no address.
        self.used.remove(&device);
        all
    }

    /// Sets the memory of each device in bytes.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Fresh, poisoned memory; `None` if there is no room for it.
    pub fn allocate(&mut self, bytes: usize, home: Home, device: usize) -> Option<u64> {
        let allocation = Allocation { begin: self.next, bytes, home, device };
        let span = (bytes as u64).checked_next_multiple_of(PAGE)?;
        if home == Home::Device && bytes > self.capacity - self.used(device) {
            return None;
        }
        // Each allocation is followed by a page that is never used.
        if span.checked_add(PAGE)? > self.end - self.next {
            return None;
        }
        // SAFETY: these pages have never been handed out, and may be written once they are made writable.
        unsafe {
            if !engine::protect(self.next, span as usize, Access::Write) {
                return None;
            }
            std::ptr::write_bytes(self.next as *mut u8, POISON, bytes);
        }
        engine::forbid(self.next + bytes as u64, span as usize - bytes);
        self.next += span + PAGE;
        if home == Home::Device {
            *self.used.entry(device).or_default() += bytes;
        }
        self.live.insert(allocation.begin, allocation);
        Some(allocation.begin)
    }

    /// Takes bytes of a device's memory that have no address, for as long as its context lives; `false` if there is no
    /// room.
    pub fn reserve(&mut self, bytes: usize, device: usize) -> bool {
        let fits = bytes <= self.capacity - self.used(device);
        if fits {
            *self.used.entry(device).or_default() += bytes;
        }
        fits
    }

    /// Frees the allocation that begins at `address`, and returns it.
    pub fn free(&mut self, address: u64) -> Option<Allocation> {
        let allocation = self.live.remove(&address)?;
        // SAFETY: whole pages that only this allocation used; no reference to device memory outlives a call.
        unsafe { engine::discard(allocation.begin, allocation.span()) };
        if allocation.home == Home::Device {
            *self.used.entry(allocation.device).or_default() -= allocation.bytes;
        }
        Some(allocation)
    }

    /// The live allocation that begins at `address`.
    pub fn starting(&self, address: u64) -> Option<Allocation> {
        self.live.get(&address).copied()
    }

    /// The live allocation that contains all of `bytes` bytes at `address`.
    pub fn find(&self, address: u64, bytes: usize) -> Option<Allocation> {
        let (_, allocation) = self.live.range(..=address).next_back()?;
        let end = address.checked_add(bytes as u64)?;
        (end <= allocation.end()).then_some(*allocation)
    }

    /// The live allocation that contains the byte at `address`, or ends a little before it.
    pub fn before(&self, address: u64) -> Option<Allocation> {
        let (_, allocation) = self.live.range(..=address).next_back()?;
        (address < allocation.end() + (1 << 16)).then_some(*allocation)
    }

    /// The ranges that kernels of a device may access, and all other ranges, each in ascending order.
    pub fn ranges(&self, device: usize) -> (Vec<Range>, Vec<Range>) {
        let (own, foreign): (Vec<_>, Vec<_>) = self.live.values().partition(|allocation| allocation.is_for(device));
        let range = |allocation: &Allocation| Range { begin: allocation.begin, end: allocation.end() };
        (own.into_iter().map(range).collect(), foreign.into_iter().map(range).collect())
    }

    /// Bytes that are allocated on a device.
    pub fn used(&self, device: usize) -> usize {
        self.used.get(&device).copied().unwrap_or(0)
    }

    /// Bytes that are allocated on all devices.
    pub fn used_in_all(&self) -> usize {
        self.used.values().sum()
    }

    /// Bytes of each device.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// The whole pages that a copy to or from pinned memory occupies. Pages that it shares with other parts of a larger
/// allocation are left out, since the host may use those.
pub fn busy_pages(allocation: &Allocation, begin: u64, bytes: usize) -> Option<(u64, usize)> {
    let end = begin + bytes as u64;
    let first = if begin == allocation.begin { begin } else { begin.next_multiple_of(PAGE) };
    let last = if end == allocation.end() { end.next_multiple_of(PAGE) } else { end / PAGE * PAGE };
    (first < last).then(|| (first, (last - first) as usize))
}
