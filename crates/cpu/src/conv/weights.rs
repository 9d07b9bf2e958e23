//! The weights of a convolution as a matrix: where they are, or copied by all threads.

use std::ops::Range;

use super::{compute::Compute, taps::Taps};
use crate::engine::{
    image::Image,
    par::{self, Shared},
};

/// One group's weights: `rows` output channels by `columns`, which are `input channels * taps`.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// What is added to each output channel.
    pub(crate) bias: Option<&'a [T]>,
}

/// Elements that a thread copies at least.
const GRAIN: usize = 1 << 15;
/// Channels that are copied together where rows and columns are exchanged, so that lines of the source are used whole.
const CHANNELS: usize = 16;

/// Copies filters, each to a row `[channels * taps]`.
///
/// # Safety
/// The filters are readable.
pub(crate) unsafe fn copy_filters<T: Compute>(filters: &Image<T>, which: Range<usize>, to: &mut [T]) {
    let (area, rows) = (filters.area(), which.len());
    let columns = filters.c * area;
    debug_assert!(to.len() >= rows * columns);
    // Filters without elements may have any extents.
    if columns == 0 {
        return;
    }
    // Contiguous filters are one run each, not one for every channel.
    let dense = filters.dense_planes();
    let to = Shared::new(to);
    par::ranges(rows, GRAIN.div_ceil(columns.max(1)), |part| {
        for row in part {
            let o = which.start + row;
            // SAFETY: the caller's promise; `to` has room for all rows, and every row is written by one task.
            unsafe {
                let to = to.start().add(row * columns);
                if dense {
                    filters.ptr.offset(filters.at(o, 0, 0, 0)).gather(1, columns, to);
                } else {
                    (0..filters.c).for_each(|c| filters.gather_plane(o, c, to.add(c * area)));
                }
            }
        }
    });
}

/// Copies filters for the gradient of the input: for each input channel a row `[filters * taps]`.
///
/// # Safety
/// The filters are readable, and the taps are among theirs.
pub(crate) unsafe fn copy_filters_transposed<T: Compute>(
    filters: &Image<T>,
    which: Range<usize>,
    taps: &Taps,
    to: &mut [T],
) {
    let columns = which.len() * taps.len();
    debug_assert!(columns == 0 || to.len() >= filters.c * columns);
    if columns == 0 {
        return;
    }
    let whole = taps.len() == filters.area();
    let offsets: Vec<isize> =
        taps.kernel_taps.iter().map(|tap| filters.at(0, 0, tap / filters.w, tap % filters.w)).collect();
    let to = Shared::new(to);
    let grain = GRAIN.div_ceil((CHANNELS * columns).max(1));
    par::ranges(filters.c.div_ceil(CHANNELS), grain, |part| {
        let channels = part.start * CHANNELS..filters.c.min(part.end * CHANNELS);
        for block in channels.clone().step_by(CHANNELS) {
            for (i, o) in which.clone().enumerate() {
                for c in block..channels.end.min(block + CHANNELS) {
                    // SAFETY: the caller's promise; `to` has room for all rows, and every row is written by one task.
                    unsafe {
                        let to = to.start().add(c * columns + i * taps.len());
                        if whole {
                            filters.gather_plane(o, c, to);
                            continue;
                        }
                        let from = filters.ptr.offset(filters.at(o, c, 0, 0));
                        offsets.iter().enumerate().for_each(|(i, &offset)| *to.add(i) = from.offset(offset).load());
                    }
                }
            }
        }
    });
}
