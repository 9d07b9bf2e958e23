//! `index_select`, `index_add`, `gather` and `scatter`.
//!
//! All four walk over a grid of positions `[…, i, …]` and move elements between a *near* tensor, at the
//! position itself, and a *far* one, at the position with `i` replaced by an index. `index_select` and
//! `index_add` are `gather` and `scatter` with an index that is the same across all other dimensions.
//!
//! Indices are checked before anything is written. The result does not depend on the number of threads:
//! positions that reach the same far element differ only in `i`, and a task takes them in that order. Sums of half
//! precision are added up in `f32` and rounded once (`wide`).

mod grid;
mod parts;
mod wide;

use std::ops::Range;

use kiln_backend::{
    Checked, Error, GatherArgs, IndexAddArgs, IndexBackend, IndexSelectArgs, MAX_RANK, Operand, Result, ScatterArgs,
    ScatterMode, ViewMut, index_axis, index_vector_strides,
};

use crate::{
    device::CpuBackend,
    engine::{iter::Walk, par, simd::multiversion},
    memory::view::{Source, Target},
    numeric::{
        dispatch::{for_all, for_direct, for_half},
        int::Int,
        real::Real,
        stored::Stored,
    },
};
use grid::{FAR, Grid, INDEX, NEAR};
use parts::{Part, Pieces, Shared, SharedMut, divide};

/// Checks that all indices are in `0..size`, the extent of `dim`.
fn check_indices(op: &'static str, index: &Source<i64>, dim: usize, size: usize) -> Result<()> {
    let error = |i: i64| Err(Error::index(op, i, size, format!("dimension {dim}")));
    // A negative index is a large unsigned one.
    let outside = |i: i64| i as u64 >= size as u64;
    if let Some(all) = index.slice() {
        return par::try_ranges(all.len(), par::GRAIN, |range| {
            let part = &all[range];
            // Without an early exit, the first loop vectorizes.
            if part.iter().fold(false, |any, &i| any | outside(i)) {
                return part.iter().find(|&&i| outside(i)).map_or(Ok(()), |&i| error(i));
            }
            Ok(())
        });
    }
    let walk = Walk::new(index.layout());
    par::try_ranges(walk.len(), par::GRAIN, |range| {
        let mut first = None;
        walk.offsets(range, |_, offset| {
            // SAFETY: an element of the checked layout.
            let i = unsafe { index.ptr().offset(offset).read() };
            if outside(i) && first.is_none() {
                first = Some(i);
            }
        });
        first.map_or(Ok(()), error)
    })
}

impl IndexBackend for CpuBackend {
    fn index_select(&self, args: Checked<IndexSelectArgs>) -> Result<()> {
        const OP: &str = "index_select";
        let IndexSelectArgs { x, dim, index, out } = args.into_inner();
        let index = Source::<i64>::new(OP, index)?;
        check_indices(OP, &index, dim, index_axis(x.layout, dim).0)?;
        let index_strides = index_vector_strides(dim, index.layout());
        let grid = Grid::new(out.layout.dims(), dim, [&index_strides, out.layout.strides(), x.layout.strides()]);
        for_all!(x.dtype(), T => {
            let (x, out) = (Source::<T>::new(OP, x)?, Target::<T>::new(OP, out)?);
            // SAFETY: the grid has the extents of `out`, which are those of `x` except along `dim`, where the
            // indices are below the extent of `x`.
            unsafe { gather_grid::<<T as Stored>::Bits>(&grid, index.ptr(), x.ptr().cast(), out.ptr().cast()) };
        });
        Ok(())
    }

    fn gather(&self, args: Checked<GatherArgs>) -> Result<()> {
        const OP: &str = "gather";
        let GatherArgs { x, dim, index, out } = args.into_inner();
        let index = Source::<i64>::new(OP, index)?;
        check_indices(OP, &index, dim, index_axis(x.layout, dim).0)?;
        let strides = [index.layout().strides(), out.layout.strides(), x.layout.strides()];
        let grid = Grid::new(out.layout.dims(), dim, strides);
        for_all!(x.dtype(), T => {
            let (x, out) = (Source::<T>::new(OP, x)?, Target::<T>::new(OP, out)?);
            // SAFETY: the grid has the extents of `index` and `out`, which are nowhere above those of `x` except
            // along `dim`, where the indices are below the extent of `x`.
            unsafe { gather_grid::<<T as Stored>::Bits>(&grid, index.ptr(), x.ptr().cast(), out.ptr().cast()) };
        });
        Ok(())
    }

    fn index_add(&self, args: Checked<IndexAddArgs>) -> Result<()> {
        const OP: &str = "index_add";
        let IndexAddArgs { x, dim, index, out } = args.into_inner();
        let index = Source::<i64>::new(OP, index)?;
        let size = index_axis(out.layout, dim).0;
        check_indices(OP, &index, dim, size)?;
        let index_strides = index_vector_strides(dim, index.layout());
        let grid = Grid::new(x.layout.dims(), dim, [&index_strides, x.layout.strides(), out.layout.strides()]);
        // SAFETY: the grid has the extents of `x`, which are those of `out` except along `dim`, where the indices are
        // below the extent of `out`.
        unsafe {
            combine_grid::<Add>(Scatter { op: OP, grid: &grid, index: index.ptr(), x: Operand::Tensor(x), out, size })
        }
    }

    fn scatter(&self, args: Checked<ScatterArgs>) -> Result<()> {
        let ScatterArgs { mode, x, dim, index, out } = args.into_inner();
        let op = mode.name();
        // A number is a tensor that is the same everywhere.
        let no_strides = [0; MAX_RANK];
        let strides = match &x {
            Operand::Tensor(x) => x.layout.strides(),
            Operand::Scalar(_) => &no_strides,
        };
        let index = Source::<i64>::new(op, index)?;
        let size = index_axis(out.layout, dim).0;
        check_indices(op, &index, dim, size)?;
        let grid = Grid::new(index.layout().dims(), dim, [index.layout().strides(), strides, out.layout.strides()]);
        let scatter = Scatter { op, grid: &grid, index: index.ptr(), x, out, size };
        // SAFETY, of all five: the grid has the extents of `index`, which are nowhere above those of `x` (a number with
        // strides 0 has any), nor above those of `out` except along `dim`, where the indices are below the extent of `out`.
        match mode {
            // SAFETY: see above.
            ScatterMode::Set => unsafe { set_grid(scatter) },
            // SAFETY: see above.
            ScatterMode::Add => unsafe { combine_grid::<Add>(scatter) },
            // SAFETY: see above.
            ScatterMode::Mul => unsafe { combine_grid::<Mul>(scatter) },
            // SAFETY: see above.
            ScatterMode::Min => unsafe { combine_grid::<Min>(scatter) },
            // SAFETY: see above.
            ScatterMode::Max => unsafe { combine_grid::<Max>(scatter) },
        }
    }
}

/// What is written: a tensor, or one number as it is stored.
enum Values<'a, T> {
    Tensor(Source<'a, T>),
    Number(T),
}

impl<'a, T: Stored> Values<'a, T> {
    fn new(op: &'static str, x: Operand<'a>) -> Result<Values<'a, T>> {
        Ok(match x {
            Operand::Tensor(view) => Values::Tensor(Source::new(op, view)?),
            Operand::Scalar(value) => Values::Number(T::from_scalar(value)),
        })
    }

    /// The first one.
    fn ptr(&self) -> *const T {
        match self {
            Values::Tensor(x) => x.ptr(),
            Values::Number(value) => value,
        }
    }
}

/// The operands of a scatter: `x` is the near one of the grid, `out` the far one, whose extent along the dimension is `size`.
struct Scatter<'a> {
    op: &'static str,
    grid: &'a Grid,
    index: *const i64,
    x: Operand<'a>,
    out: ViewMut<'a>,
    size: usize,
}

/// Writes `x` to `out`.
///
/// # Safety
/// For the positions of the grid, `index` and `x` are readable, and `out` is writable with the indices that are found
/// there, which are below `size`.
unsafe fn set_grid(Scatter { op, grid, index, x, out, size }: Scatter<'_>) -> Result<()> {
    for_all!(out.dtype(), T => {
        let (x, out) = (Values::<T>::new(op, x)?, Target::<T>::new(op, out)?);
        // SAFETY: the caller's promise. Elements are moved as bits.
        unsafe { scatter_grid::<<T as Stored>::Bits, Set>(grid, index, x.ptr().cast(), out.ptr().cast(), size) };
    });
    Ok(())
}

/// Combines `x` with `out`.
///
/// # Safety
/// As [`set_grid`].
unsafe fn combine_grid<C: Combination>(Scatter { op, grid, index, x, out, size }: Scatter<'_>) -> Result<()> {
    for_direct!(out.dtype(), T => {
        let (x, out) = (Values::<T>::new(op, x)?, Target::<T>::new(op, out)?);
        // SAFETY: the caller's promise.
        unsafe { scatter_grid::<T, C>(grid, index, x.ptr(), out.ptr(), size) };
        Ok(())
    }, _other => {
        // SAFETY: the caller's promise.
        unsafe { C::others(Scatter { op, grid, index, x, out, size }) }
    })
}

/// Moves from `far` to `near`.
///
/// # Safety
/// For the positions of the grid, `index` and `near` are readable and writable, and `far` is readable with
/// the indices that are found there.
unsafe fn gather_grid<T: Copy + Send + Sync>(grid: &Grid, index: *const i64, far: *const T, near: *mut T) {
    if grid.numel() == 0 {
        return;
    }
    let pieces = Pieces(grid.inner.div_ceil(par::GRAIN).max(1));
    let (index, far, near) = (Shared(index), Shared(far), SharedMut(near));
    let tasks = grid.outer_len() * pieces.0 * grid.len;
    par::ranges(tasks, par::row_grain(grid.inner / pieces.0), |range| {
        let mut task = range.start;
        while task < range.end {
            let (block, first) = (task / grid.len, task % grid.len);
            let last = grid.len.min(first + range.end - task);
            task += last - first;
            let columns = pieces.of(grid.inner, block % pieces.0);
            let start = grid.start(block / pieces.0, columns.start);
            // SAFETY: by the caller's promise, as in all of the following; positions of the grid.
            let (index, near, far) = unsafe {
                (index.get().offset(start[INDEX]), near.get().offset(start[NEAR]), far.get().offset(start[FAR]))
            };
            let [di, dn, df] = grid.dim_strides;
            let [ji, jn, jf] = grid.inner_strides;
            if grid.inner == 1 {
                let first = first as isize;
                // SAFETY: as above; tasks have disjoint positions.
                unsafe {
                    let (index, near) = (index.offset(first * di), near.offset(first * dn));
                    gather_line(last - first as usize, (index, di), (near, dn), (far, 0), df);
                }
                continue;
            }
            for i in first as isize..last as isize {
                // SAFETY: as above; tasks have disjoint positions.
                unsafe {
                    let (index, near) = (index.offset(i * di), near.offset(i * dn));
                    if ji == 0 && jn == 1 && jf == 1 {
                        std::ptr::copy_nonoverlapping(far.offset(index.read() as isize * df), near, columns.len());
                    } else {
                        gather_line(columns.len(), (index, ji), (near, jn), (far, jf), df);
                    }
                }
            }
        }
    });
}

/// Moves `n` elements from `far` to `near`, each operand with its step; `stride` is that of the indices.
///
/// # Safety
/// `index` and `near` are readable and writable for `n` steps, and `far` is readable with the indices found.
#[inline(always)]
unsafe fn gather_line<T: Copy>(
    n: usize,
    (index, di): (*const i64, isize),
    (near, dn): (*mut T, isize),
    (far, df): (*const T, isize),
    stride: isize,
) {
    for i in 0..n as isize {
        // SAFETY: the caller's promise.
        unsafe { near.offset(i * dn).write(far.offset(index.offset(i * di).read() as isize * stride + i * df).read()) };
    }
}

/// Moves from `near` to `far`.
///
/// # Safety
/// For the positions of the grid, `index` and `near` are readable, and `far` is writable with the indices
/// that are found there, which are below `size`.
unsafe fn scatter_grid<T: Copy + Send + Sync, C: Combine<T>>(
    grid: &Grid,
    index: *const i64,
    near: *const T,
    far: *mut T,
    size: usize,
) {
    let (index, near, far) = (Shared(index), Shared(near), SharedMut(far));
    divide(grid, size, &|Part { outer, columns, own }| {
        let start = grid.start(outer, columns.start);
        // SAFETY: by the caller's promise, as in all of the following; positions of the grid.
        let (index, near, far) =
            unsafe { (index.get().offset(start[INDEX]), near.get().offset(start[NEAR]), far.get().offset(start[FAR])) };
        let [di, dn, df] = grid.dim_strides;
        let [ji, jn, jf] = grid.inner_strides;
        if grid.inner == 1 {
            // SAFETY: as above; parts own disjoint elements of `far`, and `near` is none of them.
            unsafe { scatter_line::<T, C>(grid.len, (index, di), (near, dn), (far, 0), df, &own) };
            return;
        }
        for i in 0..grid.len as isize {
            // SAFETY: as above; parts own disjoint elements of `far`, and `near` is none of them.
            unsafe {
                let (index, near) = (index.offset(i * di), near.offset(i * dn));
                if ji == 0 && jn == 1 && jf == 1 {
                    let to = index.read();
                    if own.contains(&(to as usize)) {
                        let from = std::slice::from_raw_parts(near, columns.len());
                        let to = std::slice::from_raw_parts_mut(far.offset(to as isize * df), columns.len());
                        C::row(from, to);
                    }
                } else {
                    scatter_line::<T, C>(columns.len(), (index, ji), (near, jn), (far, jf), df, &own);
                }
            }
        }
    });
}

/// Moves `n` elements from `near` to `far`, each operand with its step, where the index is in `own`; `stride`
/// is that of the indices.
///
/// # Safety
/// `index` and `near` are readable for `n` steps, and `far` is writable with the indices found.
#[inline(always)]
unsafe fn scatter_line<T: Copy, C: Combine<T>>(
    n: usize,
    (index, di): (*const i64, isize),
    (near, dn): (*const T, isize),
    (far, df): (*mut T, isize),
    stride: isize,
    own: &Range<usize>,
) {
    for i in 0..n as isize {
        // SAFETY: the caller's promise.
        unsafe {
            let to = index.offset(i * di).read();
            if own.contains(&(to as usize)) {
                let to = far.offset(to as isize * stride + i * df);
                to.write(C::one(near.offset(i * dn).read(), to.read()));
            }
        }
    }
}

/// How a scattered value is combined with the element at its destination.
trait Combine<T> {
    fn one(from: T, to: T) -> T;
    fn row(from: &[T], to: &mut [T]);
}

struct Set;

impl<T: Copy> Combine<T> for Set {
    #[inline(always)]
    fn one(from: T, _: T) -> T {
        from
    }
    #[inline(always)]
    fn row(from: &[T], to: &mut [T]) {
        to.copy_from_slice(from);
    }
}

/// A combination by one of the functions of [`Arithmetic`].
trait Combination {
    fn of<T: Arithmetic>(from: T, to: T) -> T;

    #[inline(always)]
    fn of_row<T: Arithmetic>(from: &[T], to: &mut [T]) {
        from.iter().zip(to).for_each(|(from, to)| *to = Self::of(*from, *to));
    }

    /// Combines elements that are not computed with as they are stored.
    ///
    /// # Safety
    /// As [`set_grid`].
    unsafe fn others(scatter: Scatter<'_>) -> Result<()> {
        Err(Error::dtype(scatter.op, scatter.out.dtype(), "it takes f32, f64 and integers"))
    }
}

impl<T: Arithmetic, C: Combination> Combine<T> for C {
    #[inline(always)]
    fn one(from: T, to: T) -> T {
        C::of(from, to)
    }
    #[inline(always)]
    fn row(from: &[T], to: &mut [T]) {
        C::of_row(from, to);
    }
}

struct Add;
struct Mul;
struct Min;
struct Max;

impl Combination for Add {
    #[inline(always)]
    fn of<T: Arithmetic>(from: T, to: T) -> T {
        to.plus(from)
    }

    #[inline(always)]
    fn of_row<T: Arithmetic>(from: &[T], to: &mut [T]) {
        // The call that chooses an instruction set costs more than a few additions.
        if from.len() < 16 {
            from.iter().zip(to).for_each(|(from, to)| *to = to.plus(*from));
        } else {
            add_row(from, to);
        }
    }

    unsafe fn others(Scatter { op, grid, index, x, out, size }: Scatter<'_>) -> Result<()> {
        for_half!(out.dtype(), T => {
            let (x, out) = (Values::<T>::new(op, x)?, Target::<T>::new(op, out)?);
            // SAFETY: the caller's promise.
            unsafe { wide::add_grid::<T>(grid, index, x.ptr(), out.ptr(), size) };
            Ok(())
        }, other => Err(Error::dtype(op, other, "truth values cannot be added")))
    }
}

impl Combination for Mul {
    #[inline(always)]
    fn of<T: Arithmetic>(from: T, to: T) -> T {
        to.times(from)
    }
}

impl Combination for Min {
    #[inline(always)]
    fn of<T: Arithmetic>(from: T, to: T) -> T {
        to.smaller(from)
    }
}

impl Combination for Max {
    #[inline(always)]
    fn of<T: Arithmetic>(from: T, to: T) -> T {
        to.larger(from)
    }
}

multiversion! {
    fn add_row[T: Arithmetic](from: &[T], to: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (from, to) in from.iter().zip(to) {
            *to = to.plus(*from);
        }
    }
}

/// The arithmetic of scattered elements; integers wrap, and NaN is the smaller and the larger one.
trait Arithmetic: Copy {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    fn smaller(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
}

macro_rules! arithmetic {
    ($($ty:ty: $plus:path, $times:path, $smaller:path, $larger:path;)*) => {$(
        impl Arithmetic for $ty {
            #[inline(always)]
            fn plus(self, other: $ty) -> $ty { $plus(self, other) }
            #[inline(always)]
            fn times(self, other: $ty) -> $ty { $times(self, other) }
            #[inline(always)]
            fn smaller(self, other: $ty) -> $ty { $smaller(self, other) }
            #[inline(always)]
            fn larger(self, other: $ty) -> $ty { $larger(self, other) }
        }
    )*};
}
arithmetic! {
    f32: std::ops::Add::add, std::ops::Mul::mul, Real::minimum, Real::maximum;
    f64: std::ops::Add::add, std::ops::Mul::mul, Real::minimum, Real::maximum;
}

macro_rules! arithmetic_of_ints {
    (()
        $(FLOAT($($float_rest:tt)*))*
        $(HALF($($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        arithmetic! { $($i: Int::add, Int::mul, Ord::min, Ord::max;)* }
    };
}
kiln_backend::dtype_table!(arithmetic_of_ints);
