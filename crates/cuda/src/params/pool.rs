//! The parameters of pooling kernels: windows along each axis, and the order in which elements of images are numbered.

use kiln_backend::{Error, Pool2d, PoolDivisor, Result};

use super::{Dim, Grid, Pool, PoolAxis};

/// Places in the input stay below this, whatever a window asks for.
const FARTHEST: usize = 1 << 60;
/// Below this numbers are divided in 32 bits.
const NEAR: usize = 1 << 31;

impl PoolAxis {
    /// The axis, and whether its numbers are all [`NEAR`]. `None` if a stride, dilation or kernel is 0, or a window ends
    /// beyond all numbers.
    fn new(pool: &Pool2d, axis: usize, input: usize, output: usize) -> Option<(PoolAxis, bool)> {
        let extent = |n: usize| Dim::new(n as u64);
        let mut largest = 0;
        let mut near = |n: Option<usize>| {
            largest = largest.max(n?);
            n.filter(|&n| n < FARTHEST)
        };
        let (kernel, stride, padding, dilation) = match *pool {
            Pool2d::Window { kernel, stride, padding, dilation } => {
                (kernel[axis], stride[axis], padding[axis], dilation[axis])
            }
            Pool2d::Adaptive => {
                near(output.checked_add(2)?.checked_mul(input.checked_add(2)?))?;
                (0, 1, 0, 1)
            }
        };
        if stride == 0 || dilation == 0 || (kernel == 0 && *pool != Pool2d::Adaptive) {
            return None;
        }
        let reach = near(kernel.checked_mul(dilation))?;
        near(output.checked_mul(stride)?.checked_add(reach)?.checked_add(padding))?;
        near(input.checked_add(padding)?.checked_add(stride)?.checked_add(output))?;
        let (input, output) = (extent(input), extent(output));
        let (stride, dilation) = (extent(stride), extent(dilation));
        let axis = PoolAxis { input, output, stride, dilation, kernel: kernel as i64, padding: padding as i64 };
        Some((axis, largest < NEAR))
    }
}

impl Pool {
    /// Neighbors in memory are neighboring channels.
    pub const CHANNELS_LAST: u32 = 2;
    /// Some number along an axis may be 2^31 or more.
    pub const WIDE_WINDOWS: u32 = 4;

    /// A pooling of images of `input` extents to `output` extents (`[N, C, H, W]`). What is numbered is the output, or
    /// `backward` the input, in the order of its `strides`.
    ///
    /// # Errors
    /// The windows are not possible.
    pub fn new(
        op: &'static str,
        pool: &Pool2d,
        [input, output]: [[usize; 4]; 2],
        backward: bool,
        strides: [i64; 4],
    ) -> Result<Pool> {
        let axis = |axis| {
            let impossible = || Error::argument(op, format!("{pool:?} does not fit an input of {input:?}"));
            PoolAxis::new(pool, axis, input[axis + 2], output[axis + 2]).ok_or_else(impossible)
        };
        let [n, c, h, w] = if backward { input } else { output };
        let numel = (n * c * h * w) as u64;
        let last = c > 1 && strides[1].unsigned_abs() < strides[3].unsigned_abs();
        let dims = if last { [c, w, h] } else { [w, h, c] }.map(|extent| Dim::new(extent as u64));
        let ((rows, near_rows), (columns, near_columns)) = (axis(0)?, axis(1)?);
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        Ok(Pool {
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
        })
    }

    /// For an average.
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
        let planes = Pool::new("t", &Pool2d::Adaptive, sides, false, [60, 20, 5, 1]).unwrap();
        assert_eq!((planes.numel, planes.flags, planes.dims.map(|d| d.extent)), (120, 0, [5, 4, 3]));
        let pixels = Pool::new("t", &Pool2d::Adaptive, sides, true, [216, 1, 27, 3]).unwrap();
        assert_eq!((pixels.numel, pixels.flags), (432, Pool::CHANNELS_LAST));
        assert_eq!(pixels.dims.map(|d| d.extent), [3, 9, 8]);
    }

    #[test]
    fn windows_that_cannot_be_are_errors() {
        let sides = [[1, 1, 8, 8], [1, 1, 4, 4]];
        let window = |kernel, stride, padding, dilation| Pool2d::Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 2],
            dilation: [dilation; 2],
        };
        let try_one = |pool: Pool2d| Pool::new("t", &pool, sides, false, [0; 4]);
        assert!(try_one(window(2, 2, 0, 1)).is_ok());
        for bad in [
            window(0, 2, 0, 1),
            window(2, 0, 0, 1),
            window(2, 2, 0, 0),
            window(usize::MAX, 2, 0, 1),
            window(2, usize::MAX, 0, 1),
            window(2, 2, usize::MAX, 1),
            window(1 << 40, 2, 0, 1 << 40),
        ] {
            assert!(try_one(bad).is_err(), "{bad:?}");
        }
        assert_eq!(try_one(window(2, 2, 0, 1)).unwrap().flags, 0);
        assert_eq!(try_one(window(2, 2, 1 << 31, 1)).unwrap().flags, Pool::WIDE_WINDOWS);
        let huge = [[1, 1, 1 << 40, 1], [1, 1, 1 << 40, 1]];
        assert!(Pool::new("t", &Pool2d::Adaptive, huge, false, [0; 4]).is_err());
    }
}
