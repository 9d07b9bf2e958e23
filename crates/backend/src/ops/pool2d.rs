//! Two-dimensional max and average pooling, and their gradients.

use std::ops::Range;

use super::conv2d_rule::reach;
use crate::{
    contract::{Arguments, Checked, has_dtype, is_float, same_shape},
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
    view::{View, ViewMut},
};

/// The windows of a two-dimensional pooling. Pairs are height first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pool2d {
    /// Windows of one size: window `o` has its taps at `o * stride - padding + i * dilation` for `i < kernel`; taps
    /// outside the input are skipped. (`ceil_mode` only adds windows.)
    Window {
        /// Number of taps.
        kernel: [usize; 2],
        /// Distance between neighboring windows; at least 1.
        stride: [usize; 2],
        /// How far the first window begins before the input.
        padding: [usize; 2],
        /// Distance between neighboring taps; 1 for averages.
        dilation: [usize; 2],
    },
    /// As many windows as the output has elements; they cover the input. Window `o` is `floor(o * input /
    /// output)..ceil((o + 1) * input / output)`.
    Adaptive,
}

impl Pool2d {
    /// Height and width of the output of [`Pool2d::Window`], by PyTorch's rule: `ceil_mode` rounds up, but no window
    /// may begin past the input and its left padding. `None` if the kernel does not fit into the padded input, if a
    /// stride, dilation or kernel extent is 0, or if the windows are adaptive.
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

    /// Where window `o` of `output` along `axis` lies in the input, before clipping: from the first tap to the end of
    /// the last, and the distance between taps.
    #[inline]
    #[must_use]
    pub fn window(&self, axis: usize, o: usize, input: usize, output: usize) -> (Range<isize>, usize) {
        match *self {
            Pool2d::Window { kernel, stride, padding, dilation } => {
                let start = (o * stride[axis]) as isize - padding[axis] as isize;
                (start..start + ((kernel[axis] - 1) * dilation[axis] + 1) as isize, dilation[axis])
            }
            Pool2d::Adaptive => {
                // In 128 bits, since a product of two extents may overflow 64.
                let at = |o: usize| o as u128 * input as u128;
                let output = output.max(1) as u128;
                ((at(o) / output) as isize..at(o + 1).div_ceil(output) as isize, 1)
            }
        }
    }
}

/// The tap number of a window without a tap inside the input.
const NO_TAP: usize = u8::MAX as usize;

/// Upper bound on positions in the input, whatever a window's parameters are.
const FARTHEST: usize = 1 << 60;

impl Pool2d {
    /// Checks images `[N, C, H, W]` before and after pooling, and that the positions of windows do not overflow.
    fn check(
        &self,
        op: &'static str,
        (before, dtype): (&Layout, DType),
        (after, other): (&Layout, DType),
    ) -> Result<()> {
        is_float(op, dtype)?;
        has_dtype(op, dtype, other)?;
        let misfit = || {
            let expected = format!("images [N, C, H, W] before and after pooling must match windows of {self:?}");
            Error::shapes(op, before.shape(), after.shape(), expected)
        };
        let (&[n, c, h, w], &[n_after, c_after, h_after, w_after]) = (before.dims(), after.dims()) else {
            return Err(misfit());
        };
        let possible = self.is_possible(0, h, h_after) && self.is_possible(1, w, w_after);
        // Every adaptive window has an element, so the input must not be empty.
        let covered = *self != Pool2d::Adaptive || before.numel() > 0 || after.numel() == 0;
        if [n, c] == [n_after, c_after] && possible && covered { Ok(()) } else { Err(misfit()) }
    }

    /// The smallest dtype that locates maxima for the gradient. `u8` is the number of a tap in its window,
    /// `i * kernel[1] + j`, or 255 if no tap is inside the input, for windows of at most 255 taps. Adaptive windows, which
    /// differ in size, and larger ones need positions in the plane (`i64`).
    #[must_use]
    pub fn tap_dtype(&self) -> DType {
        match *self {
            Pool2d::Window { kernel: [height, width], .. } if height.saturating_mul(width) <= NO_TAP => DType::U8,
            _ => DType::I64,
        }
    }

    fn check_positions(&self, op: &'static str, dtype: DType) -> Result<()> {
        if dtype == self.tap_dtype() { Ok(()) } else { has_dtype(op, DType::I64, dtype) }
    }

    fn is_possible(&self, axis: usize, input: usize, output: usize) -> bool {
        let near = |n: Option<usize>| n.is_some_and(|n| n < FARTHEST);
        match *self {
            Pool2d::Window { kernel, stride, padding, dilation } => {
                let (kernel, stride, padding, dilation) = (kernel[axis], stride[axis], padding[axis], dilation[axis]);
                let reach = kernel.checked_mul(dilation);
                let end = reach.and_then(|reach| output.checked_mul(stride)?.checked_add(reach)?.checked_add(padding));
                let outside = || input.checked_add(padding)?.checked_add(stride)?.checked_add(output);
                [kernel, stride, dilation].into_iter().all(|n| n > 0) && near(end) && near(outside())
            }
            Pool2d::Adaptive => near((|| output.checked_add(2)?.checked_mul(input.checked_add(2)?))()),
        }
    }
}

/// The divisor of an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolDivisor {
    /// The number of elements in the window, counting padding (`count_include_pad`) but not what `ceil_mode` adds past
    /// it.
    WithPadding,
    /// The number of elements of the window that are inside the input.
    Inside,
    /// A given number; not 0.
    Fixed(i64),
}

/// Arguments of [`max_pool2d`](Pool2dBackend::max_pool2d).
#[derive(Debug)]
pub struct MaxPool2dArgs<'a> {
    /// The windows.
    pub pool: Pool2d,
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// The largest element of each window, `[N, C, H', W']`.
    pub out: ViewMut<'a>,
    /// Receives the element's position, in the shape of `out`: either in the plane, `row * W + column` (`i64`), or in the
    /// window, as [`Pool2d::tap_dtype`] describes (`u8`).
    pub indices: Option<ViewMut<'a>>,
}

/// Arguments of [`max_pool2d_grad`](Pool2dBackend::max_pool2d_grad).
#[derive(Debug)]
pub struct MaxPool2dGradArgs<'a> {
    /// The windows.
    pub pool: Pool2d,
    /// The gradient of the result, `[N, C, H', W']`.
    pub grad: View<'a>,
    /// The positions that [`max_pool2d`](Pool2dBackend::max_pool2d) wrote, of either dtype, in the shape of `grad`.
    pub indices: View<'a>,
    /// Receives the gradient of the images, `[N, C, H, W]`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`avg_pool2d`](Pool2dBackend::avg_pool2d).
#[derive(Debug)]
pub struct AvgPool2dArgs<'a> {
    /// The windows, which are not dilated.
    pub pool: Pool2d,
    /// What sums are divided by.
    pub divisor: PoolDivisor,
    /// The images, `[N, C, H, W]`.
    pub x: View<'a>,
    /// The average of each window, `[N, C, H', W']`.
    pub out: ViewMut<'a>,
}

/// Arguments of [`avg_pool2d_grad`](Pool2dBackend::avg_pool2d_grad).
#[derive(Debug)]
pub struct AvgPool2dGradArgs<'a> {
    /// The windows, which are not dilated.
    pub pool: Pool2d,
    /// What sums are divided by.
    pub divisor: PoolDivisor,
    /// The gradient of the result, `[N, C, H', W']`.
    pub grad: View<'a>,
    /// Receives the gradient of the images, `[N, C, H, W]`.
    pub out: ViewMut<'a>,
}

impl Arguments for MaxPool2dArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "max_pool2d";
        let MaxPool2dArgs { pool, x, out, indices } = self;
        pool.check(OP, (x.layout, x.dtype()), (out.layout, out.dtype()))?;
        let Some(indices) = indices else { return Ok(()) };
        pool.check_positions(OP, indices.dtype())?;
        same_shape(OP, &[out.layout, indices.layout])
    }
}

impl Arguments for MaxPool2dGradArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "max_pool2d_grad";
        let MaxPool2dGradArgs { pool, grad, indices, out } = self;
        pool.check(OP, (out.layout, out.dtype()), (grad.layout, grad.dtype()))?;
        pool.check_positions(OP, indices.dtype())?;
        same_shape(OP, &[grad.layout, indices.layout])
    }
}

impl Arguments for AvgPool2dArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "avg_pool2d";
        let AvgPool2dArgs { pool, divisor, x, out } = self;
        check_average(OP, pool, *divisor)?;
        pool.check(OP, (x.layout, x.dtype()), (out.layout, out.dtype()))
    }
}

impl Arguments for AvgPool2dGradArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "avg_pool2d_grad";
        let AvgPool2dGradArgs { pool, divisor, grad, out } = self;
        check_average(OP, pool, *divisor)?;
        pool.check(OP, (out.layout, out.dtype()), (grad.layout, grad.dtype()))
    }
}

fn check_average(op: &'static str, pool: &Pool2d, divisor: PoolDivisor) -> Result<()> {
    let dense = !matches!(pool, Pool2d::Window { dilation, .. } if *dilation != [1; 2]);
    if dense && divisor != PoolDivisor::Fixed(0) {
        return Ok(());
    }
    let message = format!("average pooling takes no dilation and no divisor of 0, got {pool:?} and {divisor:?}");
    Err(Error::argument(op, message))
}

/// Max and average pooling. Images are `[N, C, H, W]` with any strides, channels-last ones included.
pub trait Pool2dBackend {
    /// The largest element of each window; NaN counts as the largest. Of equal elements, the position is that of the
    /// first in row-major order; of NaNs, that of the last. A window with no tap inside the input gives `-inf` and
    /// position -1 (tap 255).
    fn max_pool2d(&self, args: Checked<MaxPool2dArgs>) -> Result<()>;
    /// The gradient of `max_pool2d`: each element of `out` is the sum of `grad` over the windows that chose it, added
    /// in row-major order of the windows. A position outside the plane is an error, except -1, which is skipped. So is a
    /// tap number that the window does not have, or whose pixel is outside the input.
    fn max_pool2d_grad(&self, args: Checked<MaxPool2dGradArgs>) -> Result<()>;
    /// The sum of each window, divided; a window with no element inside the input gives 0.
    fn avg_pool2d(&self, args: Checked<AvgPool2dArgs>) -> Result<()>;
    /// The gradient of `avg_pool2d`.
    fn avg_pool2d_grad(&self, args: Checked<AvgPool2dGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn operands_are_checked() {
        let (memory, mut to) = (Memory(DType::F32), Memory(DType::F32));
        let mut largest = |pool, before: &[usize], after: &[usize]| {
            let (x, y) = (layout(before), layout(after));
            let forward = MaxPool2dArgs { pool, x: memory.view(&x), out: to.view_mut(&y), indices: None }.check();
            let indices = Memory(DType::I64);
            let (grad, indices) = (memory.view(&y), indices.view(&y));
            let backward = MaxPool2dGradArgs { pool, grad, indices, out: to.view_mut(&x) }.check();
            assert_eq!(forward.is_ok(), backward.is_ok());
            forward.is_ok()
        };
        let (pool, x) = (window(2, 2, 0, 1), [1, 2, 8, 8]);
        assert!(largest(pool, &x, &[1, 2, 4, 4]));
        for after in [&[1usize, 3, 4, 4][..], &[2, 2, 4, 4], &[2, 4, 4]] {
            assert!(!largest(pool, &x, after), "{after:?}");
        }
        for bad in [
            window(0, 2, 0, 1),
            window(2, 0, 0, 1),
            window(2, 2, 0, 0),
            window(usize::MAX, 2, 0, 1),
            window(2, usize::MAX, 0, 1),
            window(2, 2, usize::MAX, 1),
            window(1 << 40, 2, 0, 1 << 40),
        ] {
            assert!(!largest(bad, &x, &[1, 2, 4, 4]), "{bad:?}");
        }
        assert!(largest(Pool2d::Adaptive, &[0, 2, 4, 4], &[0, 2, 2, 2]));
        assert!(!largest(Pool2d::Adaptive, &[1, 2, 0, 4], &[1, 2, 2, 2]));
        assert!(!largest(Pool2d::Adaptive, &[0, 1, 1 << 40, 1], &[0, 1, 1 << 40, 1]));
        let (x, y) = (layout(&x), layout(&[1, 2, 4, 4]));
        let mut average = |pool, divisor, memory: Memory| {
            AvgPool2dArgs { pool, divisor, x: memory.view(&x), out: to.view_mut(&y) }.check().is_ok()
        };
        assert!(average(pool, PoolDivisor::Inside, memory) && !average(pool, PoolDivisor::Fixed(0), memory));
        assert!(!average(window(2, 2, 0, 2), PoolDivisor::Inside, memory));
        assert!(!average(pool, PoolDivisor::Inside, Memory(DType::F64)));
    }

    fn window(kernel: usize, stride: usize, padding: usize, dilation: usize) -> Pool2d {
        Pool2d::Window { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2] }
    }

    #[test]
    fn positions_are_taps_of_small_windows_or_places_in_the_plane() {
        let (memory, mut to) = (Memory(DType::F32), Memory(DType::F32));
        let (x, y) = (layout(&[1, 1, 300, 300]), layout(&[1, 1, 2, 2]));
        let mut allowed = |pool, dtype| {
            let (mut positions, given) = (Memory(dtype), Memory(dtype));
            let indices = Some(positions.view_mut(&y));
            let forward = MaxPool2dArgs { pool, x: memory.view(&x), out: to.view_mut(&y), indices }.check();
            let (grad, indices) = (memory.view(&y), given.view(&y));
            let backward = MaxPool2dGradArgs { pool, grad, indices, out: to.view_mut(&x) }.check();
            assert_eq!(forward.is_ok(), backward.is_ok());
            forward.is_ok()
        };
        let of = |kernel| Pool2d::Window { kernel, stride: [1; 2], padding: [0; 2], dilation: [1; 2] };
        for (pool, taps) in [(of([2, 2]), true), (of([5, 51]), true), (of([16, 16]), false), (Pool2d::Adaptive, false)]
        {
            assert_eq!(pool.tap_dtype(), if taps { DType::U8 } else { DType::I64 }, "{pool:?}");
            let dtypes = [DType::I64, DType::U8, DType::I32, DType::F32].map(|dtype| allowed(pool, dtype));
            assert_eq!(dtypes, [true, taps, false, false], "{pool:?}");
        }
        assert_eq!(of([usize::MAX; 2]).tap_dtype(), DType::I64);
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
