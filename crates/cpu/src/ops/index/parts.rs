//! How the work of `index_add` and `scatter` is divided among threads, so that each writes elements of its own.

use std::ops::Range;

use super::grid::Grid;
use crate::engine::par;

/// A part of a scatter: one outer position, some columns, and the indices in `own`. Parts write disjoint elements.
pub(super) struct Part {
    pub(super) outer: usize,
    pub(super) columns: Range<usize>,
    pub(super) own: Range<usize>,
}

/// Calls `body` for parts that cover a scatter, in parallel. Where there are few outer positions and columns, parts own
/// ranges of indices; then each reads all indices and skips those of others.
pub(super) fn divide(grid: &Grid, size: usize, body: &(dyn Fn(Part) + Sync)) {
    if grid.numel() == 0 {
        return;
    }
    let threads = if grid.numel() > par::GRAIN { rayon::current_num_threads() } else { 1 };
    let share = threads.div_ceil(grid.outer_len());
    let (pieces, owners) =
        if grid.inner >= share * NARROW { (Pieces(share), Pieces(1)) } else { (Pieces(1), Pieces(share.min(size))) };
    let tasks = grid.outer_len() * pieces.0 * owners.0;
    par::ranges(tasks, tasks.div_ceil(threads * 4), |range| {
        for task in range {
            let (block, own) = (task / owners.0, owners.of(size, task % owners.0));
            body(Part { outer: block / pieces.0, columns: pieces.of(grid.inner, block % pieces.0), own });
        }
    });
}

/// Fewer columns than this are not split.
const NARROW: usize = 256;

/// A division into a number of equal pieces.
#[derive(Clone, Copy)]
pub(super) struct Pieces(pub(super) usize);

impl Pieces {
    pub(super) fn of(self, n: usize, piece: usize) -> Range<usize> {
        let size = n.div_ceil(self.0);
        (piece * size).min(n)..((piece + 1) * size).min(n)
    }
}

/// A pointer that several threads read through.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(pub(super) *const T);

impl<T> Shared<T> {
    pub(super) fn get(&self) -> *const T {
        self.0
    }
}

/// A pointer that several threads write through, each to elements of its own.
#[derive(Clone, Copy)]
pub(super) struct SharedMut<T>(pub(super) *mut T);

impl<T> SharedMut<T> {
    pub(super) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: it stands for an exclusive borrow whose users write disjoint elements.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

// SAFETY: it stands for a shared borrow of memory that outlives the parallel region it is used in.
unsafe impl<T: Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Shared<T> {}
