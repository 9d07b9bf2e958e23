//! Copies between layouts and conversions between dtypes.

use bytemuck::Pod;
use kiln_backend::{Checked, CopyArgs, CopyBackend, Result};

use crate::{
    device::CpuBackend,
    engine::{
        elementwise::cast,
        iter::{Walk, memory_order},
        par::{self, GRAIN},
    },
    memory::view::{Input, Source, Target},
    numeric::dispatch::for_all,
};

impl CopyBackend for CpuBackend {
    fn copy(&self, args: Checked<CopyArgs>) -> Result<()> {
        const OP: &str = "copy";
        let CopyArgs { x, out } = args.into_inner();
        if x.dtype() == out.dtype() {
            return for_all!(x.dtype(), T => {
                let (x, out) = (Source::<T>::new(OP, x)?, Target::<T>::new(OP, out)?);
                move_elements(&x.bits(), &mut out.bits());
                Ok(())
            });
        }
        for_all!(x.dtype(), X => for_all!(out.dtype(), O => {
            let (x, mut out) = (Input::Tensor(Source::<X>::new(OP, x)?), Target::<O>::new(OP, out)?);
            cast(GRAIN, &x, &mut out);
            Ok(())
        }))
    }
}

/// One loop of the joint nest of a source and an output.
#[derive(Clone, Copy)]
struct Loop {
    extent: usize,
    from: isize,
    to: isize,
}

/// The loops over both tensors, the output's smallest stride innermost; dimensions are merged where both layouts allow
/// it.
fn nest<T>(x: &Source<T>, out: &Target<T>) -> Vec<Loop> {
    let order = memory_order(out.layout());
    let mut loops: Vec<Loop> = Vec::with_capacity(order.len());
    for &dim in &order[..out.layout().rank()] {
        let extent = out.layout().dims()[dim];
        let (from, to) = (x.layout().strides()[dim], out.layout().strides()[dim]);
        let regular = |o: &&mut Loop| o.from == from * extent as isize && o.to == to * extent as isize;
        if extent == 1 {
        } else if let Some(outer) = loops.last_mut().filter(regular) {
            *outer = Loop { extent: outer.extent * extent, from, to };
        } else {
            loops.push(Loop { extent, from, to });
        }
    }
    loops
}

/// Copies between tensors of the same shape and type.
fn move_elements<T: Pod + Send + Sync>(x: &Source<T>, out: &mut Target<T>) {
    if out.numel() == 0 {
        return;
    }
    let mut loops = nest(x, out);
    let inner = loops.pop().unwrap_or(Loop { extent: 1, from: 1, to: 1 });
    // A dimension along which the source is contiguous while the output is not: a transpose.
    let across =
        loops.iter().rposition(|l| l.from == 1).filter(|_| inner.to == 1 && inner.from != 1 && inner.from != 0);
    let rows = across.map_or(Loop { extent: 1, from: 0, to: 0 }, |at| loops.remove(at));
    let outer_from = Walk::of(loops.iter().map(|l| (l.extent, l.from)));
    let outer_to = Walk::of(loops.iter().map(|l| (l.extent, l.to)));

    // A unit is a block of rows and columns at one outer position.
    let row_block = if across.is_some() { BLOCK } else { 1 };
    let column_block = if across.is_some() { 8 * BLOCK } else { GRAIN };
    let row_blocks = rows.extent.div_ceil(row_block);
    let column_blocks = inner.extent.div_ceil(column_block);
    let units = outer_to.len() * row_blocks * column_blocks;
    let unit_size = out.numel().div_ceil(units);
    let out = &*out;
    par::ranges(units, par::row_grain(unit_size), |range| {
        for unit in range {
            let (rest, column) = (unit / column_blocks, unit % column_blocks * column_block);
            let (outer, row) = (rest / row_blocks, rest % row_blocks * row_block);
            let block = Block {
                rows: row_block.min(rows.extent - row),
                columns: column_block.min(inner.extent - column),
                from: [rows.from, inner.from],
                to: [rows.to, inner.to],
            };
            let from = outer_from.offset(outer) + row as isize * rows.from + column as isize * inner.from;
            let to = outer_to.offset(outer) + row as isize * rows.to + column as isize * inner.to;
            // SAFETY: the block is a part of both layouts, which have one shape and were checked; units are
            // disjoint, so no other thread accesses this part of the output.
            unsafe { block.copy(x.ptr().offset(from), out.ptr().offset(to)) };
        }
    });
}

/// Side of a block of the blocked transpose: it touches at most 32 cache lines of either tensor.
const BLOCK: usize = 32;

/// A matrix to copy, with the strides of its two dimensions in the source and in the output.
struct Block {
    rows: usize,
    columns: usize,
    from: [isize; 2],
    to: [isize; 2],
}

impl Block {
    /// # Safety
    /// All elements can be read at `from` and written at `to`.
    unsafe fn copy<T: Pod>(&self, from: *const T, to: *mut T) {
        let at = |p: isize, step: isize, i: usize| p + step * i as isize;
        if self.rows == 1 && self.from[1] == 1 && self.to[1] == 1 {
            // SAFETY: the caller's promise; an output overlaps no input.
            unsafe { std::ptr::copy_nonoverlapping(from, to, self.columns) };
        } else if self.from[0] == 1 && self.to[1] == 1 && self.rows == BLOCK {
            for column in (0..self.columns).step_by(BLOCK) {
                let columns = BLOCK.min(self.columns - column);
                let (from, to) = (from.wrapping_offset(at(0, self.from[1], column)), to.wrapping_add(column));
                if columns == BLOCK {
                    // SAFETY: a whole square of the block.
                    unsafe { transpose(from, self.from[1], to, self.to[0]) };
                } else {
                    let rest = Block { columns, ..*self };
                    // SAFETY: the last columns of the block.
                    unsafe { rest.copy_each(from, to) };
                }
            }
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.copy_each(from, to) };
        }
    }

    /// # Safety
    /// As for [`copy`](Block::copy).
    unsafe fn copy_each<T: Pod>(&self, from: *const T, to: *mut T) {
        for row in 0..self.rows as isize {
            let (from, to) = (from.wrapping_offset(row * self.from[0]), to.wrapping_offset(row * self.to[0]));
            for column in 0..self.columns as isize {
                // SAFETY: the caller's promise.
                unsafe { to.offset(column * self.to[1]).write(from.offset(column * self.from[1]).read()) };
            }
        }
    }
}

/// Transposes a square of `BLOCK` elements a side: row `r` of the output is at `to + r * to_step`, its element
/// `c` at `from + r + c * from_step`. Both sides are accessed in whole cache lines.
///
/// # Safety
/// All elements can be read and written.
unsafe fn transpose<T: Pod>(from: *const T, from_step: isize, to: *mut T, to_step: isize) {
    let mut square = [[T::zeroed(); BLOCK]; BLOCK];
    // Squares of `EDGE` a side fit in registers.
    for c in (0..BLOCK).step_by(EDGE) {
        for r in (0..BLOCK).step_by(EDGE) {
            let small: [[T; EDGE]; EDGE] = std::array::from_fn(|i| {
                // SAFETY: the caller's promise: `EDGE` elements from here on.
                unsafe { from.offset((c + i) as isize * from_step).add(r).cast::<[T; EDGE]>().read() }
            });
            for (i, line) in square[r..r + EDGE].iter_mut().enumerate() {
                line[c..c + EDGE].copy_from_slice(&small.each_ref().map(|column| column[i]));
            }
        }
    }
    for (r, line) in square.iter().enumerate() {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(line.as_ptr(), to.offset(r as isize * to_step), BLOCK) };
    }
}

/// Side of the squares that are transposed in registers.
const EDGE: usize = 4;
