//! Loads rows of classes from any layout into tiles of the compute type, and stores them back.

use std::ops::Range;

use super::rows::{Form, Group, LANES};
use crate::{
    engine::tile::{load, store},
    memory::view::{Source, Target},
    numeric::stored::Stored,
};

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
    pub(super) fn row(&self, i: usize) -> usize {
        self.sample * self.positions + self.start + i
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
        unsafe { self.ptr.offset(self.offset(part, class, i)).read() }.load()
    }

    /// Which form keeps elements that are adjacent in memory adjacent in the tile.
    pub(super) fn form(&self) -> Form {
        let [_, class, position] = self.strides.map(isize::unsigned_abs);
        if self.positions > 1 && position < class { Form::Rows } else { Form::Row }
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

    /// The offset of the element of class `class` in row `i` of a part.
    #[inline(always)]
    fn offset(&self, part: &Part, class: usize, i: usize) -> isize {
        let [n, c, s] = self.strides;
        part.sample as isize * n + class as isize * c + (part.start + i) as isize * s
    }

    /// Visits the elements of a part in tile order, as runs that are contiguous in memory: `run(position in the tile,
    /// offset, length)`.
    #[inline(always)]
    fn runs(&self, part: &Part, form: Form, mut run: impl FnMut(usize, isize, usize)) {
        let [_, c, s] = self.strides;
        match form {
            Form::Row if c == 1 => run(0, self.offset(part, 0, 0), self.classes),
            Form::Row => (0..self.classes).for_each(|class| run(class, self.offset(part, class, 0), 1)),
            Form::Rows if s == 1 => {
                (0..self.classes).for_each(|class| run(class * LANES, self.offset(part, class, 0), part.height));
            }
            Form::Rows => {
                for class in 0..self.classes {
                    (0..part.height).for_each(|i| run(class * LANES + i, self.offset(part, class, i), 1));
                }
            }
        }
    }
}

/// A buffer for the rows of one operand.
pub(super) struct Tile<R> {
    data: Vec<Group<R>>,
    classes: usize,
    form: Form,
}

impl<R: bytemuck::Pod> Tile<R> {
    pub(super) fn new(classes: usize, form: Form) -> Tile<R> {
        let groups = if form == Form::Rows { classes } else { classes.div_ceil(LANES) };
        Tile { data: vec![[R::zeroed(); LANES]; groups], classes, form }
    }

    /// How many rows it holds.
    pub(super) fn height(&self) -> usize {
        if self.form == Form::Rows { LANES } else { 1 }
    }

    pub(super) fn groups(&self) -> &[Group<R>] {
        &self.data
    }

    pub(super) fn groups_mut(&mut self) -> &mut [Group<R>] {
        &mut self.data
    }

    /// The number of class `class` in row `i`.
    #[inline(always)]
    pub(super) fn at(&mut self, class: usize, i: usize) -> &mut R {
        &mut self.data.as_flattened_mut()[if self.form == Form::Rows { class * LANES + i } else { class }]
    }

    /// Sets what lies beyond the last class of a row.
    #[inline(always)]
    pub(super) fn pad(&mut self, value: R) {
        if self.form == Form::Row {
            self.data.as_flattened_mut()[self.classes..].fill(value);
        }
    }

    /// Sets row `i`.
    pub(super) fn fill(&mut self, i: usize, value: R) {
        match self.form {
            Form::Row => self.data.as_flattened_mut().fill(value),
            Form::Rows => self.data.iter_mut().for_each(|group| group[i] = value),
        }
    }

    /// Reads the rows of a part.
    ///
    /// # Safety
    /// The part is inside the planes, and nobody writes to them.
    pub(super) unsafe fn load<T: Stored<Compute = R>>(&mut self, from: &Planes<*const T>, part: &Part) {
        let tile = self.data.as_flattened_mut();
        from.runs(part, self.form, |at, offset, len| {
            // SAFETY: neighbors in the checked layout.
            let from = unsafe { std::slice::from_raw_parts(from.ptr.offset(offset), len) };
            load(from, &mut tile[at..at + len]);
        });
    }

    /// Writes the rows of a part.
    ///
    /// # Safety
    /// The part is inside the planes, and nobody else accesses it.
    pub(super) unsafe fn store<T: Stored<Compute = R>>(&self, to: &Planes<*mut T>, part: &Part) {
        let tile = self.data.as_flattened();
        to.runs(part, self.form, |at, offset, len| {
            // SAFETY: neighbors in the checked layout, which nobody else accesses.
            let to = unsafe { std::slice::from_raw_parts_mut(to.ptr.offset(offset), len) };
            store(&tile[at..at + len], to);
        });
    }
}
