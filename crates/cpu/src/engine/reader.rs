//! Reads operands as contiguous slices of the compute type.

use std::{marker::PhantomData, ops::Range};

use super::{
    iter::Walk,
    tile::{TILE, Tile, load_row, steps},
};
use crate::{
    memory::view::{Input, Source},
    numeric::{
        convert::{Destination, convert},
        stored::Stored,
    },
};

#[derive(Clone, Copy, PartialEq)]
enum Path {
    /// The kernel reads the memory itself.
    Direct,
    /// The tile holds the same number throughout.
    Constant,
    /// Elements are copied through the tile.
    Staged,
}

impl Path {
    fn of<T: Stored>(walk: &Walk) -> Path {
        if T::DIRECT && walk.is_contiguous() {
            Path::Direct
        } else if walk.is_constant() {
            Path::Constant
        } else {
            Path::Staged
        }
    }
}

/// Provides an operand's elements as contiguous slices.
pub(crate) struct Reader<'a, T: Stored> {
    ptr: *const T,
    walk: Walk,
    path: Path,
    /// The value, if the operand is a number.
    number: Option<T::Compute>,
    tile: Tile<T::Compute>,
    memory: PhantomData<&'a [T]>,
}

impl<'a, T: Stored> Reader<'a, T> {
    /// Reads the operand with its dimensions in the order `order`.
    #[inline(always)]
    pub(crate) fn ordered(input: &'a Input<'_, T>, order: Option<&[usize]>) -> Reader<'a, T> {
        let (ptr, walk, number) = match input {
            Input::Tensor(source) => {
                let layout = source.layout();
                (source.ptr(), order.map_or_else(|| Walk::new(layout), |o| Walk::new(&layout.permute(o))), None)
            }
            // Read through the pointer only if `DIRECT`, where `Compute` is `T`.
            Input::Constant(value) => {
                (std::ptr::from_ref(value).cast(), Walk::of([(usize::MAX, 0)].into_iter()), Some(*value))
            }
        };
        let path = Path::of::<T>(&walk);
        Reader { ptr, walk, path, number, tile: Tile::new(), memory: PhantomData }
    }

    /// Reads the elements of a source that `walk` visits.
    ///
    /// # Safety
    /// The walk visits elements of the source's layout only.
    #[inline(always)]
    pub(crate) unsafe fn over(source: &Source<'a, T>, walk: Walk) -> Reader<'a, T> {
        let path = Path::of::<T>(&walk);
        Reader { ptr: source.ptr(), walk, path, number: None, tile: Tile::new(), memory: PhantomData }
    }

    /// Reads the operand in row-major order.
    #[inline(always)]
    pub(crate) fn new(input: &'a Input<'_, T>) -> Reader<'a, T> {
        Reader::ordered(input, None)
    }

    /// The elements at positions `range` without a copy, if they have the compute type and are contiguous.
    #[inline]
    pub(crate) fn memory(&self, range: Range<usize>) -> Option<&'a [T::Compute]> {
        let run = self.walk.run_from(range.start)?;
        if !T::DIRECT || run < range.len() || range.end > self.walk.len() {
            return None;
        }
        // SAFETY: the positions are inside the walk, whose elements lie inside the buffer and are contiguous; `DIRECT`
        // says that `Compute` is `T`.
        unsafe {
            let first = self.ptr.offset(self.walk.offset(range.start)).cast::<T::Compute>();
            Some(std::slice::from_raw_parts(first, range.len()))
        }
    }

    /// The elements at positions `range`, any number of them, by way of `scratch` if necessary.
    pub(crate) fn line<'s>(&'s mut self, range: Range<usize>, scratch: &'s mut Vec<T::Compute>) -> &'s [T::Compute] {
        if let Some(memory) = self.memory(range.clone()) {
            return memory;
        }
        if range.len() <= TILE {
            return self.get(range);
        }
        scratch.clear();
        for part in steps(range, TILE) {
            scratch.extend_from_slice(self.get(part));
        }
        scratch
    }

    /// Whether [`get`](Reader::get) accepts more than `TILE` elements at a time.
    pub(crate) fn is_direct(&self) -> bool {
        self.path == Path::Direct
    }

    /// The elements at positions `range` (at most `TILE` of them unless [`is_direct`](Reader::is_direct)).
    #[inline(never)] // it is long, and every operation would get a copy
    pub(crate) fn get(&mut self, range: Range<usize>) -> &[T::Compute] {
        let n = range.len();
        assert!(range.end <= self.walk.len(), "positions of the operand");
        match self.path {
            // SAFETY: the positions are inside the walk, whose elements lie inside the buffer; positions are
            // offsets here. `DIRECT` says that `Compute` is `T`.
            Path::Direct => unsafe { std::slice::from_raw_parts(self.ptr.add(range.start).cast::<T::Compute>(), n) },
            Path::Constant => {
                if n > self.tile.ready {
                    let value = match self.number {
                        Some(number) => number,
                        // SAFETY: the walk has positions, so its first element can be read.
                        None => unsafe { self.ptr.read() }.load(),
                    };
                    self.tile.take(n).fill(value);
                }
                self.tile.take(n)
            }
            Path::Staged => {
                let tile = self.tile.take(n);
                let mut filled = 0;
                let ptr = self.ptr;
                self.walk.rows(range, |offset, stride, len| {
                    let to = &mut tile[filled..filled + len];
                    // SAFETY: the rows of the walk are elements of a checked layout.
                    unsafe { load_row(ptr.offset(offset), stride, to) };
                    filled += len;
                });
                tile
            }
        }
    }
}

/// A source of elements in their compute type, however they are stored, for engines that are not compiled for every
/// stored type.
pub(crate) trait Elements<C> {
    /// The elements at positions `range`, if available without a copy.
    fn memory(&self, range: Range<usize>) -> Option<&[C]>;
    /// The elements at positions `range`, at most `TILE`.
    fn get(&mut self, range: Range<usize>) -> &[C];
    /// Copies the elements at positions `range`, at most `TILE`.
    fn fill(&mut self, range: Range<usize>, out: &mut [C]);
}

impl<T: Stored> Elements<T::Compute> for Reader<'_, T> {
    fn memory(&self, range: Range<usize>) -> Option<&[T::Compute]> {
        Reader::memory(self, range)
    }

    fn get(&mut self, range: Range<usize>) -> &[T::Compute] {
        Reader::get(self, range)
    }

    fn fill(&mut self, range: Range<usize>, out: &mut [T::Compute]) {
        out.copy_from_slice(Reader::get(self, range));
    }
}

/// A reader whose elements are converted to another type.
pub(crate) struct Converted<'a, T: Stored, O: Destination> {
    pub(crate) reader: Reader<'a, T>,
    pub(crate) tile: [O::Compute; TILE],
}

impl<T: Stored, O: Destination> Elements<O::Compute> for Converted<'_, T, O> {
    fn memory(&self, _: Range<usize>) -> Option<&[O::Compute]> {
        None
    }

    fn get(&mut self, range: Range<usize>) -> &[O::Compute] {
        let n = range.len();
        convert::<T::Compute, O>(self.reader.get(range), &mut self.tile[..n]);
        &self.tile[..n]
    }

    fn fill(&mut self, range: Range<usize>, out: &mut [O::Compute]) {
        convert::<T::Compute, O>(self.reader.get(range), out);
    }
}
