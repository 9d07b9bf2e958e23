//! Writes outputs from contiguous slices of the compute type.

use std::{marker::PhantomData, ops::Range};

use super::{
    iter::Walk,
    tile::{TILE, Tile, load_row, steps, store_row},
};
use crate::{memory::view::Target, numeric::stored::Stored};

/// Accepts an output's elements as contiguous slices.
pub(crate) struct Writer<'a, T: Stored> {
    ptr: *mut T,
    walk: Walk,
    direct: bool,
    tile: Tile<T::Compute>,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T: Stored> Writer<'a, T> {
    /// Writes the output with its dimensions in the order `order`. Callers uphold the contract of [`new`](Writer::new).
    #[inline(always)]
    pub(super) fn ordered(target: &'a Target<'_, T>, order: Option<&[usize]>) -> Writer<'a, T> {
        let layout = target.layout();
        let walk = order.map_or_else(|| Walk::new(layout), |o| Walk::new(&layout.permute(o)));
        let direct = T::DIRECT && walk.is_contiguous();
        Writer { ptr: target.ptr(), walk, direct, tile: Tile::new(), memory: PhantomData }
    }

    /// Writes the output in row-major order.
    ///
    /// # Safety
    /// Writers of one target that exist at the same time are used for disjoint positions only, and nothing else
    /// accesses the target while they exist.
    #[inline(always)]
    pub(crate) unsafe fn new(target: &'a Target<'_, T>) -> Writer<'a, T> {
        Writer::ordered(target, None)
    }

    /// Writes the output with its dimensions in the order `order`.
    ///
    /// # Safety
    /// As for [`new`](Writer::new).
    #[inline(always)]
    pub(crate) unsafe fn in_order(target: &'a Target<'_, T>, order: &[usize]) -> Writer<'a, T> {
        Writer::ordered(target, Some(order))
    }

    /// Whether it accepts more than `TILE` elements at a time.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Lets `fill` write the elements at positions `range` (at most `TILE` of them unless it is direct). The slice's
    /// previous contents are unspecified.
    #[inline]
    pub(crate) fn put(&mut self, range: Range<usize>, fill: impl FnOnce(&mut [T::Compute])) {
        fill(self.slot(range.clone()));
        if !self.direct {
            self.commit(range);
        }
    }

    /// The slice to write the elements at positions `range` to.
    #[inline]
    fn slot(&mut self, range: Range<usize>) -> &mut [T::Compute] {
        let n = range.len();
        assert!(range.end <= self.walk.len(), "positions of the output");
        if self.direct {
            // SAFETY: the positions are inside the walk, whose elements lie inside the buffer; positions are
            // offsets here, `DIRECT` says that `Compute` is `T`, and no other writer has these positions.
            return unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start).cast::<T::Compute>(), n) };
        }
        self.tile.take(n)
    }

    /// Copies the contents of the tile to the output.
    #[inline(never)] // it is long, and every operation would get a copy
    fn commit(&mut self, range: Range<usize>) {
        let (mut done, ptr) = (0, self.ptr);
        let tile = self.tile.take(range.len());
        self.walk.rows(range, |offset, stride, len| {
            // SAFETY: the rows of the walk are elements of a checked layout (`slot` checked the positions), and
            // no other writer has these positions.
            unsafe { store_row(&tile[done..done + len], ptr.offset(offset), stride) };
            done += len;
        });
    }

    /// Like [`put`](Writer::put) for any number of elements, through `scratch` if need be.
    pub(crate) fn line(
        &mut self,
        range: Range<usize>,
        scratch: &mut Vec<T::Compute>,
        fill: impl FnOnce(&mut [T::Compute]),
    ) {
        if self.direct || range.len() <= TILE {
            return self.put(range, fill);
        }
        scratch.resize(range.len(), bytemuck::Zeroable::zeroed());
        fill(scratch);
        for (part, values) in steps(range, TILE).zip(scratch.chunks(TILE)) {
            self.put(part, |out| out.copy_from_slice(values));
        }
    }

    /// The current values of the elements at positions `range` (at most `TILE` of them), copied to `old`.
    #[inline]
    pub(super) fn read<'t>(&self, range: Range<usize>, old: &'t mut Tile<T::Compute>) -> &'t [T::Compute] {
        assert!(range.end <= self.walk.len(), "positions of the output");
        let old = old.take(range.len());
        let mut done = 0;
        self.walk.rows(range, |offset, stride, len| {
            // SAFETY: the rows of the walk are elements of a checked layout, and no other writer writes to them.
            unsafe { load_row(self.ptr.offset(offset).cast_const(), stride, &mut old[done..done + len]) };
            done += len;
        });
        old
    }
}
