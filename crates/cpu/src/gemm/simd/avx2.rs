//! Vector operations on AVX2 registers, with FMA.

use core::arch::x86_64::*;

use super::Simd;

/// Lane masks for AVX2's masked loads: 8 set words followed by 8 clear ones, read from
/// position `8 - n` on to get a mask with the first `n` lanes set.
static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

// In the implementations below:
// SAFETY (all blocks): the trait's contract gives the instruction set and valid pointers; all moves used are the unaligned
// ones.

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
        // In halves: a masked store takes tens of cycles on AMD's processors.
        // SAFETY: see the head of this module; n <= 8 elements are written.
        unsafe {
            if n >= Self::L {
                return self.store(p);
            }
            let (mut left, mut p) = (_mm256_castps256_ps128(self.0), p);
            if n & 4 != 0 {
                _mm_storeu_ps(p, left);
                (left, p) = (_mm256_extractf128_ps::<1>(self.0), p.add(4));
            }
            if n & 2 != 0 {
                _mm_storel_pd(p.cast(), _mm_castps_pd(left));
                (left, p) = (_mm_movehl_ps(left, left), p.add(2));
            }
            if n & 1 != 0 {
                _mm_store_ss(p, left);
            }
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
        // In halves, as those of `f32`.
        // SAFETY: see the head of this module; n <= 4 elements are written.
        unsafe {
            if n >= Self::L {
                return self.store(p);
            }
            let (mut left, mut p) = (_mm256_castpd256_pd128(self.0), p);
            if n & 2 != 0 {
                _mm_storeu_pd(p, left);
                (left, p) = (_mm256_extractf128_pd::<1>(self.0), p.add(2));
            }
            if n & 1 != 0 {
                _mm_store_sd(p, left);
            }
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
