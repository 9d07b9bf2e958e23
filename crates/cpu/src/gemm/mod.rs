//! Matrix multiplication on the CPU.
//!
//! [`gemm`] and [`gemm_batched`] work on raw pointers with arbitrary strides, so transposed,
//! sliced, broadcast and reversed operands need no copy. Nothing here depends on how the
//! program was compiled: the kernel (AVX-512, AVX2+FMA or portable) is chosen once, at run time.
//!
//! * `canon`: a product in the orientation in which it is computed
//! * `drive`: blocking, packing and the walk over tiles
//! * `micro`, `simd`: the register kernels, written once for all instruction sets
//! * `dots`: products in which nothing is worth packing because one side is tiny
//! * `slide`: products with an image as it lies in memory
//! * `ints`: integers
//! * `split`, `shared`, `parallel`: dividing products among threads
//!
//! Results are bit for bit the same from run to run and for any number of threads: every
//! element is summed over `k` in an order that depends only on shapes and strides, and no
//! sum is ever divided among threads. (They do differ between kinds of CPU.)

// Index loops over several arrays at once are how the register kernels read best.
#![allow(clippy::needless_range_loop, clippy::semicolon_if_nothing_returned)]

pub(crate) mod canon;
pub(crate) mod dots;
pub(crate) mod drive;
mod ints;
pub(crate) mod micro;
pub(crate) mod parallel;
pub(crate) mod scratch;
mod shared;
pub(crate) mod simd;
pub(crate) mod slide;
pub(crate) mod source;
mod split;
#[cfg(test)]
mod tests;

use canon::{Batch, Canon};
use half::{bf16, f16};
use std::sync::OnceLock;

/// What happens to the finished product, in the same pass that stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Epilogue<'a, T> {
    /// Nothing.
    #[default]
    None,
    /// Turns negative values into zero. NaN stays NaN.
    Relu,
    /// Adds a vector of length `n` to every row of C.
    Bias(&'a [T]),
    /// Adds a vector of length `n` to every row of C, then turns negative values into zero.
    /// NaN stays NaN.
    BiasRelu(&'a [T]),
}

mod sealed {
    use super::{Batch, Canon};
    pub trait Sealed: Copy + Send + Sync + 'static {
        /// # Safety
        /// Pointers and strides must be valid for every product of the batch.
        unsafe fn run(p: Canon<Self>, batch: Batch<'_>);
    }
}

/// An element type that can be multiplied.
///
/// `f32` and `f64` are computed as they are; `f16` and `bf16` are summed in `f32` and rounded
/// once at the end; `i64`, `i32` and `u8` wrap around.
pub trait GemmElem: sealed::Sealed {}

macro_rules! floats {
    ($($s:ty as $t:ty),*) => {$(
        impl sealed::Sealed for $s {
            unsafe fn run(p: Canon<$s>, batch: Batch<'_>) {
                static BEST: OnceLock<&'static micro::Kernel<$t>> = OnceLock::new();
                let kern = *BEST.get_or_init(micro::best::<$t>);
                // SAFETY: the caller's promise; this machine can run the kernel.
                unsafe { split::floats::<$s, $t>(p, batch, kern) }
            }
        }
        impl GemmElem for $s {}
    )*};
}
floats!(f32 as f32, f64 as f64, f16 as f32, bf16 as f32);

macro_rules! ints {
    ($($t:ty),*) => {$(
        impl sealed::Sealed for $t {
            unsafe fn run(p: Canon<$t>, batch: Batch<'_>) {
                // SAFETY: the caller's promise.
                unsafe { split::ints(p, batch) }
            }
        }
        impl GemmElem for $t {}
    )*};
}
ints!(i64, i32, u8);

/// `C = A * B`, or `C += A * B` with `accumulate`, and then the epilogue.
///
/// A is `m x k`, B is `k x n`, C is `m x n`. Element (i, j) of a matrix is at
/// `pointer + i * row_stride + j * column_stride`, counted in elements. Strides may be
/// negative, and zero for A and B. With `k == 0` the product is zero; with `m == 0` or
/// `n == 0` nothing happens. Zeros are multiplied like any other number, so NaN and infinity
/// propagate as the formula says. A bias shorter than `n` is a programming error and leaves
/// C untouched (debug builds panic).
///
/// Runs in parallel on rayon's current thread pool where that pays.
///
/// # Safety
/// All elements of A and B that the extents and strides describe must be readable, all of C
/// writable (and initialised if `accumulate`), C's elements must be distinct, and C must not
/// overlap A, B or the bias.
#[allow(clippy::too_many_arguments)]
pub unsafe fn gemm<T: GemmElem>(
    m: usize,
    n: usize,
    k: usize,
    a: *const T,
    rsa: isize,
    csa: isize,
    b: *const T,
    rsb: isize,
    csb: isize,
    c: *mut T,
    rsc: isize,
    csc: isize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
    // SAFETY: the caller's promise, for a batch of one.
    unsafe { gemm_batched(1, |_| [0; 3], m, n, k, a, rsa, csa, b, rsb, csb, c, rsc, csc, accumulate, epilogue) }
}

/// `batch` products of the same shape and strides, as [`gemm`]. `offsets(i)` says how many
/// elements from `a`, `b` and `c` the matrices of product `i` begin.
///
/// Many small products are spread over the threads whole, few large ones are divided.
///
/// # Safety
/// As for [`gemm`], for every product; no two products may share an element of C.
#[allow(clippy::too_many_arguments)]
pub unsafe fn gemm_batched<T: GemmElem>(
    batch: usize,
    offsets: impl Fn(usize) -> [isize; 3] + Sync,
    m: usize,
    n: usize,
    k: usize,
    a: *const T,
    rsa: isize,
    csa: isize,
    b: *const T,
    rsb: isize,
    csb: isize,
    c: *mut T,
    rsc: isize,
    csc: isize,
    accumulate: bool,
    epilogue: Epilogue<'_, T>,
) {
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
    let p = Canon {
        rows: m,
        lanes: n,
        k,
        a,
        a_row: rsa,
        a_k: csa,
        b,
        b_k: rsb,
        b_lane: csb,
        c,
        c_row: rsc,
        // With one column any stride is right; 1 is the fast one.
        c_lane: if n == 1 { 1 } else { csc },
        load_c: accumulate,
        bias: bias.map_or(core::ptr::null(), <[T]>::as_ptr),
        bias_on_rows: false,
        relu,
    };
    // SAFETY: the caller's promise.
    unsafe { T::run(p, Batch { count: batch, offsets: &offsets }) }
}
