//! Lines of pooling windows that are computed together: along a row of the output, or along channels.

use std::ops::Range;

use kiln_backend::Pool2d;

use crate::{
    engine::{
        image::Image,
        par::{self, GRAIN},
    },
    numeric::real::Real,
};

/// Windows that are computed together.
pub(super) struct Line<'a> {
    pub(super) n: usize,
    /// The channel, or the first of them.
    pub(super) c: usize,
    pub(super) y: usize,
    /// The column, or the first of them.
    pub(super) x: usize,
    pub(super) len: usize,
    pub(super) along_channels: bool,
    pub(super) columns: &'a [Range<usize>],
}

/// Computes a line of windows, with scratch vectors.
pub(super) type LineBody<'a, T> = dyn Fn(&Line<'_>, &mut [Vec<T>; 2], &mut Vec<i64>) + Sync + 'a;

/// Calls `body` for lines that cover the output, in parallel. The scratch vectors are reused from line to line.
pub(super) fn lines<T: Real>(pool: &Pool2d, from: &Image<T>, to: &Image<T>, body: &LineBody<'_, T>) {
    let along_channels = *pool == Pool2d::Adaptive || (from.strides[1] == 1 && from.c > 1);
    let count = to.n * to.h * if along_channels { to.w } else { to.c };
    let len = if along_channels { to.c } else { to.w };
    if count * len == 0 {
        return;
    }
    // For lines along rows: the windows whose tap number `i` is inside.
    let mut columns = Vec::new();
    if let (false, Pool2d::Window { kernel, stride, padding, dilation }) = (along_channels, *pool) {
        for tap in 0..kernel[1] {
            let offset = (tap * dilation[1]) as isize - padding[1] as isize;
            let first_at = |x: isize| if x <= offset { 0 } else { ((x - offset) as usize).div_ceil(stride[1].max(1)) };
            let low = first_at(0).min(to.w);
            columns.push(low..first_at(from.w as isize).clamp(low, to.w));
        }
    }
    let taps = match *pool {
        Pool2d::Window { kernel, .. } => kernel[0] * kernel[1],
        Pool2d::Adaptive => (from.h / to.h + 1) * (from.w / to.w + 1),
    };
    par::ranges(count, (GRAIN / (len * taps).max(1)).max(1), |range| {
        let (mut state, mut at) = ([Vec::new(), Vec::new()], Vec::new());
        for i in range {
            let line = if along_channels {
                Line { n: i / (to.h * to.w), c: 0, y: i / to.w % to.h, x: i % to.w, len, along_channels, columns: &[] }
            } else {
                Line {
                    n: i / (to.c * to.h),
                    c: i / to.h % to.c,
                    y: i % to.h,
                    x: 0,
                    len,
                    along_channels,
                    columns: &columns,
                }
            };
            body(&line, &mut state, &mut at);
        }
    });
}

impl Line<'_> {
    /// For every tap, in row-major order, calls `body` with the windows of the line in which the tap is inside the
    /// input, the inputs that it reads, the tap's number, the position of the first input in its plane, and the step
    /// between positions.
    pub(super) fn taps<T: Real>(
        &self,
        from: &Image<T>,
        pool: &Pool2d,
        to: &Image<T>,
        seen: &mut Vec<T>,
        mut body: impl FnMut(Range<usize>, &[T], usize, i64, i64),
    ) {
        seen.resize(self.len, T::of(0.0));
        let width = if let Pool2d::Window { kernel, .. } = *pool { kernel[1] } else { 0 };
        let (rows, down) = pool.window(0, self.y, from.h, to.h);
        for (row, y) in rows.step_by(down).enumerate().filter(|&(_, y)| y >= 0 && y < from.h as isize) {
            let y = y as usize;
            if self.along_channels {
                let (columns, right) = pool.window(1, self.x, from.w, to.w);
                for (tap, x) in columns.step_by(right).enumerate().filter(|&(_, x)| x >= 0 && x < from.w as isize) {
                    let x = x as usize;
                    // SAFETY: a pixel of the image, all of its channels.
                    unsafe {
                        let first = from.ptr.offset(from.at(self.n, 0, y, x));
                        first.gather(from.strides[1], self.len, seen.as_mut_ptr());
                    }
                    body(0..self.len, seen, row * width + tap, (y * from.w + x) as i64, 0);
                }
            } else if let Pool2d::Window { stride, padding, dilation, .. } = *pool {
                for (tap, range) in self.columns.iter().enumerate().filter(|(_, range)| !range.is_empty()) {
                    let x = range.start * stride[1] + tap * dilation[1] - padding[1];
                    // SAFETY: `columns` are those windows whose tap is inside the image.
                    unsafe {
                        let first = from.ptr.offset(from.at(self.n, self.c, y, x));
                        first.gather(from.strides[3] * stride[1] as isize, range.len(), seen.as_mut_ptr());
                    }
                    let position = (y * from.w + x) as i64;
                    body(range.clone(), &seen[..range.len()], row * width + tap, position, stride[1] as i64);
                }
            }
        }
    }

    /// Stores the line's values.
    ///
    /// # Safety
    /// The line is inside the images, and nobody else accesses it there.
    pub(super) unsafe fn store<T: Copy>(&self, to: &Image<T>, values: &[T]) {
        let step = to.strides[if self.along_channels { 1 } else { 3 }];
        // SAFETY: the caller's promise.
        unsafe { to.ptr.offset(to.at(self.n, self.c, self.y, self.x)).scatter(values.as_ptr(), step, values.len()) }
    }
}
