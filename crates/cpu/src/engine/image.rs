//! Batches of images as the convolutions see them.

use kiln_backend::Layout;

use crate::numeric::stored::Stored;

/// Images to read, `[N, C, H, W]` with any strides: a pointer to the first element, extents and strides.
#[derive(Clone, Copy)]
pub(crate) struct Image<P> {
    pub(crate) ptr: P,
    pub(crate) n: usize,
    pub(crate) c: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) strides: [isize; 4],
}

// SAFETY: a description of memory; whoever dereferences the pointer argues for that.
unsafe impl<P: Copy> Send for Image<P> {}
// SAFETY: as above.
unsafe impl<P: Copy> Sync for Image<P> {}

impl<P: Copy> Image<P> {
    /// The images of a layout of rank 4; `None` for another rank.
    pub(crate) fn new(ptr: P, layout: &Layout) -> Option<Image<P>> {
        let (&[n, c, h, w], &[sn, sc, sh, sw]) = (layout.dims(), layout.strides()) else { return None };
        Some(Image { ptr, n, c, h, w, strides: [sn, sc, sh, sw] })
    }

    /// Pixels of one channel of one image.
    pub(crate) fn area(&self) -> usize {
        self.h * self.w
    }

    /// Whether the pixels of a plane are one run of equal steps, [`step`](Image::step) apart.
    pub(crate) fn is_flat(&self) -> bool {
        self.h == 1 || self.strides[2] == self.strides[3] * self.w as isize
    }

    /// Distance of neighbouring pixels of a plane that [`is_flat`](Image::is_flat).
    pub(crate) fn step(&self) -> isize {
        if self.w == 1 { self.strides[2] } else { self.strides[3] }
    }

    /// Where an element lies, relative to the pointer.
    pub(crate) fn at(&self, n: usize, c: usize, y: usize, x: usize) -> isize {
        let [sn, sc, sh, sw] = self.strides;
        n as isize * sn + c as isize * sc + y as isize * sh + x as isize * sw
    }
}

impl<S> Image<*const S> {
    /// The channels from `first` on.
    pub(crate) fn channels(&self, first: usize, count: usize) -> Self {
        Image { ptr: self.ptr.wrapping_offset(first as isize * self.strides[1]), c: count, ..*self }
    }
}

impl<S> Image<*mut S> {
    /// The channels from `first` on.
    pub(crate) fn channels_mut(&self, first: usize, count: usize) -> Self {
        Image { ptr: self.ptr.wrapping_offset(first as isize * self.strides[1]), c: count, ..*self }
    }

    /// Every `step`-th row and column from `first` on, which lie inside.
    pub(crate) fn every(&self, first: [usize; 2], step: [usize; 2]) -> Self {
        let [sn, sc, sh, sw] = self.strides;
        Image {
            ptr: self.ptr.wrapping_offset(first[0] as isize * sh + first[1] as isize * sw),
            h: self.h.saturating_sub(first[0]).div_ceil(step[0]),
            w: self.w.saturating_sub(first[1]).div_ceil(step[1]),
            strides: [sn, sc, sh * step[0] as isize, sw * step[1] as isize],
            ..*self
        }
    }
}

/// A row of pixels of one image: what a range of pixels, counted through all images, is cut into.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub n: usize,
    pub y: usize,
    pub x: usize,
    pub len: usize,
}

/// Cuts the pixels `range` (number `(n * h + y) * w + x`) into rows.
pub(crate) fn runs(h: usize, w: usize, range: std::ops::Range<usize>) -> Vec<Run> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let (n, rest) = (at / (h * w), at % (h * w));
        let (y, x) = (rest / w, rest % w);
        let len = (w - x).min(range.end - at);
        out.push(Run { n, y, x, len });
        at += len;
    }
    out
}

/// Copies `n` elements that are `step` apart, converting them.
///
/// # Safety
/// They are readable, and `to` is writable for `n` elements.
#[inline]
pub(crate) unsafe fn gather<S: Stored<Compute = T>, T: Copy>(from: *const S, step: isize, n: usize, to: *mut T) {
    // SAFETY: the caller's promise.
    unsafe {
        if step == 1 && S::DIRECT {
            // `DIRECT` says that S is T.
            copy_row(from.cast::<T>(), to, n);
        } else if step == 1 {
            S::load_slice(std::slice::from_raw_parts(from, n), std::slice::from_raw_parts_mut(to, n));
        } else if step == 2 {
            // A constant step becomes vector code.
            for i in 0..n {
                *to.add(i) = (*from.add(2 * i)).load();
            }
        } else {
            for i in 0..n {
                *to.add(i) = (*from.offset(i as isize * step)).load();
            }
        }
    }
}

/// Copies `n` elements: rows of small images are too short for a call of `memcpy`.
///
/// # Safety
/// `from` is readable and `to` writable for `n` elements, which do not overlap.
#[inline(always)]
unsafe fn copy_row<T: Copy>(from: *const T, to: *mut T, n: usize) {
    // SAFETY: pieces of the `n` elements; the last overlaps the one before it.
    unsafe {
        let piece =
            |at: usize| to.add(at).cast::<[T; 8]>().write_unaligned(from.add(at).cast::<[T; 8]>().read_unaligned());
        if n > 128 {
            core::ptr::copy_nonoverlapping(from, to, n);
        } else if n >= 8 {
            (0..n - 8).step_by(8).for_each(piece);
            piece(n - 8);
        } else {
            (0..n).for_each(|i| *to.add(i) = *from.add(i));
        }
    }
}

/// Stores `n` values to elements that are `step` apart.
///
/// # Safety
/// They are writable, and `from` is readable for `n` elements.
#[inline]
pub(crate) unsafe fn scatter<S: Stored<Compute = T>, T: Copy>(from: *const T, to: *mut S, step: isize, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if step == 1 && S::DIRECT {
            // `DIRECT` says that S is T.
            copy_row(from, to.cast::<T>(), n);
        } else if step == 1 {
            S::store_slice(std::slice::from_raw_parts(from, n), std::slice::from_raw_parts_mut(to, n));
        } else {
            for i in 0..n {
                *to.offset(i as isize * step) = S::store(*from.add(i));
            }
        }
    }
}
