//! The parameters of pooling kernels: windows along each axis, and the order in which elements of images are numbered.

use kiln_backend::{Pool2d, PoolDivisor};

use super::{Dim, Grid};

by_value! {
    /// One axis of a pooling.
    PoolAxis: 112 => {
        /// Extent of the input.
        input: Dim = 0,
        /// Extent of the output.
        output: Dim = 24,
        /// Distance between windows.
        stride: Dim = 48,
        /// Distance between taps.
        dilation: Dim = 72,
        /// Number of taps; 0 for adaptive windows.
        kernel: i64 = 96,
        /// How far the first window begins before the input.
        padding: i64 = 104,
    }
    /// A pooling of images, forward or backward; positions are numbered in the result.
    Pool: 416 => {
        /// Number of positions.
        numel: u64 = 0,
        /// [`Grid::WIDE`], and the constants of this type.
        flags: u32 = 8,
        /// The divisor: 0 with padding, 1 inside the image only, 2 fixed.
        divisor: u32 = 12,
        /// The last three extents of the result in memory order, innermost first.
        dims: [Dim; 3] = 16,
        /// Height and width.
        axes: [PoolAxis; 2] = 88,
        /// Strides of the input or its gradient.
        input: [i64; 4] = 312,
        /// Strides of the output or its gradient.
        output: [i64; 4] = 344,
        /// Strides of the positions of maxima.
        indices: [i64; 4] = 376,
        /// The fixed divisor.
        fixed: i64 = 408,
    }
}

/// Numbers below this are divided in 32 bits.
const NEAR: usize = 1 << 31;

impl PoolAxis {
    /// The axis, and whether all its numbers are below [`NEAR`]. The contract bounds them.
    fn new(pool: &Pool2d, axis: usize, input: usize, output: usize) -> (PoolAxis, bool) {
        let (kernel, stride, padding, dilation, places) = match *pool {
            Pool2d::Window { kernel, stride, padding, dilation } => {
                (kernel[axis], stride[axis], padding[axis], dilation[axis], 0)
            }
            Pool2d::Adaptive => (0, 1, 0, 1, (output + 2) * (input + 2)),
        };
        let reach = kernel * dilation;
        let largest = places.max(output * stride + reach + padding).max(input + padding + stride + output);
        let extent = |n: usize| Dim::new(n as u64);
        let (input, output) = (extent(input), extent(output));
        let (stride, dilation) = (extent(stride), extent(dilation));
        let axis = PoolAxis { input, output, stride, dilation, kernel: kernel as i64, padding: padding as i64 };
        (axis, largest < NEAR)
    }
}

impl Pool {
    /// Adjacent elements in memory are adjacent channels.
    pub const CHANNELS_LAST: u32 = 2;
    /// Some number along an axis may be 2^31 or more.
    pub const WIDE_WINDOWS: u32 = 4;
    /// Positions of maxima are tap numbers.
    pub const TAPS: u32 = 8;

    /// A pooling, checked by its contract, of images of extents `input` to extents `output` (`[N, C, H, W]`). Positions
    /// are numbered in the output, or in the input if `backward`, in the order of `strides`.
    #[must_use]
    pub fn new(pool: &Pool2d, [input, output]: [[usize; 4]; 2], backward: bool, strides: [i64; 4]) -> Pool {
        let axis = |axis| PoolAxis::new(pool, axis, input[axis + 2], output[axis + 2]);
        let [n, c, h, w] = if backward { input } else { output };
        let numel = (n * c * h * w) as u64;
        let last = c > 1 && strides[1].unsigned_abs() < strides[3].unsigned_abs();
        let dims = if last { [c, w, h] } else { [w, h, c] }.map(|extent| Dim::new(extent as u64));
        let ((rows, near_rows), (columns, near_columns)) = (axis(0), axis(1));
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        Pool {
            numel,
            flags: flag(numel >= 1 << 31, Grid::<1>::WIDE)
                | flag(last, Self::CHANNELS_LAST)
                | flag(!(near_rows && near_columns), Self::WIDE_WINDOWS),
            divisor: 0,
            dims,
            axes: [rows, columns],
            input: [0; 4],
            output: [0; 4],
            indices: [0; 4],
            fixed: 0,
        }
    }

    /// The same pooling with the divisor of an average.
    #[must_use]
    pub fn divided(self, divisor: PoolDivisor) -> Pool {
        let (divisor, fixed) = match divisor {
            PoolDivisor::WithPadding => (0, 0),
            PoolDivisor::Inside => (1, 0),
            PoolDivisor::Fixed(number) => (2, number),
        };
        Pool { divisor, fixed, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_numbered_as_memory_runs() {
        let sides = [[2, 3, 8, 9], [2, 3, 4, 5]];
        let planes = Pool::new(&Pool2d::Adaptive, sides, false, [60, 20, 5, 1]);
        assert_eq!((planes.numel, planes.flags, planes.dims.map(|d| d.extent)), (120, 0, [5, 4, 3]));
        let pixels = Pool::new(&Pool2d::Adaptive, sides, true, [216, 1, 27, 3]);
        assert_eq!((pixels.numel, pixels.flags), (432, Pool::CHANNELS_LAST));
        assert_eq!(pixels.dims.map(|d| d.extent), [3, 9, 8]);
    }

    #[test]
    fn large_windows_are_divided_in_64_bits() {
        let flags = |padding| {
            let pool = Pool2d::Window { kernel: [2; 2], stride: [2; 2], padding: [padding; 2], dilation: [1; 2] };
            Pool::new(&pool, [[1, 1, 8, 8], [1, 1, 4, 4]], false, [0; 4]).flags
        };
        assert_eq!((flags(0), flags(1 << 31)), (0, Pool::WIDE_WINDOWS));
    }
}
