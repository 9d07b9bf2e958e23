//! Vector operations on AVX-512 registers.

use core::arch::x86_64::*;

use super::Simd;

// In the implementations below:
// SAFETY (all blocks): the trait's contract gives the instruction set and valid pointers; all moves used are the unaligned
// ones.

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
