//! The kernel that packs lanes into panels: it copies or transposes vectors. Generic over [`Simd`] registers, as the
//! [tile kernels](super::tile) are, which read the panels.

use super::{
    kernel::PackArgs,
    prefetch::{LINE, prefetch},
    simd::Simd,
};

/// How many rows ahead packing prefetches: rows far apart, which the hardware prefetcher does not follow.
const ROWS_AHEAD: isize = 16;
/// How far ahead along each of the rows that packing transposes, in elements: too many streams at a time for that prefetcher.
const STEPS_AHEAD: usize = 64;

/// Steps of `k` that packing copies at a time.
const FOUR: usize = 4;

/// Copies `VECTORS` vectors of each of four steps, `stride` apart, to places `width` apart.
///
/// # Safety
/// All of them must be readable and writable, and `V`'s instruction set available.
#[inline(always)]
unsafe fn copy_four<V: Simd, const VECTORS: usize>(from: *const V::T, stride: isize, to: *mut V::T, width: usize) {
    for step in 0..FOUR {
        // SAFETY: the caller's promise.
        unsafe {
            let (from, to) = (from.offset(step as isize * stride), to.add(step * width));
            let ahead = from.wrapping_offset(ROWS_AHEAD * stride);
            prefetch(ahead);
            V::load(from).store(to);
            if const { VECTORS == 2 } {
                // Two short vectors are one cache line.
                if const { size_of::<V::T>() * V::L >= LINE } {
                    prefetch(ahead.wrapping_add(V::L));
                }
                V::load(from.add(V::L)).store(to.add(V::L));
            }
        }
    }
}

/// # Safety
/// As documented at [`PackArgs`], and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn pack_lanes<V: Simd>(p: &PackArgs<V::T>) {
    // SAFETY: the caller's promise.
    unsafe { if p.lane_stride == 1 { copy_lanes::<V>(p) } else { transpose_lanes::<V>(p) } }
}

/// The width of the panel that begins with lane `l`.
fn panel_width<T>(p: &PackArgs<T>, l: usize) -> usize {
    if l + p.panel < p.lanes { p.panel } else { p.last }
}

/// Packs lanes that are side by side in each step of the source: four steps at a time, so that whole cache lines and pages are used
/// up before the next, and the panels are still written in long runs.
///
/// # Safety
/// As for [`pack_lanes`].
#[inline(always)]
unsafe fn copy_lanes<V: Simd>(p: &PackArgs<V::T>) {
    for k0 in (0..p.k).step_by(FOUR) {
        for l in (0..p.lanes).step_by(p.panel) {
            let (width, steps, left) = (panel_width(p, l), FOUR.min(p.k - k0), p.lanes - l);
            // What a whole vector writes past a step, the steps after it overwrite; the last ones must not.
            let fits = |vectors: usize| {
                let lanes = vectors * V::L;
                steps == FOUR && (width..=left).contains(&lanes) && (FOUR - 1) * width + lanes <= (p.k - k0) * width
            };
            // SAFETY: reads stay within k x lanes of the source, writes within the panel.
            unsafe {
                let from = p.src.offset(k0 as isize * p.k_stride).add(l);
                let to = p.dst.add(l * p.k + k0 * width);
                if fits(1) {
                    copy_four::<V, 1>(from, p.k_stride, to, width);
                } else if fits(2) {
                    copy_four::<V, 2>(from, p.k_stride, to, width);
                } else {
                    for (kk, j) in (0..steps).flat_map(|kk| (0..width).step_by(V::L).map(move |j| (kk, j))) {
                        let n = left.saturating_sub(j).min(V::L);
                        let x = V::load_n(from.offset(kk as isize * p.k_stride).wrapping_add(j), n);
                        let to = to.add(kk * width + j);
                        // Storing a part of a vector takes many cycles on some CPUs with AVX2.
                        if (k0 + kk) * width + j + V::L <= p.k * width { x.store(to) } else { x.store_n(to, width - j) }
                    }
                }
            }
        }
    }
}

/// Packs lanes each of which is a row of the source.
///
/// # Safety
/// As for [`pack_lanes`].
#[inline(always)]
unsafe fn transpose_lanes<V: Simd>(p: &PackArgs<V::T>) {
    // SAFETY: reads stay within k x lanes of the source, writes within the panels.
    unsafe {
        // A panel's vectors in turn, step by step: whole cache lines are written.
        let per_line = LINE / size_of::<V::T>();
        for l in (0..p.lanes).step_by(p.panel) {
            let w = panel_width(p, l);
            let (s, d) = (p.src.offset(l as isize * p.lane_stride), p.dst.add(l * p.k));
            let rows = w.min(p.lanes - l);
            let whole = rows / V::L * V::L;
            let mut kk = 0;
            while kk + V::Q <= p.k {
                if kk % per_line < V::Q {
                    for i in 0..rows {
                        prefetch(s.wrapping_offset(i as isize * p.lane_stride).wrapping_add(kk + STEPS_AHEAD));
                    }
                }
                for j in (0..whole).step_by(V::L) {
                    let v = V::transpose(s.offset(j as isize * p.lane_stride).add(kk), p.lane_stride);
                    for q in 0..V::Q {
                        v[q].store(d.add((kk + q) * w + j));
                    }
                }
                kk += V::Q;
            }
            // What is left: the last vector, and the last steps of all.
            for j in (0..w).step_by(V::L) {
                let n = rows.saturating_sub(j).min(V::L);
                for kk in if n == V::L { kk } else { 0 }..p.k {
                    V::zero().store(d.add(kk * w + j));
                    for i in j..j + n {
                        *d.add(kk * w + i) = *s.offset(i as isize * p.lane_stride).add(kk);
                    }
                }
            }
        }
    }
}
