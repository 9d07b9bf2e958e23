//! Images with the zeros around them that taps reach: what output pixel `q` sees through a tap then lies `offset` behind
//! `q`, with one offset for all pixels. Rows are as wide as taps reach, wider than the output's: the pixels in
//! between are computed as well and thrown away.

use super::{Compute, taps::Taps};
use crate::engine::image::Image;

pub(super) struct Frame {
    /// The offset of the first row and column that are seen.
    low: [isize; 2],
    /// Rows that a row of the output sees from the first to the last, less one.
    more: usize,
    /// Length of a row.
    pub width: usize,
    /// Columns of the output.
    columns: usize,
    /// For each tap how far behind a pixel lies what it sees.
    pub offsets: Vec<usize>,
}

impl Frame {
    /// For rows of `columns` output pixels; `None` where that would not save anything: with gaps between the pixels that
    /// neighbours see, with a single tap, and where most of what is computed would be thrown away.
    pub(super) fn new(taps: &Taps, columns: usize) -> Option<Frame> {
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
        (!wasteful).then(|| Frame {
            low: [y.0, x.0],
            more: (y.1 - y.0) as usize,
            width,
            columns,
            offsets: taps.offsets.iter().map(offset).collect(),
        })
    }

    /// From the first to the last of the pixels in `rows` rows of the output.
    pub(super) fn lanes(&self, rows: usize) -> usize {
        (rows - 1) * self.width + self.columns
    }

    /// Elements of what `rows` rows of the output see of a channel.
    pub(super) fn plane(&self, rows: usize) -> usize {
        (rows + self.more) * self.width
    }

    /// Whether seeing `rows` of `all` rows at a time means to see few twice.
    pub(super) fn is_tall(&self, rows: usize, all: usize) -> bool {
        rows == all || rows >= 2 * self.more
    }

    /// Writes what the output's `rows` rows from row `y` on see of channel `c` of image `n`.
    ///
    /// # Safety
    /// The image is readable, it has the channel, and `to` is writable for a [`plane`](Frame::plane).
    pub(super) unsafe fn see<T: Compute>(
        &self,
        image: &Image<T>,
        (n, c): (usize, usize),
        (y, rows): (usize, usize),
        mut to: *mut T,
    ) {
        let inside = |at: isize, extent: usize| at.clamp(0, extent as isize) as usize;
        // Columns `left..right` of a row are inside the image.
        let first = inside(self.low[1], image.w);
        let end = inside(self.low[1] + self.width as isize, image.w).max(first);
        // Where taps look only at padding, the row may begin behind the image.
        let left = (first as isize - self.low[1]).clamp(0, self.width as isize) as usize;
        let right = (left + end - first).min(self.width);
        for row in 0..rows + self.more {
            let y = (y + row) as isize + self.low[0];
            // SAFETY: rows and columns inside the image, by the caller's promise for the rest; a row of `to`.
            unsafe {
                let line = std::slice::from_raw_parts_mut(to, self.width);
                if y < 0 || y >= image.h as isize {
                    line.fill(T::of(0.0));
                } else {
                    line[..left].fill(T::of(0.0));
                    if left < right {
                        let from = image.ptr.offset(image.at(n, c, y as usize, first));
                        from.gather(image.strides[3], right - left, to.add(left));
                    }
                    line[right..].fill(T::of(0.0));
                }
                to = to.add(self.width);
            }
        }
    }
}
