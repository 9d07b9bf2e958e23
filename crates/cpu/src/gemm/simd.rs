//! The one abstraction over vector instruction sets that every kernel is written against.
//!
//! A [`Simd`] type is a register of `L` lanes. The methods are `inline(always)` and carry no
//! `target_feature` of their own: they are meant to be inlined into a function that does
//! (see `micro.rs`), which is the only way to write one generic kernel for several
//! instruction sets on stable Rust without asking the user for compiler flags.

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
    /// Stores the first `n <= L` lanes, memory behind them is not touched.
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

/// Fetches the cache line at `p` into L1; a hint, so any address is fine.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults, whatever the address; SSE is part of x86_64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(p as *const i8)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// As [`prefetch`], but into L2 only: for what is needed somewhat later.
#[inline(always)]
pub(crate) fn prefetch_l2<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching never faults, whatever the address; SSE is part of x86_64.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(p as *const i8)
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Repeats `$body` with `$i` = 0, 1, ... while `$i < $n`, as straight-line code. A plain loop over the accumulators is
/// not reliably unrolled before LLVM decides what lives in registers. `rows` makes 14 copies, `few` 4: the copies
/// that are not needed vanish, but late, and loops within loops multiply, so `few` serves wherever it suffices.
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

/// The fallback register: four (f32) or two (f64) plain lanes that LLVM turns into whatever
/// the compilation target always has (SSE2, NEON, ...).
#[derive(Clone, Copy)]
pub(crate) struct Plain<T, const N: usize>([T; N]);

macro_rules! plain {
    ($t:ty, $n:literal) => {
        impl Simd for Plain<$t, $n> {
            type T = $t;
            const L: usize = $n;
            const Q: usize = $n;
            #[inline(always)]
            unsafe fn zero() -> Self {
                Plain([0.0; $n])
            }
            #[inline(always)]
            unsafe fn splat(x: $t) -> Self {
                Plain([x; $n])
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                // SAFETY: the caller vouches for L readable elements.
                Plain(unsafe { p.cast::<[$t; $n]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                // SAFETY: the caller vouches for L writable elements.
                unsafe { p.cast::<[$t; $n]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            unsafe fn load_n(p: *const $t, n: usize) -> Self {
                let mut v = [0.0; $n];
                for i in 0..n.min($n) {
                    // SAFETY: the caller vouches for n readable elements.
                    v[i] = unsafe { *p.add(i) };
                }
                Plain(v)
            }
            #[inline(always)]
            unsafe fn store_n(self, p: *mut $t, n: usize) {
                for i in 0..n.min($n) {
                    // SAFETY: the caller vouches for n writable elements.
                    unsafe { *p.add(i) = self.0[i] }
                }
            }
            #[inline(always)]
            unsafe fn fma(self, b: Self, c: Self) -> Self {
                let mut r = c.0;
                for i in 0..$n {
                    // `mul_add` is a library call where the target has no such instruction.
                    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                        r[i] = self.0[i].mul_add(b.0[i], r[i]);
                    } else {
                        r[i] += self.0[i] * b.0[i];
                    }
                }
                Plain(r)
            }
            #[inline(always)]
            unsafe fn add(self, b: Self) -> Self {
                let mut r = self.0;
                for i in 0..$n {
                    r[i] += b.0[i];
                }
                Plain(r)
            }
            #[inline(always)]
            unsafe fn relu(self) -> Self {
                let mut r = self.0;
                for x in &mut r {
                    *x = if *x < 0.0 { 0.0 } else { *x };
                }
                Plain(r)
            }
            #[inline(always)]
            unsafe fn transpose(p: *const $t, stride: isize) -> [Self; 4] {
                let mut r = [Plain([0.0; $n]); 4];
                for i in 0..$n {
                    for q in 0..$n {
                        // SAFETY: the caller vouches for L rows of Q readable elements.
                        r[q].0[i] = unsafe { *p.offset(i as isize * stride).add(q) };
                    }
                }
                r
            }
            #[inline(always)]
            unsafe fn sum(self) -> $t {
                self.0.iter().fold(0.0, |s, x| s + x)
            }
        }
    };
}
plain!(f32, 4);
plain!(f64, 2);

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    //! AVX2+FMA and AVX-512 registers.
    use super::Simd;
    use core::arch::x86_64::*;

    /// Lane masks for AVX2's masked moves: 8 set words followed by 8 clear ones, read from
    /// position `8 - n` on to get a mask with the first `n` lanes set.
    static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

    // In the implementations below:
    // SAFETY (all blocks): the trait's contract gives the instruction set and valid pointers;
    // all moves used are the unaligned ones.

    #[derive(Clone, Copy)]
    pub(crate) struct F32x16(__m512);
    impl Simd for F32x16 {
        type T = f32;
        const L: usize = 16;
        const Q: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x16(_mm512_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x16(_mm512_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x16(_mm512_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see the head of this module.
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f32, n: usize) -> Self {
            // SAFETY: see the head of this module; masked-off lanes are not accessed.
            unsafe { F32x16(_mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, p)) }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize) {
            // SAFETY: see the head of this module; masked-off lanes are not accessed.
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as __mmask16, self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x16(_mm512_fmadd_ps(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x16(_mm512_add_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // max(0, x) returns its second operand when either is NaN.
            // SAFETY: see the head of this module.
            unsafe { F32x16(_mm512_max_ps(_mm512_setzero_ps(), self.0)) }
        }
        #[inline(always)]
        unsafe fn transpose(p: *const f32, s: isize) -> [Self; 4] {
            // Collect rows i, i+4, i+8, i+12 in the four quarters of one register, so that
            // four 4x4 transposes inside the quarters finish the job in lane order.
            // SAFETY: see the head of this module; 16 rows of 4 elements are read.
            unsafe {
                let row = |i: isize| _mm_loadu_ps(p.offset(i * s));
                let quad = |i: isize| {
                    let x = _mm512_castps128_ps512(row(i));
                    let x = _mm512_insertf32x4::<1>(x, row(i + 4));
                    let x = _mm512_insertf32x4::<2>(x, row(i + 8));
                    _mm512_insertf32x4::<3>(x, row(i + 12))
                };
                let (a, b, c, d) = (quad(0), quad(1), quad(2), quad(3));
                let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                [
                    F32x16(_mm512_shuffle_ps::<0x44>(ab0, cd0)),
                    F32x16(_mm512_shuffle_ps::<0xee>(ab0, cd0)),
                    F32x16(_mm512_shuffle_ps::<0x44>(ab1, cd1)),
                    F32x16(_mm512_shuffle_ps::<0xee>(ab1, cd1)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see the head of this module.
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct F64x8(__m512d);
    impl Simd for F64x8 {
        type T = f64;
        const L: usize = 8;
        const Q: usize = 2;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x8(_mm512_setzero_pd()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f64) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x8(_mm512_set1_pd(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f64) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x8(_mm512_loadu_pd(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f64) {
            // SAFETY: see the head of this module.
            unsafe { _mm512_storeu_pd(p, self.0) }
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f64, n: usize) -> Self {
            // SAFETY: see the head of this module; masked-off lanes are not accessed.
            unsafe { F64x8(_mm512_maskz_loadu_pd(((1u32 << n) - 1) as __mmask8, p)) }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f64, n: usize) {
            // SAFETY: see the head of this module; masked-off lanes are not accessed.
            unsafe { _mm512_mask_storeu_pd(p, ((1u32 << n) - 1) as __mmask8, self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x8(_mm512_fmadd_pd(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x8(_mm512_add_pd(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x8(_mm512_max_pd(_mm512_setzero_pd(), self.0)) }
        }
        #[inline(always)]
        unsafe fn transpose(p: *const f64, s: isize) -> [Self; 4] {
            // SAFETY: see the head of this module; 8 rows of 2 elements are read.
            unsafe {
                let row = |i: isize| _mm_loadu_pd(p.offset(i * s));
                let quad = |i: isize| {
                    let x = _mm512_castpd128_pd512(row(i));
                    let x = _mm512_insertf64x2::<1>(x, row(i + 2));
                    let x = _mm512_insertf64x2::<2>(x, row(i + 4));
                    _mm512_insertf64x2::<3>(x, row(i + 6))
                };
                let (a, b) = (quad(0), quad(1));
                let z = F64x8(a);
                [F64x8(_mm512_unpacklo_pd(a, b)), F64x8(_mm512_unpackhi_pd(a, b)), z, z]
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f64 {
            // SAFETY: see the head of this module.
            unsafe { _mm512_reduce_add_pd(self.0) }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct F32x8(__m256);
    impl Simd for F32x8 {
        type T = f32;
        const L: usize = 8;
        const Q: usize = 4;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x8(_mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x8(_mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x8(_mm256_loadu_ps(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: see the head of this module.
            unsafe { _mm256_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f32, n: usize) -> Self {
            // SAFETY: see the head of this module; n <= 8, so the mask read is in bounds.
            unsafe {
                let m = _mm256_loadu_si256(MASK32.as_ptr().add(8 - n).cast());
                F32x8(_mm256_maskload_ps(p, m))
            }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f32, n: usize) {
            // SAFETY: see the head of this module; n <= 8, so the mask read is in bounds.
            unsafe {
                let m = _mm256_loadu_si256(MASK32.as_ptr().add(8 - n).cast());
                _mm256_maskstore_ps(p, m, self.0)
            }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x8(_mm256_fmadd_ps(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x8(_mm256_add_ps(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F32x8(_mm256_max_ps(_mm256_setzero_ps(), self.0)) }
        }
        #[inline(always)]
        unsafe fn transpose(p: *const f32, s: isize) -> [Self; 4] {
            // SAFETY: see the head of this module; 8 rows of 4 elements are read.
            unsafe {
                let row = |i: isize| _mm_loadu_ps(p.offset(i * s));
                let pair = |i: isize| _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(row(i)), row(i + 4));
                let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
                let (ab0, ab1) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                let (cd0, cd1) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                [
                    F32x8(_mm256_shuffle_ps::<0x44>(ab0, cd0)),
                    F32x8(_mm256_shuffle_ps::<0xee>(ab0, cd0)),
                    F32x8(_mm256_shuffle_ps::<0x44>(ab1, cd1)),
                    F32x8(_mm256_shuffle_ps::<0xee>(ab1, cd1)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: see the head of this module.
            unsafe {
                let x = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
                _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(crate) struct F64x4(__m256d);
    impl Simd for F64x4 {
        type T = f64;
        const L: usize = 4;
        const Q: usize = 2;
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x4(_mm256_setzero_pd()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f64) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x4(_mm256_set1_pd(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f64) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x4(_mm256_loadu_pd(p)) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f64) {
            // SAFETY: see the head of this module.
            unsafe { _mm256_storeu_pd(p, self.0) }
        }
        #[inline(always)]
        unsafe fn load_n(p: *const f64, n: usize) -> Self {
            // SAFETY: see the head of this module; n <= 4, so the mask read is in bounds.
            unsafe {
                let m = _mm256_loadu_si256(MASK64.as_ptr().add(4 - n).cast());
                F64x4(_mm256_maskload_pd(p, m))
            }
        }
        #[inline(always)]
        unsafe fn store_n(self, p: *mut f64, n: usize) {
            // SAFETY: see the head of this module; n <= 4, so the mask read is in bounds.
            unsafe {
                let m = _mm256_loadu_si256(MASK64.as_ptr().add(4 - n).cast());
                _mm256_maskstore_pd(p, m, self.0)
            }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x4(_mm256_fmadd_pd(self.0, b.0, c.0)) }
        }
        #[inline(always)]
        unsafe fn add(self, b: Self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x4(_mm256_add_pd(self.0, b.0)) }
        }
        #[inline(always)]
        unsafe fn relu(self) -> Self {
            // SAFETY: see the head of this module.
            unsafe { F64x4(_mm256_max_pd(_mm256_setzero_pd(), self.0)) }
        }
        #[inline(always)]
        unsafe fn transpose(p: *const f64, s: isize) -> [Self; 4] {
            // SAFETY: see the head of this module; 4 rows of 2 elements are read.
            unsafe {
                let row = |i: isize| _mm_loadu_pd(p.offset(i * s));
                let pair = |i: isize| _mm256_insertf128_pd::<1>(_mm256_castpd128_pd256(row(i)), row(i + 2));
                let (a, b) = (pair(0), pair(1));
                let z = F64x4(a);
                [F64x4(_mm256_unpacklo_pd(a, b)), F64x4(_mm256_unpackhi_pd(a, b)), z, z]
            }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f64 {
            // SAFETY: see the head of this module.
            unsafe {
                let x = _mm_add_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
                _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)))
            }
        }
    }
}
