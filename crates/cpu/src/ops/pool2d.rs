//! Two-dimensional max and average pooling, and their gradients.
//!
//! Forward, a line of windows is computed at a time, tap by tap: along a row of the output, or along the channels in
//! channels-last images and where windows differ in size. Backward, one plane at a time is accumulated in working
//! memory, in row-major order of the windows.

mod lines;

use kiln_backend::{
    AvgPool2dArgs, AvgPool2dGradArgs, Checked, DType, Error, MaxPool2dArgs, MaxPool2dGradArgs, Pool2d, Pool2dBackend,
    PoolDivisor, Result, View, ViewMut,
};

use crate::{
    device::CpuBackend,
    engine::{
        image::Image,
        par::{self, GRAIN},
        simd::multiversion,
    },
    memory::{
        erased::Erased,
        view::{Source, Target},
    },
    numeric::{dispatch::for_float, real::Real},
};

use lines::lines;

impl Pool2dBackend for CpuBackend {
    fn max_pool2d(&self, args: Checked<MaxPool2dArgs>) -> Result<()> {
        const OP: &str = "max_pool2d";
        let MaxPool2dArgs { pool, x, out, indices } = args.into_inner();
        let indices = indices.map(|indices| Positions::write(OP, indices)).transpose()?;
        for_float!(OP, x.dtype(), S => {
            let (x, out) = (Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            largest_of(&pool, x.erased(), out.erased(), indices);
            Ok(())
        })
    }

    fn avg_pool2d(&self, args: Checked<AvgPool2dArgs>) -> Result<()> {
        const OP: &str = "avg_pool2d";
        let AvgPool2dArgs { pool, divisor, x, out } = args.into_inner();
        for_float!(OP, x.dtype(), S => {
            let (x, out) = (Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            average_of(&pool, divisor, x.erased(), out.erased());
            Ok(())
        })
    }

    fn max_pool2d_grad(&self, args: Checked<MaxPool2dGradArgs>) -> Result<()> {
        const OP: &str = "max_pool2d_grad";
        let MaxPool2dGradArgs { pool, grad, indices, out } = args.into_inner();
        let indices = Positions::read(OP, indices)?;
        for_float!(OP, grad.dtype(), S => {
            let (grad, out) = (Source::<S>::new(OP, grad)?, Target::<S>::new(OP, out)?);
            gradient_of_largest(&pool, grad.erased(), &indices, out.erased())
        })
    }

    fn avg_pool2d_grad(&self, args: Checked<AvgPool2dGradArgs>) -> Result<()> {
        const OP: &str = "avg_pool2d_grad";
        let AvgPool2dGradArgs { pool, divisor, grad, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, out) = (Source::<S>::new(OP, grad)?, Target::<S>::new(OP, out)?);
            gradient_of_average(&pool, divisor, grad.erased(), out.erased())
        })
    }
}

/// The positions of the maxima.
enum Positions {
    /// Positions in the plane.
    Planes(Image<i64>),
    /// Tap numbers in the windows.
    Taps(Image<u8>),
}

impl Positions {
    fn write(op: &'static str, view: ViewMut) -> Result<Positions> {
        Ok(if view.dtype() == DType::U8 {
            Positions::Taps(Image::new(&Target::<u8>::new(op, view)?.erased()))
        } else {
            Positions::Planes(Image::new(&Target::<i64>::new(op, view)?.erased()))
        })
    }

    fn read(op: &'static str, view: View) -> Result<Positions> {
        Ok(if view.dtype() == DType::U8 {
            Positions::Taps(Image::new(&Source::<u8>::new(op, view)?.erased()))
        } else {
            Positions::Planes(Image::new(&Source::<i64>::new(op, view)?.erased()))
        })
    }

    fn are_taps(&self) -> bool {
        matches!(self, Positions::Taps(_))
    }

    /// Calls `each` with the column of each window of a row and the position of its maximum in the plane, or -1.
    ///
    /// # Safety
    /// The row lies inside the layout, which is readable.
    unsafe fn of_row(
        &self,
        [n, c, y]: [usize; 3],
        taps: &[(isize, isize)],
        to: [usize; 2],
        pool: &Pool2d,
        mut each: impl FnMut(usize, i64) -> Result<()>,
    ) -> Result<()> {
        match self {
            Positions::Planes(image) => {
                let first = image.ptr.offset(image.at(n, c, y, 0));
                // SAFETY: the caller's promise.
                (0..image.w).try_for_each(|x| each(x, unsafe { first.offset(x as isize * image.strides[3]).load() }))
            }
            Positions::Taps(image) => {
                let (first, top) = (image.ptr.offset(image.at(n, c, y, 0)), pool.window(0, y, to[0], image.h).0.start);
                (0..image.w).try_for_each(|x| {
                    // SAFETY: the caller's promise.
                    let tap: u8 = unsafe { first.offset(x as isize * image.strides[3]).load() };
                    let Some(&(down, right)) = taps.get(usize::from(tap)) else { return each(x, -1) };
                    let (row, column) = (top + down, pool.window(1, x, to[1], image.w).0.start + right);
                    let inside = (0..to[0] as isize).contains(&row) && (0..to[1] as isize).contains(&column);
                    each(x, if inside { (row * to[1] as isize + column) as i64 } else { -1 })
                })
            }
        }
    }
}

/// The offset of each tap from the beginning of its window.
fn offsets_of_taps(pool: &Pool2d) -> Vec<(isize, isize)> {
    let Pool2d::Window { kernel, dilation, .. } = *pool else { return Vec::new() };
    let tap = |i: usize| (i / kernel[1] * dilation[0], i % kernel[1] * dilation[1]);
    (0..kernel[0] * kernel[1]).map(|i| (tap(i).0 as isize, tap(i).1 as isize)).collect()
}

fn largest_of<T: Real>(pool: &Pool2d, x: Erased<T>, out: Erased<T>, indices: Option<Positions>) {
    let (from, to) = (Image::new(&x), Image::new(&out));
    let taps = indices.as_ref().is_some_and(Positions::are_taps);
    if whole(pool, &from, &to) {
        // SAFETY: checked views, of which the outputs are exclusively borrowed.
        unsafe { max_planes(pool, &from, &to, indices.as_ref()) };
        return;
    }
    lines(pool, &from, &to, &|line, state, at| {
        let [best, seen] = state;
        best.clear();
        best.resize(line.len, -T::INFINITY);
        at.clear();
        at.resize(line.len, -1);
        line.taps(&from, pool, &to, seen, |range, seen, tap, position, step| {
            let (position, step) = if taps { (tap as i64, 0) } else { (position, step) };
            larger(seen, position, step, &mut best[range.clone()], &mut at[range]);
        });
        // SAFETY: lines are inside the output and disjoint.
        unsafe {
            line.store(&to, best);
            match &indices {
                Some(Positions::Planes(image)) => line.store(image, at),
                Some(Positions::Taps(image)) => line.store(image, &numbers(at)),
                None => {}
            }
        }
    });
}

fn average_of<T: Real>(pool: &Pool2d, divisor: PoolDivisor, x: Erased<T>, out: Erased<T>) {
    let (from, to) = (Image::new(&x), Image::new(&out));
    lines(pool, &from, &to, &|line, state, _| {
        let [sums, seen] = state;
        sums.clear();
        sums.resize(line.len, T::of(0.0));
        line.taps(&from, pool, &to, seen, |range, seen, _, _, _| add(seen, &mut sums[range]));
        let dy = window(pool, divisor, 0, line.y, from.h, to.h);
        for (i, sum) in sums.iter_mut().enumerate() {
            let ox = if line.along_channels { line.x } else { i };
            let dx = window(pool, divisor, 1, ox, from.w, to.w);
            *sum = *sum / T::of(divided_by(divisor, dy.1, dx.1));
        }
        // SAFETY: lines are inside the output and disjoint.
        unsafe { line.store(&to, sums) };
    });
}

/// Tap numbers as stored; -1 becomes 255.
fn numbers(at: &[i64]) -> Vec<u8> {
    at.iter().map(|&tap| tap as u8).collect()
}

fn gradient_of_largest<T: Real>(pool: &Pool2d, grad: Erased<T>, chosen: &Positions, out: Erased<T>) -> Result<()> {
    const OP: &str = "max_pool2d_grad";
    let (to, from) = (Image::new(&out), Image::new(&grad));
    let taps = offsets_of_taps(pool);
    sum_planes(&from, &to, &|n, c, row, plane| {
        for y in 0..from.h {
            // SAFETY: a row of a checked layout.
            unsafe { from.ptr.offset(from.at(n, c, y, 0)).gather(from.strides[3], from.w, row.as_mut_ptr()) };
            let add = |x: usize, position: i64| {
                match usize::try_from(position).ok().and_then(|position| plane.get_mut(position)) {
                    Some(sum) => *sum = *sum + row[x],
                    None if position == -1 => {}
                    None => return Err(Error::index(OP, position, plane.len(), "the pixels of a plane")),
                }
                Ok(())
            };
            // SAFETY: a row of a checked layout of the same shape.
            unsafe { chosen.of_row([n, c, y], &taps, [to.h, to.w], pool, add)? };
        }
        Ok(())
    })
}

fn gradient_of_average<T: Real>(pool: &Pool2d, divisor: PoolDivisor, grad: Erased<T>, out: Erased<T>) -> Result<()> {
    let (to, from) = (Image::new(&out), Image::new(&grad));
    sum_planes(&from, &to, &|n, c, row, plane| {
        for y in 0..from.h {
            let (rows, tall) = window(pool, divisor, 0, y, to.h, from.h);
            // SAFETY: a row of the checked layout.
            unsafe { from.ptr.offset(from.at(n, c, y, 0)).gather(from.strides[3], from.w, row.as_mut_ptr()) };
            for (x, &value) in row.iter().enumerate() {
                let (columns, wide) = window(pool, divisor, 1, x, to.w, from.w);
                let share = value / T::of(divided_by(divisor, tall, wide));
                for y in rows.clone() {
                    plane[y * to.w..][columns.clone()].iter_mut().for_each(|sum| *sum = *sum + share);
                }
            }
        }
        Ok(())
    })
}

/// The part of a window that is inside the input along one axis, and the window's size as the divisor counts it.
fn window(
    pool: &Pool2d,
    divisor: PoolDivisor,
    axis: usize,
    o: usize,
    input: usize,
    output: usize,
) -> (std::ops::Range<usize>, usize) {
    let (range, _) = pool.window(axis, o, input, output);
    let clip = |at: isize| (at.max(0) as usize).min(input);
    let inside = clip(range.start)..clip(range.end).max(clip(range.start));
    let padded = match *pool {
        Pool2d::Window { padding, .. } => range.end.min((input + padding[axis]) as isize) - range.start,
        Pool2d::Adaptive => inside.len() as isize,
    };
    let size = if divisor == PoolDivisor::WithPadding { padded.max(0) as usize } else { inside.len() };
    (inside, size)
}

fn divided_by(divisor: PoolDivisor, tall: usize, wide: usize) -> f64 {
    match divisor {
        PoolDivisor::Fixed(number) => number as f64,
        // A window with no element at all has the sum 0.
        PoolDivisor::WithPadding | PoolDivisor::Inside => (tall * wide).max(1) as f64,
    }
}

/// Whether the images are row-major and every window lies inside the input.
fn whole<T: Real>(pool: &Pool2d, from: &Image<T>, to: &Image<T>) -> bool {
    let Pool2d::Window { kernel, stride, padding, dilation } = *pool else { return false };
    let inside = |axis: usize, input: usize, output: usize| {
        output > 0 && (output - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] < input
    };
    let row_major = from.strides[1] != 1 || from.c == 1;
    row_major && padding == [0, 0] && inside(0, from.h, to.h) && inside(1, from.w, to.w)
}

/// Max pooling, a plane at a time, where every window lies inside the input.
///
/// # Safety
/// The images are readable and writable and belong together, and [`whole`] is true of them.
unsafe fn max_planes<T: Real>(pool: &Pool2d, from: &Image<T>, to: &Image<T>, indices: Option<&Positions>) {
    let Pool2d::Window { kernel, stride, dilation, .. } = *pool else { return };
    let area = to.area();
    par::ranges(to.n * to.c, (GRAIN / (area * kernel[0] * kernel[1]).max(1)).max(1), |range| {
        let mut values = [vec![T::of(0.0); area], vec![T::of(0.0); area]];
        let [best, seen] = &mut values;
        let starts = (0..to.h).flat_map(|y| (0..to.w).map(move |x| (y * stride[0] * from.w + x * stride[1]) as i64));
        let starts: Vec<i64> = match indices {
            Some(Positions::Planes(_)) => starts.collect(),
            Some(Positions::Taps(_)) => vec![0; area],
            None => Vec::new(),
        };
        let mut at = vec![0i64; starts.len()];
        for (n, c) in range.map(|i| (i / to.c, i % to.c)) {
            for tap in 0..kernel[0] * kernel[1] {
                let (down, right) = (tap / kernel[1] * dilation[0], tap % kernel[1] * dilation[1]);
                let into = if tap == 0 { &mut *best } else { &mut *seen };
                let first = from.ptr.offset(from.at(n, c, down, right));
                // SAFETY: all windows are inside.
                unsafe { first.gather_rows(from.rows([to.h, to.w], stride), into.as_mut_ptr(), to.w) };
                let taps = matches!(indices, Some(Positions::Taps(_)));
                let offset = if taps { tap } else { down * from.w + right } as i64;
                match tap {
                    0 => at.copy_from_slice(&starts),
                    _ if indices.is_some() => larger_at(seen, &starts, offset, best, &mut at),
                    _ => largest(seen, best),
                }
            }
            // SAFETY: planes of the outputs; tasks have different ones.
            unsafe {
                let rows = to.rows([to.h, to.w], [1, 1]);
                to.ptr.offset(to.at(n, c, 0, 0)).scatter_rows(rows, best.as_ptr(), to.w);
                match indices {
                    Some(Positions::Planes(image)) => {
                        let rows = image.rows([to.h, to.w], [1, 1]);
                        image.ptr.offset(image.at(n, c, 0, 0)).scatter_rows(rows, at.as_ptr(), to.w);
                    }
                    Some(Positions::Taps(image)) => {
                        let (rows, at) = (image.rows([to.h, to.w], [1, 1]), numbers(&at));
                        image.ptr.offset(image.at(n, c, 0, 0)).scatter_rows(rows, at.as_ptr(), to.w);
                    }
                    None => {}
                }
            }
        }
    });
}

/// Accumulates the plane of one image and channel, with a scratch row.
type PlaneBody<'a, T> = dyn Fn(usize, usize, &mut [T], &mut [T]) -> Result<()> + Sync + 'a;

/// Calls `body` with a scratch row and a plane of zeros for every image and channel, in parallel, and stores the
/// planes. A plane without gaps in the output is accumulated in place.
fn sum_planes<T: Real>(from: &Image<T>, to: &Image<T>, body: &PlaneBody<'_, T>) -> Result<()> {
    if to.n * to.c * to.area() == 0 {
        return Ok(());
    }
    let in_place = to.ptr.direct().is_some() && to.is_flat() && to.step() == 1;
    par::try_ranges(to.n * to.c, (GRAIN / 2 / (to.area() + from.area())).max(1), |range| {
        let mut row = vec![T::of(0.0); from.w];
        let mut staged = vec![T::of(0.0); if in_place { 0 } else { to.area() }];
        for i in range {
            let (n, c) = (i / to.c, i % to.c);
            let first = to.ptr.offset(to.at(n, c, 0, 0));
            let plane = match first.direct() {
                // SAFETY: a plane of the output without gaps; tasks have different ones.
                Some(start) if in_place => unsafe { std::slice::from_raw_parts_mut(start, to.area()) },
                _ => &mut staged[..],
            };
            plane.fill(T::of(0.0));
            body(n, c, &mut row, plane)?;
            if !in_place {
                // SAFETY: a plane of the output; tasks have different ones.
                unsafe { first.scatter_rows(to.rows([to.h, to.w], [1, 1]), staged.as_ptr(), to.w) };
            }
        }
        Ok(())
    })
}

multiversion! {
    fn larger[T: Real](seen: &[T], position: i64, step: i64, best: &mut [T], at: &mut [i64]), avx512 if [size_of::<T>() == 4] {
        for (i, ((&seen, best), at)) in seen.iter().zip(best).zip(at).enumerate() {
            // Only NaN is not equal to itself; the last NaN wins.
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen || *at < 0;
            *best = if take { seen } else { *best };
            *at = if take { position + i as i64 * step } else { *at };
        }
    }

    // Positions are those in `starts`, plus `offset`.
    fn larger_at[T: Real](seen: &[T], starts: &[i64], offset: i64, best: &mut [T], at: &mut [i64]), avx512 if [size_of::<T>() == 4] {
        for (((&seen, &start), best), at) in seen.iter().zip(starts).zip(best).zip(at) {
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen;
            *best = if take { seen } else { *best };
            *at = if take { start + offset } else { *at };
        }
    }

    fn largest[T: Real](seen: &[T], best: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&seen, best) in seen.iter().zip(best) {
            #[allow(clippy::eq_op)]
            let take = seen > *best || seen != seen;
            *best = if take { seen } else { *best };
        }
    }

    fn add[T: Real](seen: &[T], sums: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&seen, sum) in seen.iter().zip(sums) {
            *sum = *sum + seen;
        }
    }
}
