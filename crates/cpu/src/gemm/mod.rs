//! Matrix multiplication.
//!
//! [`Gemm`] works on raw pointers with arbitrary strides, so transposed, sliced, broadcast and reversed operands need no
//! copy. Nothing here depends on how the program was compiled: the kernels (AVX-512, AVX2 with FMA, or portable) are those of
//! the [`level`](crate::engine::level) that the process runs at.
//!
//! * `problem`: a product in the orientation in which it is computed
//! * `blocked`, `pack`: blocking and the walk over tiles; packing the blocks
//! * `kernel`, `kernels`: the kernels' interface, and the instances for each instruction set
//! * `tile`, `pack_kernel`, `unpacked`, `simd`: the register kernels, written once for all instruction sets
//! * `dots`: products in which packing does not pay off because one side is tiny
//! * `ints`: integers
//! * `split`, `shared`, `own_lanes`, `parts`: dividing products among threads
//!
//! Results are bit for bit the same from run to run and for any number of threads: every element is summed over `k` in an
//! order that depends only on shapes and strides, and no sum is ever divided among threads. (They do differ between kinds
//! of CPU.)

// Index loops over several arrays at once are how the register kernels read best.
#![allow(clippy::needless_range_loop, clippy::semicolon_if_nothing_returned)]

pub(crate) mod blocked;
mod dots;
mod ints;
pub(crate) mod kernel;
pub(crate) mod kernels;
mod own_lanes;
pub(crate) mod pack;
mod pack_kernel;
mod parts;
mod prefetch;
pub(crate) mod problem;
pub(crate) mod scratch;
pub(crate) mod shared;
pub(crate) mod simd;
pub(crate) mod source;
mod split;
#[cfg(test)]
mod tests;
mod tile;
mod unpacked;

use std::sync::OnceLock;

use self::{
    kernel::Kernel,
    problem::{Batch, GemmProblem},
};

/// What happens to the finished product, in the same pass that stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Epilogue<'a, T> {
    /// Nothing.
    #[default]
    None,
    /// Turns negative values into zero. NaN stays NaN.
    Relu,
    /// Adds a vector of length `n` to every row of C.
    Bias(&'a [T]),
    /// Adds a vector of length `n` to every row of C, then turns negative values into zero. NaN stays NaN.
    BiasRelu(&'a [T]),
}

/// A matrix in memory: element (i, j) is at `start + i * row_stride + j * column_stride`, counted in elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<P> {
    pub start: P,
    pub row_stride: isize,
    pub column_stride: isize,
}

impl<T> Matrix<*const T> {
    /// The matrix without its first `rows`.
    pub(crate) fn skip_rows(self, rows: usize) -> Self {
        Matrix { start: self.start.wrapping_offset(rows as isize * self.row_stride), ..self }
    }
}

/// The product `C = A * B`, or `C += A * B` with `accumulate`, and then the epilogue.
///
/// A is `m x k`, B is `k x n`, C is `m x n`. Strides may be negative, and zero for A and B. With `k == 0` the product is
/// zero; with `m == 0` or `n == 0` nothing happens. Zeros are multiplied like any other number, so NaN and infinity
/// propagate as the formula says. A bias shorter than `n` is a programming error and leaves C untouched (debug builds
/// panic).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm<'a, T> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Matrix<*const T>,
    pub b: Matrix<*const T>,
    pub c: Matrix<*mut T>,
    pub accumulate: bool,
    pub epilogue: Epilogue<'a, T>,
}

/// An element type that can be multiplied.
///
/// `f32` and `f64` are computed as they are; `f16` and `bf16` are summed in `f32` and rounded once at the end; integers wrap
/// around.
pub(crate) trait GemmElem: Copy + Send + Sync + 'static {
    /// Computes a batch of products.
    ///
    /// # Safety
    /// Pointers and strides must be valid for every product of the batch.
    unsafe fn run(p: GemmProblem<Self>, batch: Batch<'_>);
}

macro_rules! floats {
    ($($s:ty as $t:ty,)*) => {$(
        impl GemmElem for $s {
            unsafe fn run(p: GemmProblem<$s>, batch: Batch<'_>) {
                static BEST: OnceLock<&'static Kernel<$t>> = OnceLock::new();
                let kern = *BEST.get_or_init(kernels::best::<$t>);
                // SAFETY: the caller's promise; this machine can run the kernel.
                unsafe { split::floats::<$s, $t>(p, batch, kern) }
            }
        }
    )*};
}

macro_rules! float_rows {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        floats!($($f as $f,)* $(kiln_backend::half::$h as f32,)*);
    };
}
kiln_backend::dtype_table!(float_rows);

macro_rules! ints {
    ($($t:ty),*) => {$(
        impl GemmElem for $t {
            unsafe fn run(p: GemmProblem<$t>, batch: Batch<'_>) {
                // SAFETY: the caller's promise.
                unsafe { split::ints(p, batch) }
            }
        }
    )*};
}

macro_rules! int_rows {
    (()
        $(FLOAT($($float_rest:tt)*))*
        $(HALF($($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        ints!($($i),*);
    };
}
kiln_backend::dtype_table!(int_rows);

impl<T: GemmElem> Gemm<'_, T> {
    /// Computes the product, in parallel on rayon's current thread pool where that pays.
    ///
    /// # Safety
    /// All elements of A and B that the extents and strides describe must be readable, all of C writable (and initialized
    /// if `accumulate`), C's elements must be distinct, and C must not overlap A, B or the bias.
    pub(crate) unsafe fn run(self) {
        // SAFETY: the caller's promise, for a batch of one.
        unsafe { self.run_batched(1, &|_| [0; 3]) }
    }

    /// Computes `batch` products of the same shape and strides. `offsets(i)` says how many elements from the starts of A, B
    /// and C the matrices of product `i` begin.
    ///
    /// Many small products are spread over the threads whole, few large ones are divided.
    ///
    /// # Safety
    /// As for [`run`](Gemm::run), for every product; no two products may share an element of C.
    pub(crate) unsafe fn run_batched(self, batch: usize, offsets: &(dyn Fn(usize) -> [isize; 3] + Sync)) {
        let Gemm { m, n, k, a, b, c, accumulate, epilogue } = self;
        let (bias, relu) = match epilogue {
            Epilogue::None => (None, false),
            Epilogue::Relu => (None, true),
            Epilogue::Bias(b) => (Some(b), false),
            Epilogue::BiasRelu(b) => (Some(b), true),
        };
        debug_assert!(bias.is_none_or(|b| b.len() >= n), "bias shorter than the rows of C");
        if m == 0 || n == 0 || batch == 0 || bias.is_some_and(|b| b.len() < n) {
            return;
        }
        let p = GemmProblem {
            rows: m,
            lanes: n,
            k,
            a: a.start,
            a_row: a.row_stride,
            a_k: a.column_stride,
            b: b.start,
            b_k: b.row_stride,
            b_lane: b.column_stride,
            c: c.start,
            c_row: c.row_stride,
            // With one column any stride is right; 1 is the fast one.
            c_lane: if n == 1 { 1 } else { c.column_stride },
            load_c: accumulate,
            bias: bias.map_or(core::ptr::null(), <[T]>::as_ptr),
            bias_on_rows: false,
            relu,
        };
        // SAFETY: the caller's promise.
        unsafe { T::run(p, Batch { count: batch, offsets }) }
    }
}
