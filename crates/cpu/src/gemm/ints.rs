//! Integer products: a plain blocked loop that LLVM vectorizes, with wrapping arithmetic.

use super::problem::GemmProblem;
use super::scratch::with_scratch;
use super::source::Number;
#[cfg(target_arch = "x86_64")]
use crate::engine::level::{Level, level};

/// Lanes and steps of `k` per block: a block of B (and the running sums) stay in L2.
const LANES: usize = 256;
const STEPS: usize = 128;

/// An integer with wrapping product.
pub(crate) trait Int: Number {
    fn times(self, other: Self) -> Self;
    /// Computes a part of the product with the best available instruction set.
    ///
    /// # Safety
    /// As for `blocked::part`.
    unsafe fn part(p: &GemmProblem<Self>, rows: (usize, usize), lanes: (usize, usize));
}

macro_rules! int {
    ($($t:ident)*) => {$(
        mod $t {
            use super::*;
            // The same loop compiled for wider registers; LLVM vectorizes it.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
            pub(super) unsafe fn avx512(p: &GemmProblem<$t>, rows: (usize, usize), lanes: (usize, usize)) {
                // SAFETY: forwarded.
                unsafe { blocks(p, rows, lanes) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            pub(super) unsafe fn avx2(p: &GemmProblem<$t>, rows: (usize, usize), lanes: (usize, usize)) {
                // SAFETY: forwarded.
                unsafe { blocks(p, rows, lanes) }
            }
        }
        impl Int for $t {
            #[inline(always)]
            fn times(self, other: $t) -> $t {
                self.wrapping_mul(other)
            }
            unsafe fn part(p: &GemmProblem<$t>, rows: (usize, usize), lanes: (usize, usize)) {
                #[cfg(target_arch = "x86_64")]
                match level() {
                    // SAFETY: forwarded, and the CPU has the instructions.
                    Level::Avx512 => return unsafe { $t::avx512(p, rows, lanes) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { $t::avx2(p, rows, lanes) },
                    Level::Generic => {}
                }
                // SAFETY: forwarded.
                unsafe { blocks(p, rows, lanes) }
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
        int!($($i)*);
    };
}
kiln_backend::dtype_table!(int_rows);

/// # Safety
/// As for `blocked::part`.
#[inline(always)]
unsafe fn blocks<T: Int>(p: &GemmProblem<T>, rows: (usize, usize), lanes: (usize, usize)) {
    with_scratch::<T, _>(STEPS * LANES, |block| {
        for j0 in (lanes.0..lanes.1).step_by(LANES) {
            let nl = LANES.min(lanes.1 - j0);
            for k0 in (0..p.k).step_by(STEPS) {
                let nk = STEPS.min(p.k - k0);
                // The epilogue goes with the last block, C's old value with the first.
                let last = k0 + nk == p.k;
                let q = GemmProblem {
                    load_c: p.load_c || k0 > 0,
                    bias: if last { p.bias } else { core::ptr::null() },
                    relu: p.relu && last,
                    ..*p
                };
                // SAFETY: every access lies inside the product or the block.
                unsafe {
                    for k in 0..nk {
                        let src = p.b.offset((k0 + k) as isize * p.b_k + j0 as isize * p.b_lane);
                        if p.b_lane == 1 {
                            core::ptr::copy_nonoverlapping(src, block.add(k * LANES), nl);
                        } else {
                            for j in 0..nl {
                                *block.add(k * LANES + j) = *src.offset(j as isize * p.b_lane);
                            }
                        }
                        for j in nl..LANES {
                            *block.add(k * LANES + j) = T::ZERO;
                        }
                    }
                    for i in rows.0..rows.1 {
                        let a = p.a.offset(i as isize * p.a_row + k0 as isize * p.a_k);
                        let mut sum = [T::ZERO; LANES];
                        // Four steps at a time, to load and store the sums less often.
                        for k in (0..nk).step_by(4) {
                            let n = (nk - k).min(4);
                            let at = |u: usize| if u < n { *a.offset((k + u) as isize * p.a_k) } else { T::ZERO };
                            let x = [at(0), at(1), at(2), at(3)];
                            // Rows past the end are multiplied by zero, so any row will do.
                            let row = |u: usize| &*block.add((k + u.min(n - 1)) * LANES).cast::<[T; LANES]>();
                            let b = [row(0), row(1), row(2), row(3)];
                            for j in 0..LANES {
                                let s = x[0].times(b[0][j]).plus(x[1].times(b[1][j]));
                                let t = x[2].times(b[2][j]).plus(x[3].times(b[3][j]));
                                sum[j] = sum[j].plus(s).plus(t);
                            }
                        }
                        for (j, s) in sum.iter().enumerate().take(nl) {
                            q.put(i, j0 + j, *s);
                        }
                    }
                }
            }
        }
    })
}
