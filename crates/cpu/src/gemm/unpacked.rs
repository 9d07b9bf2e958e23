//! The register kernels that read both operands in place: blocks of dot products, and direct convolution.

use super::{
    kernel::{DirectConvArgs, DotArgs},
    prefetch::prefetch,
    simd::{Simd, unroll},
};

/// How many elements ahead dot products prefetch. Each of the few streams is read exactly
/// once, at the speed of memory, which the hardware prefetcher alone does not reach.
const AHEAD: usize = 256;

/// # Safety
/// As documented at [`DotArgs`], and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn dots_block<V: Simd, const R: usize, const C: usize>(d: &mut DotArgs<V::T>) {
    // SAFETY: R = rows and C = cols vectors of length k are read.
    unsafe {
        let mut acc = [[V::zero(); C]; R];
        let (mut pa, mut pb) = ([d.a[0]; R], [d.b[0]; C]);
        pa.copy_from_slice(&d.a[..R]);
        pb.copy_from_slice(&d.b[..C]);
        for _ in 0..d.runs {
            let mut kk = 0;
            while kk + V::L <= d.k {
                let mut b = [V::zero(); C];
                for j in 0..C {
                    let p = pb[j].add(kk);
                    prefetch(p.wrapping_add(AHEAD));
                    b[j] = V::load(p);
                }
                unroll!(i < R, few, {
                    let p = pa[i].add(kk);
                    prefetch(p.wrapping_add(AHEAD));
                    let a = V::load(p);
                    for j in 0..C {
                        acc[i][j] = a.fma(b[j], acc[i][j]);
                    }
                });
                kk += V::L;
            }
            let n = d.k - kk;
            if n > 0 {
                let mut b = [V::zero(); C];
                for j in 0..C {
                    b[j] = V::load_n(pb[j].add(kk), n);
                }
                unroll!(i < R, few, {
                    let a = V::load_n(pa[i].add(kk), n);
                    for j in 0..C {
                        acc[i][j] = a.fma(b[j], acc[i][j]);
                    }
                });
            }
            pa.iter_mut().for_each(|p| *p = p.wrapping_add(d.a_step));
            pb.iter_mut().for_each(|p| *p = p.wrapping_add(d.b_step));
        }
        unroll!(i < R, few, {
            for j in 0..C {
                *d.out.as_mut_ptr().cast::<V::T>().add(i * 4 + j) = acc[i][j].sum();
            }
        });
    }
}

/// # Safety
/// As documented at [`DirectConvArgs`], with `MR` rows, and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn direct_conv_tile<V: Simd, const MR: usize>(s: &DirectConvArgs<V::T>) {
    // SAFETY: two vectors per step and per row are accessed.
    unsafe {
        let mut acc = [[V::zero(); 2]; MR];
        let mut a = s.a;
        for k in 0..s.k {
            let b = s.b.add(*s.offsets.add(k));
            let bv = [V::load(b), V::load(b.add(V::L))];
            unroll!(i < MR, rows, {
                let x = V::splat(*a.add(i));
                acc[i] = [x.fma(bv[0], acc[i][0]), x.fma(bv[1], acc[i][1])];
            });
            a = a.add(MR);
        }
        unroll!(i < MR, rows, {
            for v in 0..2 {
                let mut x = acc[i][v];
                if !s.bias.is_null() {
                    x = x.add(V::splat(*s.bias.add(i)));
                }
                if s.relu {
                    x = x.relu();
                }
                x.store(s.c.add(i * s.c_rs + v * V::L));
            }
        });
    }
}
