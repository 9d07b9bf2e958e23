//! The one abstraction over vector instruction sets that all register kernels are written against.
//!
//! A [`Simd`] type is a register of `L` lanes. The methods are `inline(always)` and carry no `target_feature` of their own:
//! they are meant to be inlined into a function that does (see [`kernels`](super::kernels)), which is the only way to write
//! one generic kernel for several instruction sets on stable Rust without asking the user for compiler flags.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod plain;

/// A vector register of floats. All methods are unsafe for the same two reasons: the CPU must
/// have the instruction set that the implementor stands for, and pointers must be valid for
/// the lanes touched.
pub(crate) trait Simd: Copy {
    /// The lane type.
    type T: Copy + Send + Sync + 'static;
    /// Number of lanes.
    const L: usize;
    /// How many consecutive elements one `transpose` call reads of each row (128 bits' worth).
    const Q: usize;

    unsafe fn zero() -> Self;
    unsafe fn splat(x: Self::T) -> Self;
    unsafe fn load(p: *const Self::T) -> Self;
    unsafe fn store(self, p: *mut Self::T);
    /// Loads the first `n <= L` lanes, the others are zero and their memory is not touched.
    unsafe fn load_n(p: *const Self::T, n: usize) -> Self;
    /// Stores the first `n <= L` lanes; memory after them is not touched.
    unsafe fn store_n(self, p: *mut Self::T, n: usize);
    /// `self * b + c`.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    /// Negative lanes become 0; NaN stays NaN.
    unsafe fn relu(self) -> Self;
    /// Reads an `L x Q` block (row `i` starts at `p + i * stride`, its `Q` elements are
    /// contiguous) and returns it transposed: element `q` of the result holds column `q`.
    /// Entries from `Q` on are unspecified.
    unsafe fn transpose(p: *const Self::T, stride: isize) -> [Self; 4];
    /// Sum of the lanes, in an order that depends on nothing but `L`.
    unsafe fn sum(self) -> Self::T;
}

/// Repeats `$body` with `$i` = 0, 1, ... while `$i < $n`, as straight-line code. A plain loop over the accumulators is
/// not reliably unrolled before LLVM decides what to keep in registers. `rows` makes 14 copies, `few` 4: superfluous
/// copies are eliminated, but late, and nested loops multiply them, so use `few` where it suffices.
macro_rules! unroll {
    ($i:ident < $n:expr, rows, $body:block) => {
        unroll!(@ $i $n, 14, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    ($i:ident < $n:expr, few, $body:block) => {
        unroll!(@ $i $n, 4, $body; 0 1 2 3)
    };
    (@ $i:ident $n:expr, $most:literal, $body:block; $($x:literal)*) => {
        $( if const { assert!($n <= $most); $x < $n } { let $i: usize = $x; $body } )*
    };
}

pub(super) use unroll;
