//! Packing: lanes of B into panels, and rows of A into the layouts that the tile kernels read.

use super::{
    kernel::{Kernel, PackArgs},
    scratch::with_scratch,
    source::{Float, Source},
};

/// Lanes that [`pack_lanes`] packed beforehand: blocks of `k`, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct PackedLanes<T> {
    pub start: *mut T,
    /// Elements per step of `k`: the lanes, rounded up to whole vectors.
    pub width: usize,
    /// Steps of a block; the last one may have fewer.
    pub steps: usize,
}

// SAFETY: it only describes memory; code that dereferences the pointer must justify it.
unsafe impl<T: Sync> Sync for PackedLanes<T> {}

impl<T> PackedLanes<T> {
    /// The start of the panel of lane `lane`, in the block of `nk` steps that starts at step `k0`.
    pub fn at(&self, k0: usize, lane: usize, nk: usize) -> *mut T {
        self.start.wrapping_add(k0 * self.width + lane * nk)
    }
}

/// Packs `lanes x nk` elements of B into panels two vectors wide (the last one
/// vector, if that suffices), one after the other.
///
/// # Safety
/// The source must be readable in that extent, and `dst` writable for `lanes`, rounded up to
/// whole vectors, times `nk` elements.
pub(crate) unsafe fn pack_lanes<S: Source<T>, T: Float>(
    kern: &Kernel<T>,
    src: *const S,
    nk: usize,
    lanes: usize,
    k_stride: isize,
    lane_stride: isize,
    dst: *mut T,
) {
    let panel = 2 * kern.lanes;
    let tail = (lanes - 1) % panel + 1;
    let last = if tail <= kern.lanes { kern.lanes } else { panel };
    // SAFETY: all accesses stay within the extents the caller promised.
    unsafe {
        if S::SAME && (lane_stride == 1 || k_stride == 1) {
            let p = PackArgs { src: src.cast(), k: nk, lanes, k_stride, lane_stride, dst, panel, last };
            return (kern.pack_lanes)(&p);
        }
        for l in (0..lanes).step_by(panel) {
            let n = panel.min(lanes - l);
            let w = if l + panel < lanes { panel } else { last };
            let s = src.offset(l as isize * lane_stride);
            let d = dst.add(l * nk);
            if k_stride == 1 {
                // Convert runs along k, then transpose with the fast kernel.
                with_scratch::<T, _>(n * nk, |stage| {
                    for j in 0..n {
                        S::widen_run(s.offset(j as isize * lane_stride), nk, stage.add(j * nk));
                    }
                    let lane_stride = nk as isize;
                    (kern.pack_lanes)(&PackArgs {
                        src: stage,
                        k: nk,
                        lanes: n,
                        k_stride: 1,
                        lane_stride,
                        dst: d,
                        panel,
                        last: w,
                    });
                });
                continue;
            }
            for k in 0..nk {
                let (s, d) = (s.offset(k as isize * k_stride), d.add(k * w));
                if lane_stride == 1 {
                    S::widen_run(s, n, d);
                } else {
                    for j in 0..n {
                        *d.add(j) = (*s.offset(j as isize * lane_stride)).widen();
                    }
                }
                for j in n..w {
                    *d.add(j) = T::ZERO;
                }
            }
        }
    }
}

/// Whether tile kernels read packed rows k-major: if they are not contiguous along `k`, or there is no code for others.
pub(super) fn is_kmajor<T>(kern: &Kernel<T>, k_stride: isize) -> bool {
    k_stride != 1 || !kern.row_major
}

/// Rows of one block of A.
#[derive(Clone, Copy)]
pub(super) struct Rows<S> {
    pub start: *const S,
    pub count: usize,
    pub steps: usize,
    pub row_stride: isize,
    pub k_stride: isize,
}

/// Packs rows for tiles of `height` rows. If they are contiguous along `k` they are copied as they are,
/// [`Kernel::packed_row`] apart; otherwise every tile becomes k-major, and the tiles follow each other without gaps. Rows
/// that the last tile computes beyond those that exist become 0.
///
/// # Safety
/// The rows must be readable, and `to` writable for them, rounded up to whole tiles.
pub(super) unsafe fn pack_rows<S: Source<T>, T: Float>(kern: &Kernel<T>, rows: Rows<S>, height: usize, to: *mut T) {
    let Rows { start, count, steps, row_stride, k_stride } = rows;
    let last = kern.height((count - 1) % height + 1);
    // SAFETY: reads stay within what the caller promised, writes within `count`, rounded up to whole tiles.
    unsafe {
        if !is_kmajor(kern, k_stride) {
            let row = kern.packed_row(steps);
            for i in 0..count {
                S::widen_run(start.offset(i as isize * row_stride), steps, to.add(i * row));
            }
            for i in count..(count - 1) / height * height + last {
                core::slice::from_raw_parts_mut(to.add(i * row), steps).fill(T::ZERO);
            }
            return;
        }
        if row_stride == 1 && S::SAME {
            return (kern.pack_lanes)(&PackArgs {
                src: start.cast(),
                k: steps,
                lanes: count,
                k_stride,
                lane_stride: 1,
                dst: to,
                panel: height,
                last,
            });
        }
        for r in (0..count).step_by(height) {
            let n = height.min(count - r);
            let width = if r + height < count { height } else { last };
            for k in 0..steps {
                let s = start.offset(r as isize * row_stride + k as isize * k_stride);
                let d = to.add(r * steps + k * width);
                if row_stride == 1 {
                    S::widen_run(s, n, d);
                } else {
                    for i in 0..n {
                        *d.add(i) = (*s.offset(i as isize * row_stride)).widen();
                    }
                }
                for i in n..width {
                    *d.add(i) = T::ZERO;
                }
            }
        }
    }
}
