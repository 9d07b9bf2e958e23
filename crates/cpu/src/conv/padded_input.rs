//! A zero-padded copy of an image in which every tap is a constant offset from the output index.
//!
//! Its rows include all columns that taps reach, so they are wider than the output's. Kernels process whole rows; the
//! results in the surplus columns are discarded.

use super::taps::Taps;
use crate::{engine::image::Image, numeric::real::Real};

/// The geometry of the copy.
pub(super) struct PaddedInput {
    /// The first row and column that output pixel (0, 0) reads, relative to the image.
    origin: [isize; 2],
    /// Number of input rows that one output row reads, minus 1.
    halo: usize,
    /// Length of a row.
    pub width: usize,
    /// Columns of the output.
    columns: usize,
    /// For each tap, the distance from an output index to the element that it reads.
    pub offsets: Vec<usize>,
}

impl PaddedInput {
    /// For output rows of `columns` pixels. `None` if the copy does not pay off: with strides, or dilation between
    /// neighboring outputs, with a single tap, or if more than a third of the columns would be surplus.
    pub(super) fn new(taps: &Taps, columns: usize) -> Option<PaddedInput> {
        if taps.step != [1, 1] || taps.len() < 2 {
            return None;
        }
        let reach = |axis: usize| {
            let all = || taps.offsets.iter().map(|offset| offset[axis]);
            Some((all().min()?, all().max()?))
        };
        let (y, x) = (reach(0)?, reach(1)?);
        let width = columns.checked_add_signed(x.1 - x.0)?;
        let offset = |&[dy, dx]: &[isize; 2]| (dy - y.0) as usize * width + (dx - x.0) as usize;
        let wasteful = width > columns + columns / 2;
        (!wasteful).then(|| PaddedInput {
            origin: [y.0, x.0],
            halo: (y.1 - y.0) as usize,
            width,
            columns,
            offsets: taps.offsets.iter().map(offset).collect(),
        })
    }

    /// Output indices from the first to the last pixel of `rows` rows, surplus columns included.
    pub(super) fn lanes(&self, rows: usize) -> usize {
        (rows - 1) * self.width + self.columns
    }

    /// Elements of a padded channel for `rows` rows of the output.
    pub(super) fn plane(&self, rows: usize) -> usize {
        (rows + self.halo) * self.width
    }

    /// Whether copying the input for `rows` of `all` output rows at a time copies few rows twice.
    pub(super) fn is_tall(&self, rows: usize, all: usize) -> bool {
        rows == all || rows >= 2 * self.halo
    }

    /// Copies channel `c` of image `n` with its padding, as far as output rows `y..y + rows` read it.
    ///
    /// # Safety
    /// The image is readable, it has the channel, and `to` is writable for a [`plane`](PaddedInput::plane).
    pub(super) unsafe fn copy_padded<T: Real>(
        &self,
        image: &Image<T>,
        (n, c): (usize, usize),
        (y, rows): (usize, usize),
        to: *mut T,
    ) {
        let inside = |at: isize, extent: usize| at.clamp(0, extent as isize) as usize;
        // Columns `left..right` of a row are inside the image.
        let first = inside(self.origin[1], image.w);
        let end = inside(self.origin[1] + self.width as isize, image.w).max(first);
        // Where taps read only padding, the row may begin past the image.
        let left = (first as isize - self.origin[1]).clamp(0, self.width as isize) as usize;
        let right = (left + end - first).min(self.width);
        // Likewise the rows `top..bottom`.
        let all = rows + self.halo;
        let y = y as isize + self.origin[0];
        let first_row = inside(y, image.h);
        let end_row = inside(y + all as isize, image.h).max(first_row);
        let top = (first_row as isize - y).clamp(0, all as isize) as usize;
        let bottom = (top + end_row - first_row).min(all);
        // SAFETY: the rows of `to`; rows and columns inside the image, by the caller's promise for the rest.
        unsafe {
            if (left, right, top, bottom) != (0, self.width, 0, all) {
                // A single fill, since the edges are only a few elements per row.
                std::slice::from_raw_parts_mut(to, all * self.width).fill(T::of(0.0));
            }
            if left < right && top < bottom {
                let from = image.ptr.offset(image.at(n, c, first_row, first));
                let rows = image.rows([bottom - top, right - left], [1, 1]);
                from.gather_rows(rows, to.add(top * self.width + left), self.width);
            }
        }
    }
}
