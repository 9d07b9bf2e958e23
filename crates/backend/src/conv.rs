//! Descriptors of convolution, pooling and normalisation.

use std::ops::Range;

use crate::{View, ViewMut};

/// A two-dimensional convolution (cross-correlation, as deep learning calls it): how the kernel moves. Pairs are
/// height first. Padding is of zeros and the same on both sides; other kinds are an operation before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2d {
    /// Steps of the kernel; at least 1.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side.
    pub padding: [usize; 2],
    /// Distance of the kernel's taps; at least 1.
    pub dilation: [usize; 2],
    /// The channels are cut into this many groups that do not see each other; it divides the channels on both sides.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Conv2d {
        Conv2d { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 }
    }
}

impl Conv2d {
    /// Height and width of the result: `floor((input + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`. `None` if
    /// the kernel does not fit into the padded input, or a stride, dilation or kernel extent is 0.
    #[must_use]
    pub fn output(&self, input: [usize; 2], kernel: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let padded = input[axis].checked_add(self.padding[axis].checked_mul(2)?)?;
            let room = padded.checked_sub(reach(kernel[axis], self.dilation[axis])?)?;
            Some(room.checked_div(self.stride[axis])? + 1)
        };
        Some([along(0)?, along(1)?])
    }

    /// Height and width of the transposed convolution's result:
    /// `(input - 1) stride - 2 padding + dilation (kernel - 1) + extra + 1`. `None` if it is not positive, or as in
    /// [`output`](Conv2d::output).
    #[must_use]
    pub fn transposed_output(&self, input: [usize; 2], kernel: [usize; 2], extra: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let steps = input[axis].checked_sub(1)?.checked_mul(self.stride[axis])?;
            let full = steps.checked_add(reach(kernel[axis], self.dilation[axis])?)?.checked_add(extra[axis])?;
            full.checked_sub(self.padding[axis].checked_mul(2)?).filter(|&extent| extent > 0 && self.stride[axis] > 0)
        };
        Some([along(0)?, along(1)?])
    }
}

/// From the first to behind the last tap of a kernel.
fn reach(kernel: usize, dilation: usize) -> Option<usize> {
    if dilation == 0 {
        return None;
    }
    kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)
}

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

/// Scale and shift of a normalisation: one number a channel (or a column), of the input's dtype.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine<'a> {
    /// The scale; 1 if there is none.
    pub weight: Option<View<'a>>,
    /// The shift; 0 if there is none.
    pub bias: Option<View<'a>>,
}

/// Where the gradients of a normalisation go; those left out are not computed.
#[derive(Debug, Default)]
pub struct NormGrads<'a> {
    /// Of the input, in its shape.
    pub input: Option<ViewMut<'a>>,
    /// Of the scale.
    pub weight: Option<ViewMut<'a>>,
    /// Of the shift.
    pub bias: Option<ViewMut<'a>>,
}

/// The running statistics that a training step of batch normalisation moves, one number a channel, of the accumulation
/// type (`f32` for half precision, else the input's): `running = (1 - momentum) * running + momentum * batch`.
#[derive(Debug)]
pub struct RunningStats<'a> {
    /// The mean.
    pub mean: ViewMut<'a>,
    /// The variance; it is moved towards the unbiased one (divisor `n - 1`).
    pub var: ViewMut<'a>,
    /// How far it moves.
    pub momentum: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, padding: usize, dilation: usize) -> Pool2d {
        Pool2d::Window { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] }
    }

    #[test]
    fn output_sizes() {
        let rule = Conv2d { stride: [2, 1], padding: [3, 0], dilation: [1, 2], groups: 1 };
        assert_eq!(rule.output([224, 9], [7, 3]), Some([112, 5]));
        assert_eq!(rule.output([224, 4], [7, 3]), None);
        assert_eq!(rule.output([1, 5], [7, 3]), Some([1, 1]));
        assert_eq!(rule.transposed_output([112, 5], [7, 3], [1, 0]), Some([224, 9]));
        assert_eq!(Conv2d { padding: [5; 2], ..Conv2d::default() }.transposed_output([2; 2], [3; 2], [0; 2]), None);
        for bad in [Conv2d { stride: [0; 2], ..rule }, Conv2d { dilation: [0; 2], ..rule }] {
            assert_eq!((bad.output([9; 2], [3; 2]), bad.transposed_output([9; 2], [3; 2], [0; 2])), (None, None));
        }
        assert_eq!(Conv2d { padding: [usize::MAX; 2], ..rule }.output([9; 2], [3; 2]), None);
        assert_eq!(rule.output([9; 2], [0; 2]), None);
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
