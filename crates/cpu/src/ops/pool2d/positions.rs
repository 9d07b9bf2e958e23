//! Where windows and their maxima lie: the positions that max pooling stores and its gradient reads.

use kiln_backend::{DType, Pool2d, Result, View, ViewMut};

use crate::{
    engine::image::Image,
    memory::view::{Source, Target},
};

/// The positions of the maxima.
pub(super) enum Positions {
    /// Positions in the plane.
    Planes(Image<i64>),
    /// Tap numbers in the windows; 255 for a window without a tap inside the input.
    Taps(Image<u8>),
}

impl Positions {
    pub(super) fn write(op: &'static str, view: ViewMut) -> Result<Positions> {
        Ok(if view.dtype() == DType::U8 {
            Positions::Taps(Image::new(&Target::<u8>::new(op, view)?.erased()))
        } else {
            Positions::Planes(Image::new(&Target::<i64>::new(op, view)?.erased()))
        })
    }

    pub(super) fn read(op: &'static str, view: View) -> Result<Positions> {
        Ok(if view.dtype() == DType::U8 {
            Positions::Taps(Image::new(&Source::<u8>::new(op, view)?.erased()))
        } else {
            Positions::Planes(Image::new(&Source::<i64>::new(op, view)?.erased()))
        })
    }
}

/// Where the taps of a window lie, relative to its first, in planes with rows of `width` elements; `None` for what is no tap.
/// Those of taps far outside a plane may wrap, as the places of their windows do.
pub(super) fn offsets_of_taps(pool: &Pool2d, width: usize) -> [Option<usize>; 256] {
    let mut offsets = [None; 256];
    if let Pool2d::Window { kernel, dilation, .. } = *pool {
        for (tap, offset) in offsets.iter_mut().enumerate().take(kernel[0].saturating_mul(kernel[1])) {
            let (down, right) = (tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
            *offset = Some(down.wrapping_mul(width).wrapping_add(right));
        }
    }
    offsets
}

/// Whether every window lies inside the input.
pub(super) fn are_inside<T: Copy>(pool: &Pool2d, input: &Image<T>, output: &Image<T>) -> bool {
    let Pool2d::Window { kernel, stride, padding, dilation } = *pool else { return false };
    let inside = |axis: usize, input: usize, output: usize| {
        output > 0 && (output - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] < input
    };
    padding == [0, 0] && inside(0, input.h, output.h) && inside(1, input.w, output.w)
}
