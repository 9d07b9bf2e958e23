//! Two-dimensional max and average pooling, and their gradients.

use std::ops::Range;

use super::conv2d::reach;
use crate::{Result, View, ViewMut};

/// The windows of a two-dimensional pooling. Pairs are height first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool2d {
    /// Windows of one size: number `o` has its taps at `o * stride - padding + i * dilation` for `i < kernel`, and
    /// those outside of the input do not count. (`ceil_mode` only gives more of them.)
    Window {
        /// Taps.
        kernel: [usize; 2],
        /// Distance of neighbouring windows; at least 1.
        stride: [usize; 2],
        /// How far the first window begins before the input.
        padding: [usize; 2],
        /// Distance of taps; 1 for averages.
        dilation: [usize; 2],
    },
    /// As many windows as the output has elements, which cover the input: number `o` is
    /// `floor(o * input / output)..ceil((o + 1) * input / output)`.
    Adaptive,
}

impl Pool2d {
    /// Height and width of the result of [`Pool2d::Window`], by PyTorch's rule: `ceil_mode` rounds up, but no window may
    /// begin behind the input and its left padding. `None` if the kernel does not fit into the padded input, a stride,
    /// dilation or kernel extent is 0, or the windows are adaptive.
    #[must_use]
    pub fn output(&self, input: [usize; 2], ceil_mode: bool) -> Option<[usize; 2]> {
        let Pool2d::Window { kernel, stride, padding, dilation } = *self else { return None };
        let along = |axis: usize| {
            let (stride, front) = (stride[axis], input[axis].checked_add(padding[axis])?);
            let room = front.checked_add(padding[axis])?.checked_sub(reach(kernel[axis], dilation[axis])?)?;
            let mut out = room.checked_div(stride)? + 1;
            if ceil_mode && room % stride != 0 && out.checked_mul(stride)? < front {
                out += 1;
            }
            Some(out)
        };
        Some([along(0)?, along(1)?])
    }

    /// Where window `o` of `output` along `axis` lies in the input, before it is clipped: the first tap, the end, and
    /// the distance of taps.
    #[must_use]
    pub fn window(&self, axis: usize, o: usize, input: usize, output: usize) -> (Range<isize>, usize) {
        match *self {
            Pool2d::Window { kernel, stride, padding, dilation } => {
                let start = (o * stride[axis]) as isize - padding[axis] as isize;
                (start..start + ((kernel[axis] - 1) * dilation[axis] + 1) as isize, dilation[axis])
            }
            Pool2d::Adaptive => {
                // In 128 bits: products of two extents need not fit into a word.
                let at = |o: usize| o as u128 * input as u128;
                let output = output.max(1) as u128;
                ((at(o) / output) as isize..at(o + 1).div_ceil(output) as isize, 1)
            }
        }
    }
}

/// What an average is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolDivisor {
    /// The elements of the window, with those in the padding on either side, but not those that `ceil_mode` adds behind
    /// it: `count_include_pad`.
    WithPadding,
    /// The elements of the window that are inside the input.
    Inside,
    /// This number; not 0.
    Fixed(i64),
}

/// Max and average pooling. Images are `[N, C, H, W]` with any strides, channels-last ones included.
pub trait Pool2dBackend {
    /// The largest element of each window; NaN counts as larger. `indices` (`i64`, of `out`'s shape) receives its
    /// position in the plane, `row * W + column`: of equal elements the first in row-major order, of NaNs the last.
    /// A window with no tap inside the input gives `-inf` and position -1.
    fn max_pool2d(&self, pool: &Pool2d, x: View, out: ViewMut, indices: Option<ViewMut>) -> Result<()>;
    /// Its gradient: each element of `out` (`[N, C, H, W]`) is the sum of `grad` over the windows that chose it, added
    /// in row-major order of the windows. A position outside the plane is an error, but -1 is skipped.
    fn max_pool2d_grad(&self, pool: &Pool2d, grad: View, indices: View, out: ViewMut) -> Result<()>;
    /// The sum of each window, divided; a window with no element inside the input gives 0.
    fn avg_pool2d(&self, pool: &Pool2d, divisor: PoolDivisor, x: View, out: ViewMut) -> Result<()>;
    /// Its gradient; `out` is `[N, C, H, W]`.
    fn avg_pool2d_grad(&self, pool: &Pool2d, divisor: PoolDivisor, grad: View, out: ViewMut) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, padding: usize, dilation: usize) -> Pool2d {
        Pool2d::Window { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] }
    }

    #[test]
    fn ceil_mode_adds_no_window_that_begins_in_the_padding_behind() {
        for (pool, input, floor, ceil) in [
            (window(2, 2, 0, 1), 5, 2, 3),
            (window(3, 2, 1, 1), 6, 3, 4),
            (window(2, 3, 1, 1), 4, 2, 2),
            (window(1, 3, 0, 1), 5, 2, 2),
            (window(3, 2, 0, 2), 8, 2, 3),
        ] {
            assert_eq!(pool.output([input; 2], false), Some([floor; 2]), "{pool:?}");
            assert_eq!(pool.output([input; 2], true), Some([ceil; 2]), "{pool:?}");
        }
        assert_eq!(window(6, 1, 0, 1).output([5; 2], true), None);
        assert_eq!(Pool2d::Adaptive.output([5; 2], true), None);
    }

    #[test]
    fn adaptive_windows_cover_the_input() {
        let bounds = |o| Pool2d::Adaptive.window(0, o, 7, 3).0;
        assert_eq!([bounds(0), bounds(1), bounds(2)], [0..3, 2..5, 4..7]);
        assert_eq!(Pool2d::Adaptive.window(1, 1, 2, 4), (0..1, 1));
        assert_eq!(window(3, 2, 1, 2).window(0, 1, 9, 4), (1..6, 2));
    }
}
