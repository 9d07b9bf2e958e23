//! `index_add` and `scatter_add` in half precision: sums are accumulated in `f32` and rounded once.
//!
//! Adding in `f16` or `bf16` loses terms: 2048 + 1 is 2048. Each part of the scatter therefore goes over its indices
//! three times: elements that will be added to are loaded into an `f32` buffer, the sums are formed there, and stored.
//! The buffer spans some columns of the part only and elements that no index names are not touched, so that the memory
//! stays small however large the output is.

use super::{
    grid::{FAR, Grid, INDEX, NEAR},
    parts::{Part, Shared, SharedMut, divide},
};
use crate::{
    engine::tile::{load, steps, store},
    numeric::stored::Stored,
};

/// Target size of a part's buffer, in elements: 1 MiB.
const BUFFER: usize = 1 << 18;
/// The fewest and the most columns that are added up together.
const COLUMNS: (usize, usize) = (32, 512);

/// Adds `near` to `far`.
///
/// # Safety
/// For the positions of the grid, `index` and `near` are readable, and `far` is readable and writable with the indices
/// that are found there, which are below `size`.
pub(super) unsafe fn add_grid<T: Stored<Compute = f32>>(
    grid: &Grid,
    index: *const i64,
    near: *const T,
    far: *mut T,
    size: usize,
) {
    let (index, near, far) = (Shared(index), Shared(near), SharedMut(far));
    divide(grid, size, &|Part { outer, columns, own }| {
        let width = (BUFFER / own.len().max(1)).clamp(COLUMNS.0, COLUMNS.1).min(columns.len());
        // The allocator hands out zeros that take no memory until they are written.
        let mut sums = vec![0f32; own.len() * width];
        for columns in steps(columns, width) {
            let start = grid.start(outer, columns.start);
            // SAFETY: by the caller's promise; positions of the grid.
            let block = unsafe {
                Block {
                    index: index.get().offset(start[INDEX]),
                    near: near.get().offset(start[NEAR]),
                    far: far.get().offset(start[FAR]),
                    grid,
                    first: own.start,
                    end: own.end,
                    width: columns.len(),
                }
            };
            // SAFETY: as above; parts own disjoint elements of `far`, and `near` is none of them.
            unsafe { block.add(&mut sums) };
        }
    });
}

/// Some columns of a part.
struct Block<'a, T> {
    index: *const i64,
    near: *const T,
    far: *mut T,
    grid: &'a Grid,
    /// The indices that it owns.
    first: usize,
    end: usize,
    width: usize,
}

impl<T: Stored<Compute = f32>> Block<'_, T> {
    /// # Safety
    /// As [`add_grid`]; nobody else accesses the elements of `far` that the block owns.
    unsafe fn add(&self, sums: &mut [f32]) {
        let [ji, jn, jf] = self.grid.inner_strides;
        if self.width == 1 || (ji, jn, jf) != (0, 1, 1) {
            // SAFETY: the caller's promise.
            unsafe {
                self.elements(|at, _, far| sums[at] = far.read().load());
                self.elements(|at, near, _| sums[at] += near.read().load());
                self.elements(|at, _, far| far.write(T::store(sums[at])));
            }
            return;
        }
        let (mut terms, n) = ([0f32; COLUMNS.1], self.width);
        // SAFETY: the caller's promise; columns lie side by side.
        unsafe {
            self.rows(|at, _, far| load(std::slice::from_raw_parts(far, n), &mut sums[at..at + n]));
            self.rows(|at, near, _| {
                load(std::slice::from_raw_parts(near, n), &mut terms[..n]);
                sums[at..at + n].iter_mut().zip(&terms).for_each(|(sum, term)| *sum += term);
            });
            self.rows(|at, _, far| store(&sums[at..at + n], std::slice::from_raw_parts_mut(far, n)));
        }
    }

    /// Calls `body` for all rows whose index the block owns, in order, with the place of the sums and the first element
    /// of each operand; the index is the same in all columns.
    ///
    /// # Safety
    /// As [`add_grid`].
    unsafe fn rows(&self, mut body: impl FnMut(usize, *const T, *mut T)) {
        let [di, dn, df] = self.grid.dim_strides;
        for i in 0..self.grid.len as isize {
            // SAFETY: the caller's promise.
            unsafe {
                let to = self.index.offset(i * di).read() as usize;
                if (self.first..self.end).contains(&to) {
                    body((to - self.first) * self.width, self.near.offset(i * dn), self.far.offset(to as isize * df));
                }
            }
        }
    }

    /// [`rows`](Block::rows) element by element, each with its own index.
    ///
    /// # Safety
    /// As [`add_grid`].
    unsafe fn elements(&self, mut body: impl FnMut(usize, *const T, *mut T)) {
        let ([di, dn, df], [ji, jn, jf]) = (self.grid.dim_strides, self.grid.inner_strides);
        for i in 0..self.grid.len as isize {
            for j in 0..self.width as isize {
                // SAFETY: the caller's promise.
                unsafe {
                    let to = self.index.offset(i * di + j * ji).read() as usize;
                    if (self.first..self.end).contains(&to) {
                        let at = (to - self.first) * self.width + j as usize;
                        body(at, self.near.offset(i * dn + j * jn), self.far.offset(to as isize * df + j * jf));
                    }
                }
            }
        }
    }
}
