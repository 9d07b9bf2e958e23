//! The kernel for a lane side that nobody packs: an image as the taps of a convolution see it.

use super::micro::unroll;
use super::simd::Simd;

/// Arguments of the kernel for a lane side that lies in memory as it is: step `k` of all lanes
/// begins at `b + offsets[k]`. That is how an image is seen through the taps of a convolution.
pub(crate) struct Slide<T> {
    pub k: usize,
    /// One of `Kernel::slides`.
    pub rows: usize,
    /// Packed broadcast side: element (row, k) at `k * rows + row`.
    pub a: *const T,
    /// Two vectors are readable from every step on.
    pub b: *const T,
    pub offsets: *const usize,
    /// Two vectors of every row are written, rows `c_rs` apart.
    pub c: *mut T,
    pub c_rs: usize,
    /// Null, or a value to add per row.
    pub bias: *const T,
    pub relu: bool,
}

/// # Safety
/// As documented at [`Slide`], with `MR` rows, and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn slide_tile<V: Simd, const MR: usize>(s: &Slide<V::T>) {
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
