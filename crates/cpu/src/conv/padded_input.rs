//! A zero-padded copy of an image in which every tap is a constant offset from the output index.
//!
//! With a stride, the copy has a plane for each residue class of rows and columns that taps reach, so that outputs that are
//! neighbors read neighbors. Its rows include all columns that taps reach, so they are wider than the output's. Kernels process
//! whole rows; the results in the surplus columns are discarded.

use std::ops::Range;

use super::taps::Taps;
use crate::{engine::image::Image, numeric::real::Real};

/// Maximum number of residue classes.
const MOST_CLASSES: usize = 64;

/// The geometry of the copy.
pub(super) struct PaddedInput {
    /// The first row and column that output pixel (0, 0) reads, relative to the image.
    origin: [isize; 2],
    step: [usize; 2],
    /// The residue classes that taps reach, each a plane of every channel.
    classes: Vec<[usize; 2]>,
    /// For each tap its residue class, and the row and column that output pixel (0, 0) reads there.
    taps: Vec<(usize, [usize; 2])>,
    /// Number of rows of a plane that one output row reads, minus 1.
    halo: usize,
    /// Length of a row.
    pub width: usize,
    /// Columns of the output.
    columns: usize,
}

impl PaddedInput {
    /// For output rows of `columns` pixels. `None` if the copy does not pay off: with a single tap, with large strides, or if more
    /// than a third of the columns would be surplus.
    pub(super) fn new(taps: &Taps, columns: usize) -> Option<PaddedInput> {
        let most = taps.step[0].saturating_mul(taps.step[1]);
        if taps.len() < 2 || most > MOST_CLASSES {
            return None;
        }
        let least = |axis: usize| taps.offsets.iter().map(|offset| offset[axis]).min();
        let (origin, step) = ([least(0)?, least(1)?], taps.step);
        let mut classes: Vec<[usize; 2]> = Vec::new();
        let place = |offset: &[isize; 2]| {
            let at = [0, 1].map(|axis| (offset[axis] - origin[axis]) as usize);
            let class = [at[0] % step[0], at[1] % step[1]];
            let index = classes.iter().position(|&other| other == class).unwrap_or_else(|| {
                classes.push(class);
                classes.len() - 1
            });
            (index, [at[0] / step[0], at[1] / step[1]])
        };
        let taps: Vec<_> = taps.offsets.iter().map(place).collect();
        let reach = |axis: usize| taps.iter().map(|(_, at)| at[axis]).max().unwrap_or(0);
        let (halo, width) = (reach(0), columns.checked_add(reach(1))?);
        let wasteful = width > columns + columns / 2;
        (!wasteful).then_some(PaddedInput { origin, step, classes, taps, halo, width, columns })
    }

    /// Output indices from the first to the last pixel of `rows` rows, surplus columns included.
    pub(super) fn lanes(&self, rows: usize) -> usize {
        (rows - 1) * self.width + self.columns
    }

    /// Elements of a plane for `rows` rows of the output.
    fn plane(&self, rows: usize) -> usize {
        (rows + self.halo) * self.width
    }

    /// Elements of all planes of a channel for `rows` rows of the output.
    pub(super) fn channel(&self, rows: usize) -> usize {
        self.classes.len() * self.plane(rows)
    }

    /// For each tap, the distance from an output index to the element that it reads, in channels for `rows` rows.
    pub(super) fn offsets(&self, rows: usize) -> Vec<usize> {
        self.taps.iter().map(|&(class, [y, x])| class * self.plane(rows) + y * self.width + x).collect()
    }

    /// Whether copying the input for `rows` of `all` output rows at a time copies few rows twice.
    pub(super) fn is_tall(&self, rows: usize, all: usize) -> bool {
        rows == all || rows >= 2 * self.halo
    }

    /// Copies channel `c` of image `n`, which may be padding, with its padding, as far as output rows `y..y + rows` read it, to planes for `tall` rows,
    /// which is at least as many. Rows past them become 0.
    ///
    /// # Safety
    /// The image is readable, it has the channel, and `to` is writable for a [`channel`](PaddedInput::channel).
    pub(super) unsafe fn copy_padded<T: Real>(
        &self,
        image: &Image<T>,
        (n, c): (usize, usize),
        (y, rows): (usize, usize),
        tall: usize,
        to: *mut T,
    ) {
        let all = tall + self.halo;
        if !image.is_inside(n, c) {
            // SAFETY: the caller's promise.
            return unsafe { std::slice::from_raw_parts_mut(to, self.channel(tall)).fill(T::of(0.0)) };
        }
        for (class, at) in self.classes.iter().enumerate() {
            let first = |axis: usize, output: usize| self.origin[axis] + (output * self.step[axis] + at[axis]) as isize;
            let (first_row, first_column) = (first(0, y), first(1, 0));
            let down = inside(first_row, self.step[0], rows + self.halo, image.h);
            let across = inside(first_column, self.step[1], self.width, image.w);
            // SAFETY: the plane of `to`; rows and columns inside the image, by the caller's promise for the rest.
            unsafe {
                let to = to.add(class * self.plane(tall));
                if (down.len(), across.len()) != (all, self.width) {
                    // A single fill, since the edges are only a few elements per row.
                    std::slice::from_raw_parts_mut(to, all * self.width).fill(T::of(0.0));
                }
                if !down.is_empty() && !across.is_empty() {
                    let row = (first_row + (down.start * self.step[0]) as isize) as usize;
                    let column = (first_column + (across.start * self.step[1]) as isize) as usize;
                    let from = image.ptr.offset(image.at(n, c, row, column));
                    let rows = image.rows([down.len(), across.len()], self.step);
                    from.gather_rows(rows, to.add(down.start * self.width + across.start), self.width);
                }
            }
        }
    }
}

/// Which of `count` positions, `step` apart from `first` on, are inside `0..extent`.
fn inside(first: isize, step: usize, count: usize, extent: usize) -> Range<usize> {
    let before = |limit: isize| (limit - first).max(0).unsigned_abs().div_ceil(step).min(count);
    let (start, end) = (before(0), before(extent as isize));
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_is_what_lies_in_the_image() {
        for (first, step, count, extent) in
            (-9..9).flat_map(|f| (1..4).flat_map(move |s| (0..7).flat_map(move |c| (0..8).map(move |e| (f, s, c, e)))))
        {
            let want: Vec<usize> =
                (0..count).filter(|&i| (0..extent as isize).contains(&(first + (i * step) as isize))).collect();
            assert_eq!(inside(first, step, count, extent).collect::<Vec<_>>(), want, "{first} {step} {count} {extent}");
        }
    }
}
