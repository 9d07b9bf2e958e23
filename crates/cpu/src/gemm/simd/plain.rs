//! Portable registers for CPUs without AVX2: arrays that LLVM maps to the target's baseline vectors.

use super::Simd;

/// The fallback register: four (f32) or two (f64) plain lanes that LLVM maps to the vectors of the compilation target
/// (SSE2, NEON, ...).
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
