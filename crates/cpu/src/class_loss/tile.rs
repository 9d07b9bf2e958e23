//! Rows of classes, brought from any layout into contiguous memory of the computing type and back.

use std::ops::Range;

use crate::{
    stored::Stored,
    view::{Source, Target},
};

/// Rows of a tile where the positions of a sample are neighbours in memory: as many as a cache line has `f32`s,
/// so that a line is read once though the classes lie far apart.
const HEIGHT: usize = 16;

/// Elements of a tile beyond which it is made less high, so that it stays in the second-level cache.
const LARGE: usize = 32 * 1024;

/// A tensor `[N, C, S]`, by its pointer (`*const T` or `*mut T`) and strides.
pub(super) struct Planes<P> {
    ptr: P,
    pub(super) samples: usize,
    pub(super) classes: usize,
    pub(super) positions: usize,
    strides: [isize; 3],
}

// SAFETY: it stands for a shared borrow of a tensor (`Source`).
unsafe impl<T: Sync> Sync for Planes<*const T> {}
// SAFETY: it stands for an exclusive borrow of a tensor (`Target`), of which tasks write disjoint rows: the
// contract of `Tile::store`.
unsafe impl<T: Send> Sync for Planes<*mut T> {}

/// Rows `(sample, start + i)` for `i` in `0..height`.
pub(super) struct Part {
    sample: usize,
    start: usize,
    pub(super) height: usize,
    positions: usize,
}

impl Part {
    pub(super) fn first_row(&self) -> usize {
        self.sample * self.positions + self.start
    }
}

impl<T: Stored> Planes<*const T> {
    /// Of a tensor with three dimensions.
    pub(super) fn new(source: &Source<T>) -> Planes<*const T> {
        Planes::of(source.ptr(), source.layout().dims(), source.layout().strides())
    }

    /// The element of class `class` in row `i` of a part.
    ///
    /// # Safety
    /// The part and the class are inside these planes.
    #[inline(always)]
    pub(super) unsafe fn at(&self, part: &Part, class: usize, i: usize) -> T::Compute {
        // SAFETY: an element of the checked layout.
        unsafe { self.ptr.offset(self.start(part) + self.step(class, i)).read() }.load()
    }
}

impl<T: Stored> Planes<*mut T> {
    /// Of a tensor with three dimensions.
    pub(super) fn new_mut(target: &Target<T>) -> Planes<*mut T> {
        Planes::of(target.ptr(), target.layout().dims(), target.layout().strides())
    }
}

impl<P> Planes<P> {
    fn of(ptr: P, dims: &[usize], strides: &[isize]) -> Planes<P> {
        let at = |d: usize| (dims.get(d).map_or(1, |&extent| extent), strides.get(d).map_or(0, |&stride| stride));
        let [(samples, n), (classes, c), (positions, s)] = [at(0), at(1), at(2)];
        Planes { ptr, samples, classes, positions, strides: [n, c, s] }
    }

    pub(super) fn rows(&self) -> usize {
        self.samples * self.positions
    }

    /// Cuts a range of rows at the ends of samples and every `height` rows.
    #[inline(always)]
    pub(super) fn parts(&self, range: Range<usize>, height: usize) -> impl Iterator<Item = Part> + use<P> {
        let (positions, mut row) = (self.positions, range.start);
        std::iter::from_fn(move || {
            if row >= range.end {
                return None;
            }
            let (sample, start) = (row / positions, row % positions);
            let height = height.min(positions - start).min(range.end - row);
            row += height;
            Some(Part { sample, start, height, positions })
        })
    }

    fn start(&self, part: &Part) -> isize {
        part.sample as isize * self.strides[0] + part.start as isize * self.strides[2]
    }

    #[inline(always)]
    fn step(&self, class: usize, row: usize) -> isize {
        class as isize * self.strides[1] + row as isize * self.strides[2]
    }
}

/// A buffer for some rows of one or more operands.
pub(super) struct Tile<R> {
    data: Vec<R>,
    classes: usize,
    height: usize,
}

impl<R: bytemuck::Pod> Tile<R> {
    /// For rows of `operands` tensors with the extents of `planes`.
    pub(super) fn new<P>(planes: &Planes<P>, operands: usize) -> Tile<R> {
        let classes = planes.classes;
        let height = if planes.positions == 1 { 1 } else { (LARGE / classes.max(1)).clamp(1, HEIGHT) };
        Tile { data: vec![R::zeroed(); operands * height * classes], classes, height }
    }

    pub(super) fn height(&self) -> usize {
        self.height
    }

    fn span(&self, operand: usize, i: usize) -> Range<usize> {
        let start = (operand * self.height + i) * self.classes;
        start..start + self.classes
    }

    #[inline(always)]
    pub(super) fn row(&self, operand: usize, i: usize) -> &[R] {
        &self.data[self.span(operand, i)]
    }

    #[inline(always)]
    pub(super) fn row_mut(&mut self, operand: usize, i: usize) -> &mut [R] {
        let span = self.span(operand, i);
        &mut self.data[span]
    }

    /// Row `i` of the first operand to write, and of the second to read.
    #[inline(always)]
    pub(super) fn pair(&mut self, i: usize) -> (&mut [R], &[R]) {
        let (first, second) = self.data.split_at_mut(self.height * self.classes);
        let span = i * self.classes..(i + 1) * self.classes;
        (&mut first[span.clone()], &second[span])
    }

    /// Reads the rows of a part.
    ///
    /// # Safety
    /// The part is inside the planes, and nobody writes to them.
    #[inline(always)]
    pub(super) unsafe fn load<T: Stored<Compute = R>>(&mut self, operand: usize, from: &Planes<*const T>, part: &Part) {
        let start = from.start(part);
        if from.strides[1] == 1 {
            for i in 0..part.height {
                // SAFETY: the classes of a row are neighbours in the checked layout.
                let row = unsafe { std::slice::from_raw_parts(from.ptr.offset(start + from.step(0, i)), self.classes) };
                for (to, from) in self.row_mut(operand, i).iter_mut().zip(row) {
                    *to = from.load();
                }
            }
            return;
        }
        let (classes, first) = (self.classes, self.span(operand, 0).start);
        let rows = &mut self.data[first..first + part.height * classes];
        for class in 0..classes {
            for i in 0..part.height {
                // SAFETY: an element of the checked layout.
                rows[i * classes + class] = unsafe { from.ptr.offset(start + from.step(class, i)).read() }.load();
            }
        }
    }

    /// Writes the rows of a part.
    ///
    /// # Safety
    /// The part is inside the planes, and nobody else accesses it.
    #[inline(always)]
    pub(super) unsafe fn store<T: Stored<Compute = R>>(&self, operand: usize, to: &Planes<*mut T>, part: &Part) {
        let start = to.start(part);
        if to.strides[1] == 1 {
            for i in 0..part.height {
                // SAFETY: the classes of a row are neighbours in the checked layout.
                let row = unsafe { std::slice::from_raw_parts_mut(to.ptr.offset(start + to.step(0, i)), self.classes) };
                for (to, from) in row.iter_mut().zip(self.row(operand, i)) {
                    *to = T::store(*from);
                }
            }
            return;
        }
        let (classes, first) = (self.classes, self.span(operand, 0).start);
        let rows = &self.data[first..first + part.height * classes];
        for class in 0..classes {
            for i in 0..part.height {
                // SAFETY: an element of the checked layout, which nobody else accesses.
                unsafe { to.ptr.offset(start + to.step(class, i)).write(T::store(rows[i * classes + class])) };
            }
        }
    }
}
