//! Tests of the allocator, with a source of addresses that have no memory behind them.

use std::collections::BTreeMap;

use kiln_backend::{ErrorKind, Result};
use proptest::prelude::*;

use super::{
    size_class::{LARGE_SEGMENT, SMALL, SMALL_SEGMENT},
    *,
};

/// The driver's guarantee about the address of a segment.
const ALIGN: u64 = 256;

/// A device of a given size, whose segments never touch, so that a block that leaves its segment is detected.
struct Fake {
    capacity: usize,
    used: usize,
    next: u64,
    segments: BTreeMap<u64, usize>,
    /// The requests in order, and whether each was granted.
    asked: Vec<(usize, bool)>,
}

impl Fake {
    fn new(capacity: usize) -> Fake {
        Fake { capacity, used: 0, next: 1 << 20, segments: BTreeMap::new(), asked: Vec::new() }
    }
}

impl Source for Fake {
    fn take(&mut self, bytes: usize) -> Result<Option<u64>> {
        assert_ne!(bytes, 0, "the driver refuses to allocate nothing");
        let granted = self.capacity - self.used >= bytes;
        self.asked.push((bytes, granted));
        if !granted {
            return Ok(None);
        }
        let address = self.next;
        self.next += (bytes as u64).next_multiple_of(ALIGN) + ALIGN;
        self.used += bytes;
        self.segments.insert(address, bytes);
        Ok(Some(address))
    }

    fn give(&mut self, address: u64) {
        self.used -= self.segments.remove(&address).expect("a segment is given back once");
    }

    fn take_in_order(&mut self, bytes: usize) -> Result<Option<u64>> {
        self.take(bytes)
    }

    fn give_in_order(&mut self, address: u64) {
        self.give(address);
    }

    fn system(&self) -> Option<(usize, usize)> {
        Some((self.capacity - self.used, self.capacity))
    }

    fn device(&self) -> String {
        "fake".into()
    }
}

fn allocator(capacity: usize) -> Allocator<Fake> {
    Allocator::new(Fake::new(capacity))
}

const MIB: usize = 1 << 20;

#[test]
fn a_freed_block_is_handed_out_again_without_the_driver() {
    let mut a = allocator(100 * MIB);
    let first = a.alloc(1000).unwrap();
    let address = first.address;
    assert_eq!((a.stats.allocated, a.stats.reserved), (1024, SMALL_SEGMENT));
    a.free(first);
    let again = a.alloc(700).unwrap();
    assert_eq!((again.address, a.stats.system_allocations), (address, 1));
    // Larger requests have segments of their own.
    let large = a.alloc(SMALL + 1).unwrap();
    assert_eq!((a.stats.reserved, a.stats.system_allocations), (SMALL_SEGMENT + LARGE_SEGMENT, 2));
    let huge = a.alloc(30 * MIB + 1).unwrap();
    assert_eq!(a.source.asked.last(), Some(&(32 * MIB, true)));
    for allocation in [again, large, huge] {
        a.free(allocation);
    }
    assert_eq!((a.stats.allocated, a.stats.reserved), (0, 54 * MIB));
    a.empty_cache();
    assert_eq!((a.stats.reserved, a.source.segments.len()), (0, 0));
}

#[test]
fn the_best_fit_is_taken_and_neighbors_join() {
    let mut a = allocator(100 * MIB);
    let mut blocks: Vec<_> =
        [4096, 512, 2048, 512, 1024, 512].map(|size| a.alloc(size).unwrap()).into_iter().map(Some).collect();
    let [hole_4096, hole_2048, hole_1024] = [0, 2, 4].map(|i: usize| blocks[i].as_ref().unwrap().address);
    for i in [0, 2, 4] {
        a.free(blocks[i].take().unwrap());
    }
    let (x, y) = (a.alloc(1000).unwrap(), a.alloc(1025).unwrap());
    assert_eq!((x.address, y.address), (hole_1024, hole_2048));
    // The last 512 bytes of the hole of 2048 go to the next request that they fit, before the hole of 4096.
    let z = a.alloc(512).unwrap();
    assert_eq!(z.address, hole_2048 + 1536);
    // Freeing the block between the first hole and the second merges the three.
    a.free(y);
    a.free(z);
    a.free(blocks[1].take().unwrap());
    assert_eq!(a.alloc(4096 + 512 + 2048).unwrap().address, hole_4096);
}

#[test]
fn memory_that_is_cached_is_freed_before_an_error() {
    let mut a = allocator(40 * MIB);
    let large = a.alloc(24 * MIB).unwrap();
    a.free(large);
    // 24 of 40 are cached, in one block that is too small.
    let larger = a.alloc(30 * MIB).unwrap();
    assert_eq!((a.stats.reserved, a.source.asked[1..] == [(30 * MIB, false), (30 * MIB, true)]), (30 * MIB, true));
    // 10 are left: not enough for a shared segment of 20, but for one of the size of the request.
    let last = a.alloc(7 * MIB).unwrap();
    assert_eq!(a.stats.reserved, 38 * MIB);
    let error = a.alloc(3 * MIB).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { requested, .. } if *requested == 3 * MIB));
    let text = error.to_string();
    for part in ["fake", "38.00 MiB are held", "2.00 MiB of 40.00 MiB free", "Smaller batches"] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    // An error leaves everything as it was.
    a.free(last);
    a.free(larger);
    assert!(a.alloc(39 * MIB).is_ok());
}

#[test]
fn sizes_beyond_any_device_are_errors() {
    let mut a = allocator(MIB);
    for bytes in [usize::MAX, usize::MAX - ROUND, isize::MAX as usize, 1 << 50] {
        assert!(matches!(a.alloc(bytes).unwrap_err().kind(), ErrorKind::OutOfMemory { .. }));
    }
    assert_eq!(a.stats, MemoryStats::default());
}

#[test]
fn what_is_set_aside_does_not_count_as_in_use() {
    let mut a = allocator(64 << 20);
    let (kept, other) = (a.alloc(1024).unwrap(), a.alloc(512).unwrap());
    a.set_aside(&kept);
    assert_eq!((a.stats().allocated, a.stats().peak_allocated), (512, 1536));
    a.reset_peak();
    // Nobody else gets it.
    let third = a.alloc(1024).unwrap();
    assert_ne!(third.address, kept.address);
    assert_eq!((a.stats().allocated, a.stats().peak_allocated), (1536, 1536));
    a.free(third);
    a.take_up(&kept);
    assert_eq!((a.stats().allocated, a.stats().peak_allocated), (1536, 1536));
    a.set_aside(&kept);
    a.free_aside(kept);
    a.free(other);
    assert_eq!(a.stats().allocated, 0);
    a.empty_cache();
    assert_eq!(a.stats().reserved, 0);
}

/// Each block is an allocation of its own, of exactly the requested size, and gone when it is freed.
#[test]
fn without_caching_the_source_sees_every_block() {
    let mut a = Allocator::uncached(Fake::new(100 * MIB));
    let blocks: Vec<_> = [1, 1000, 1000, 3 * MIB].map(|bytes| a.alloc(bytes).unwrap()).into();
    let sizes: Vec<usize> = a.source.segments.values().copied().collect();
    assert_eq!(sizes, [1, 1000, 1000, 3 * MIB]);
    assert!(blocks.iter().all(|block| a.source.segments[&block.address] == block.size));
    assert_eq!((a.stats.allocated, a.stats.reserved, a.stats.system_allocations), (3 * MIB + 2001, 3 * MIB + 2001, 4));
    let addresses: Vec<u64> = blocks.iter().map(|block| block.address).collect();
    let mut blocks = blocks.into_iter();
    a.set_aside(blocks.as_slice().first().unwrap());
    a.free_aside(blocks.next().unwrap());
    blocks.for_each(|block| a.free(block));
    assert_eq!((a.stats.allocated, a.stats.reserved, a.source.segments.len()), (0, 0, 0));
    assert!(!addresses.contains(&a.alloc(1000).unwrap().address));
    let error = a.alloc(100 * MIB).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::OutOfMemory { requested, .. } if *requested == 100 * MIB));
}

#[test]
fn the_peak_starts_anew() {
    let mut a = allocator(100 * MIB);
    let (x, y) = (a.alloc(512).unwrap(), a.alloc(1024).unwrap());
    a.free(x);
    assert_eq!((a.stats().allocated, a.stats().peak_allocated), (1024, 1536));
    a.reset_peak();
    assert_eq!(a.stats().peak_allocated, 1024);
    a.free(y);
    assert_eq!((a.stats().allocated, a.stats().peak_allocated), (0, 1024));
}

/// Invariants between any two calls.
fn check(a: &Allocator<Fake>, live: &[(Allocation, usize)]) {
    // Blocks tile their segments: nothing overlaps, nothing is lost, no two free neighbors.
    let blocks: BTreeMap<u64, &blocks::Block> = a.blocks.all().map(|block| (block.address, block)).collect();
    let mut counted = 0;
    for (&start, &size) in &a.source.segments {
        let (mut at, mut previous_free) = (start, false);
        while at < start + size as u64 {
            let block = blocks.get(&at).expect("the next block of the segment");
            assert!(block.size > 0 && block.size.is_multiple_of(ROUND) && at.is_multiple_of(ALIGN));
            assert!(!(previous_free && block.free), "free neighbors are one block");
            previous_free = block.free;
            at += block.size as u64;
            counted += 1;
        }
        assert_eq!(at, start + size as u64);
    }
    assert_eq!(counted, blocks.len());
    // Blocks in use are those that were handed out, large enough, each once.
    let used: BTreeMap<u64, usize> = blocks.values().filter(|b| !b.free).map(|b| (b.address, b.size)).collect();
    assert_eq!(used.len(), live.len());
    for (allocation, bytes) in live {
        assert!(used[&allocation.address] >= *bytes);
    }
    assert_eq!(a.stats.allocated, used.values().sum::<usize>());
    assert_eq!(a.stats.reserved, a.source.segments.values().sum::<usize>());
    assert_eq!(a.stats.system_allocations, a.source.asked.iter().filter(|(_, granted)| *granted).count() as u64);
    assert!(a.stats.peak_allocated >= a.stats.allocated && a.stats.reserved <= a.source.capacity);
}

#[derive(Clone, Debug)]
enum Step {
    Alloc(usize),
    Free(prop::sample::Index),
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 1usize..5000, 2 => 1usize..3 * MIB, 1 => 1usize..40 * MIB];
    prop_oneof![
        10 => size.prop_map(Step::Alloc),
        8 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => Just(Step::Empty),
    ]
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_books(capacity in 1usize..200, steps in prop::collection::vec(step(), 1..200)) {
        let mut a = allocator(capacity * MIB);
        let mut live: Vec<(Allocation, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Alloc(bytes) => {
                    let size = bytes.next_multiple_of(ROUND);
                    let fit = a.blocks.all().filter(|b| b.free && b.class == Class::of(size) && b.size >= size)
                        .map(|b| b.size).min();
                    let before = a.source.asked.len();
                    match a.alloc(bytes) {
                        Ok(allocation) => {
                            if fit.is_some() {
                                prop_assert_eq!(a.source.asked.len(), before);
                            }
                            live.push((allocation, bytes));
                        }
                        Err(error) => {
                            let out_of_memory = matches!(error.kind(), ErrorKind::OutOfMemory { .. });
                            prop_assert!(out_of_memory && fit.is_none());
                            // All cached memory has been returned.
                            let wasted = a.blocks.all().any(|b| b.free && b.previous.is_none() && b.next.is_none());
                            prop_assert!(!wasted);
                        }
                    }
                }
                Step::Free(index) if !live.is_empty() => {
                    let at = index.index(live.len());
                    a.free(live.swap_remove(at).0);
                }
                Step::Free(_) => {}
                Step::Empty => a.empty_cache(),
            }
            check(&a, &live);
        }
        for (allocation, _) in live.drain(..) {
            a.free(allocation);
        }
        // Every segment is one block again.
        prop_assert_eq!(a.blocks.all().count(), a.source.segments.len());
        a.empty_cache();
        check(&a, &live);
        prop_assert_eq!((a.stats.reserved, a.source.segments.len()), (0, 0));
    }

    #[test]
    fn a_second_round_of_the_same_sizes_asks_nothing(sizes in prop::collection::vec(1usize..3 * MIB, 1..40)) {
        let mut a = allocator(1 << 40);
        let mut rounds = [0, 0];
        for round in &mut rounds {
            let blocks: Vec<_> = sizes.iter().map(|&size| a.alloc(size).unwrap()).collect();
            *round = a.stats.system_allocations;
            for block in blocks {
                a.free(block);
            }
        }
        prop_assert_eq!(rounds[0], rounds[1]);
    }
}
