//! The caching allocator's blocks: free lists by size with best fit, splitting, and merging of free neighbors.

use std::collections::BTreeSet;

use super::{pool::Pool, size_class::Class};

/// A block's index in [`Blocks`].
pub(super) type Id = u32;

/// A piece of a segment. The blocks of a segment form a chain in address order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) address: u64,
    pub(super) size: usize,
    pub(super) class: Class,
    /// Who may use it: a segment's blocks are all of one pool.
    pub(super) pool: Pool,
    pub(super) free: bool,
    pub(super) previous: Option<Id>,
    pub(super) next: Option<Id>,
}

/// All blocks of a device.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// `None` where a block was merged into another; the slot is reused.
    blocks: Vec<Option<Block>>,
    vacant: Vec<Id>,
    /// Free blocks by pool, size and then address, so that the first one of a pool that is large enough is the best fit
    /// and, among several, has the lowest address.
    small: BTreeSet<(Pool, usize, u64, Id)>,
    large: BTreeSet<(Pool, usize, u64, Id)>,
}

impl Blocks {
    fn free_list(&mut self, class: Class) -> &mut BTreeSet<(Pool, usize, u64, Id)> {
        match class {
            Class::Small => &mut self.small,
            Class::Large => &mut self.large,
        }
    }

    fn get(&mut self, id: Id) -> &mut Block {
        // Only `insert` makes ids, and they die with their block: the chain and the free list drop them.
        self.blocks[id as usize].as_mut().expect("the id of a block that exists")
    }

    fn insert(&mut self, block: Block) -> Id {
        match self.vacant.pop() {
            Some(id) => {
                self.blocks[id as usize] = Some(block);
                id
            }
            None => {
                self.blocks.push(Some(block));
                (self.blocks.len() - 1) as Id
            }
        }
    }

    fn remove(&mut self, id: Id) -> Block {
        let block = *self.get(id);
        self.blocks[id as usize] = None;
        self.vacant.push(id);
        block
    }

    fn list(&mut self, id: Id) {
        let block = *self.get(id);
        self.free_list(block.class).insert((block.pool, block.size, block.address, id));
    }

    fn unlist(&mut self, id: Id) {
        let block = *self.get(id);
        self.free_list(block.class).remove(&(block.pool, block.size, block.address, id));
    }

    /// The smallest free block of a pool of at least `size` bytes.
    pub(super) fn best_fit(&mut self, pool: Pool, class: Class, size: usize) -> Option<Id> {
        let (from, to) = ((pool, size, 0, 0), (pool, usize::MAX, u64::MAX, Id::MAX));
        self.free_list(class).range(from..=to).next().map(|&(_, _, _, id)| id)
    }

    /// The free blocks of the common pool.
    fn common_free(&self) -> impl Iterator<Item = (usize, Id)> + '_ {
        let to = (Pool::COMMON, usize::MAX, u64::MAX, Id::MAX);
        [&self.small, &self.large]
            .into_iter()
            .flat_map(move |list| list.range(..=to))
            .map(|&(_, size, _, id)| (size, id))
    }

    pub(super) fn largest_free(&self) -> usize {
        self.common_free().map(|(size, _)| size).max().unwrap_or(0)
    }

    /// Moves all blocks of a pool to the common pool, also those in use.
    pub(super) fn retire(&mut self, pool: Pool) {
        let of_pool =
            |(at, block): (usize, &Option<Block>)| Some((at as Id, block.filter(|block| block.pool == pool)?.free));
        let all: Vec<(Id, bool)> = self.blocks.iter().enumerate().filter_map(of_pool).collect();
        for (id, free) in all {
            if free {
                self.unlist(id);
            }
            self.get(id).pool = Pool::COMMON;
            if free {
                self.list(id);
            }
        }
    }

    /// A new segment, as one free block.
    pub(super) fn add_segment(&mut self, pool: Pool, class: Class, address: u64, size: usize) -> Id {
        let id = self.insert(Block { address, size, class, pool, free: true, previous: None, next: None });
        self.list(id);
        id
    }

    /// Takes a free block for `size` bytes. The remainder becomes a free block if it has at least `least_rest` bytes.
    pub(super) fn take(&mut self, id: Id, size: usize, least_rest: usize) -> Block {
        self.unlist(id);
        let block = *self.get(id);
        if block.size - size >= least_rest {
            let rest = self.insert(Block {
                address: block.address + size as u64,
                size: block.size - size,
                class: block.class,
                pool: block.pool,
                free: true,
                previous: Some(id),
                next: block.next,
            });
            if let Some(next) = block.next {
                self.get(next).previous = Some(rest);
            }
            let block = self.get(id);
            (block.size, block.next) = (size, Some(rest));
            self.list(rest);
        }
        let block = self.get(id);
        block.free = false;
        *block
    }

    /// Frees a block and merges it with free neighbors.
    pub(super) fn release(&mut self, id: Id) {
        let block = self.get(id);
        block.free = true;
        let Block { previous, next, .. } = *block;
        let mut first = id;
        if let Some(previous) = previous.filter(|&previous| self.get(previous).free) {
            self.unlist(previous);
            self.absorb_next(previous);
            first = previous;
        }
        if let Some(next) = next.filter(|&next| self.get(next).free) {
            self.unlist(next);
            self.absorb_next(first);
        }
        self.list(first);
    }

    /// Merges a block with the one after it.
    fn absorb_next(&mut self, id: Id) {
        let Some(next) = self.get(id).next else { return };
        let next = self.remove(next);
        let block = self.get(id);
        block.size += next.size;
        block.next = next.next;
        if let Some(after) = next.next {
            self.get(after).previous = Some(id);
        }
    }

    /// Removes every segment of the common pool that is one free block, and returns their addresses and sizes.
    pub(super) fn remove_free_segments(&mut self) -> Vec<(u64, usize)> {
        let listed: Vec<Id> = self.common_free().map(|(_, id)| id).collect();
        let mut segments = Vec::new();
        for id in listed {
            let block = *self.get(id);
            if block.previous.is_none() && block.next.is_none() {
                self.unlist(id);
                self.remove(id);
                segments.push((block.address, block.size));
            }
        }
        segments
    }

    /// Every block, in no particular order.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().flatten()
    }
}
