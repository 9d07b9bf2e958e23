//! Packing for the register kernels of matrix products, and products of what is packed.

use kiln_backend::Result;

use super::{compute::Compute, problem::Element};
use crate::{
    gemm::{
        Matrix,
        kernel::{Kernel, PackArgs, TileArgs},
        pack,
    },
    memory::allocator::Scratch,
    numeric::real::Real,
};

/// How far ahead the lanes are prefetched: elements of a packed panel, or steps where a panel is read in place.
const LANES_AHEAD: isize = 256;
const STEPS_AHEAD: isize = 12;

/// Rows for one call of the tile kernel.
#[derive(Clone, Copy)]
pub(super) struct RowTile<C> {
    pub start: *const C,
    pub rows: usize,
    /// The rows of the kernel that computes them.
    pub height: usize,
    /// Element (row, step) at `step * height + row`, otherwise at `row * lda + step`.
    pub is_kmajor: bool,
}

/// The lanes of the right operand.
#[derive(Clone, Copy)]
pub(super) enum Lanes<C> {
    /// As [`pack_lanes`] leaves them: where they begin, how many lanes and steps were packed.
    Packed(*const C, usize, usize),
    /// One row for each step, at this distance.
    InPlace(*const C, usize),
}

/// Where a product goes: rows `pitch` apart, with room for lanes rounded up to whole vectors.
#[derive(Clone, Copy)]
pub(super) struct To<C> {
    pub start: *mut C,
    pub pitch: usize,
    pub accumulate: bool,
}

/// Lanes of a panel.
pub(super) fn panel<C>(kern: &Kernel<C>) -> usize {
    2 * kern.lanes
}

/// A number of lanes, rounded up to whole vectors.
pub(super) fn whole<C>(kern: &Kernel<C>, lanes: usize) -> usize {
    lanes.next_multiple_of(kern.lanes)
}

/// A number of rows, with those that the last tile computes beyond them.
pub(super) fn tiled<C>(kern: &Kernel<C>, rows: usize) -> usize {
    let last = rows % kern.mr;
    if last == 0 { rows } else { rows - last + kern.height(last) }
}

/// Packs lanes into panels.
///
/// # Safety
/// `lanes` times `steps` elements of the matrix can be read, where lanes are its rows or, if `along_columns`, its columns, and
/// `steps` times the [whole] lanes can be written to `to`.
pub(super) unsafe fn pack_lanes<S: Element>(
    kern: &Kernel<S::Compute>,
    matrix: Matrix<*const S>,
    along_columns: bool,
    lanes: usize,
    steps: usize,
    to: *mut S::Compute,
) {
    if lanes == 0 {
        return;
    }
    let Matrix { start, row_stride, column_stride } = matrix;
    let (step, lane) = if along_columns { (row_stride, column_stride) } else { (column_stride, row_stride) };
    // SAFETY: the caller's promise.
    unsafe { pack::pack_lanes(kern, start, steps, lanes, step, lane, to) }
}

/// Packs rows, times a factor, as k-major tiles one after the other: the one that begins at row `i` begins at `i * steps`. Rows
/// that the last tile computes beyond those that exist become 0.
///
/// # Safety
/// `rows` times `steps` elements of the matrix can be read, and `steps` times the [tiled] rows can be written to `to`.
pub(super) unsafe fn pack_rows<S: Element>(
    kern: &Kernel<S::Compute>,
    matrix: Matrix<*const S>,
    rows: usize,
    steps: usize,
    factor: S::Compute,
    to: *mut S::Compute,
) {
    let Matrix { start, row_stride, column_stride } = matrix;
    for first in (0..rows).step_by(kern.mr) {
        let count = kern.mr.min(rows - first);
        let height = kern.height(count);
        // SAFETY: rows that the caller has promised, and their tile.
        let (from, to) = unsafe {
            let to = to.add(first * steps);
            (start.offset(first as isize * row_stride), core::slice::from_raw_parts_mut(to, height * steps))
        };
        if S::SAME && row_stride == 1 {
            // SAFETY: as above; S is the compute type.
            unsafe {
                (kern.pack_lanes)(&PackArgs {
                    src: from.cast(),
                    k: steps,
                    lanes: count,
                    k_stride: column_stride,
                    lane_stride: 1,
                    dst: to.as_mut_ptr(),
                    panel: height,
                    last: height,
                });
            }
            super::rows::scale(factor, to);
            continue;
        }
        if count < height {
            to.fill(S::Compute::of(0.0));
        }
        for (step, to) in to.chunks_exact_mut(height).enumerate() {
            for (row, to) in to[..count].iter_mut().enumerate() {
                // SAFETY: an element of the rows.
                let x = unsafe { from.offset(row as isize * row_stride + step as isize * column_stride).read() };
                *to = x.load() * factor;
            }
        }
    }
}

/// Scores as the rows of the next product. Kernels that read no such rows get them k-major, in `room`.
///
/// # Safety
/// `rows` rows of `steps` scores, `lda` apart, can be read, or as many as the kernel computes, and `room` has `steps` times the
/// rows of the kernel.
pub(super) unsafe fn scores_as_rows<C: Compute>(
    kern: &Kernel<C>,
    scores: *const C,
    rows: usize,
    steps: usize,
    room: *mut C,
) -> RowTile<C> {
    let height = kern.height(rows);
    if kern.row_major {
        return RowTile { start: scores, rows, height, is_kmajor: false };
    }
    for row in 0..rows {
        for step in 0..steps {
            // SAFETY: the caller's promise.
            unsafe { *room.add(step * height + row) = *scores.add(row * kern.lda + step) };
        }
    }
    RowTile { start: room, rows, height, is_kmajor: true }
}

/// The product of a tile of rows and `lanes` lanes over `steps` steps.
///
/// # Safety
/// The operands can be read in these extents, and `to` written.
pub(super) unsafe fn multiply<C: Compute>(
    kern: &Kernel<C>,
    steps: usize,
    a: RowTile<C>,
    b: Lanes<C>,
    lanes: usize,
    to: To<C>,
) {
    for lane in (0..lanes).step_by(panel(kern)) {
        // SAFETY: the caller's promise.
        unsafe { multiply_panel(kern, steps, a, b, lane, lanes, to) }
    }
}

/// The product of packed rows, all tiles of them, and `lanes` lanes over `steps` steps, a panel at a time, so that it stays in
/// the L1 cache for all tiles. The tiles have `packed` steps, of which `skip` come before those of the product.
///
/// # Safety
/// The operands can be read in these extents, and `to` written.
pub(super) unsafe fn multiply_tiles<C: Compute>(
    kern: &Kernel<C>,
    steps: usize,
    (tiles, rows, packed, skip): (*const C, usize, usize, usize),
    b: Lanes<C>,
    lanes: usize,
    to: To<C>,
) {
    for lane in (0..lanes).step_by(panel(kern)) {
        for first in (0..rows).step_by(kern.mr) {
            let count = kern.mr.min(rows - first);
            let height = kern.height(count);
            let start = tiles.wrapping_add(first * packed + skip * height);
            let a = RowTile { start, rows: count, height, is_kmajor: true };
            let to = To { start: to.start.wrapping_add(first * to.pitch), ..to };
            // SAFETY: the caller's promise.
            unsafe { multiply_panel(kern, steps, a, b, lane, lanes, to) }
        }
    }
}

/// # Safety
/// As for [`multiply`], of which this is the panel that begins at `lane`.
unsafe fn multiply_panel<C: Compute>(
    kern: &Kernel<C>,
    steps: usize,
    a: RowTile<C>,
    b: Lanes<C>,
    lane: usize,
    lanes: usize,
    to: To<C>,
) {
    let width = |lanes: usize| if lanes - lane <= kern.lanes { kern.lanes } else { panel(kern) };
    let (b, b_rs, b_ahead) = match b {
        Lanes::Packed(start, all, packed) => (start.wrapping_add(lane * packed), width(all) as isize, LANES_AHEAD),
        Lanes::InPlace(start, pitch) => (start.wrapping_add(lane), pitch as isize, STEPS_AHEAD * pitch as isize),
    };
    let args = TileArgs {
        k: steps,
        rows: a.rows,
        height: a.height,
        vectors: width(lanes) / kern.lanes,
        a: a.start,
        a_kmajor: a.is_kmajor,
        a_row: kern.lda as isize,
        a_next: a.start.cast(),
        a_next_row: 0,
        b,
        b_rs,
        b_ahead,
        b_copy: core::ptr::null_mut(),
        c: to.start.wrapping_add(lane),
        c_rs: to.pitch as isize,
        cols: width(lanes),
        load_c: to.accumulate,
        bias: core::ptr::null(),
        bias_on_rows: false,
        relu: false,
    };
    // SAFETY: the caller's promise; whole vectors of lanes are read and written.
    unsafe { (kern.tile)(&args) }
}

/// Working memory of a task, cut into parts that begin at cache lines.
pub(super) struct Room<C: Compute> {
    /// Keeps the memory.
    _memory: Scratch<C>,
    start: *mut C,
    len: usize,
    used: usize,
}

impl<C: Compute> Room<C> {
    /// The length of a part with what lies between it and the next one.
    fn padded(len: usize) -> usize {
        const LINE: usize = 64;
        // A line more than needed, so that equal parts do not map to the same sets of a cache.
        len.next_multiple_of(LINE / size_of::<C>()).saturating_add(LINE / size_of::<C>())
    }

    /// Memory for parts of these lengths.
    pub fn new(parts: &[usize]) -> Result<Room<C>> {
        let len = parts.iter().fold(0usize, |sum, &len| sum.saturating_add(Self::padded(len)));
        let mut memory = Scratch::new(len)?;
        let start = memory.values().as_mut_ptr();
        Ok(Room { _memory: memory, start, len, used: 0 })
    }

    /// The next part, which is valid as long as the room.
    pub fn take(&mut self, len: usize) -> *mut C {
        let at = self.used;
        self.used += Self::padded(len);
        assert!(self.used <= self.len, "parts of working memory");
        self.start.wrapping_add(at)
    }
}
