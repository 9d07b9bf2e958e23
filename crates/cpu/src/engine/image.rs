//! Batches of images `[N, C, H, W]` in any layout, and runs of their pixels.

use crate::memory::erased::{Erased, ErasedPtr, Rows};

/// An axis whose indices lie in blocks: `inner` indices that are as far apart as the axis's stride, and the next block
/// `outer` elements after this one.
#[derive(Clone, Copy)]
pub(crate) struct Blocks {
    inner: usize,
    outer: isize,
}

impl Blocks {
    /// A single block.
    const ONE: Blocks = Blocks { inner: usize::MAX, outer: 0 };

    /// The offset of an index.
    #[inline(always)]
    fn at(self, index: usize, stride: isize) -> isize {
        if index < self.inner {
            return index as isize * stride;
        }
        let (block, within) = (index / self.inner, index % self.inner);
        block as isize * self.outer + within as isize * stride
    }
}

/// Extent and stride of an axis.
pub(crate) type Axis = (usize, isize);

/// Where planes of a volume lie in it: those outside are padding, and read as zeros.
#[derive(Clone, Copy)]
pub(crate) struct Depths {
    /// The depth of the volume.
    pub(crate) inside: usize,
    /// That of the first image's first channel, and how much further the next image of a volume lies, and the next plane of a
    /// channel.
    pub(crate) first: isize,
    pub(crate) between_images: isize,
    pub(crate) between_planes: isize,
    /// How many images a volume has. How many channels follow each other in a plane, and how many planes there are.
    pub(crate) images: usize,
    pub(crate) channels: usize,
    pub(crate) planes: usize,
}

/// Images `[N, C, H, W]` with any strides: the first element, extents and strides. Of a batch of volumes, images may be the
/// planes, and channels those that a position of a kernel reads: these axes then have blocks.
pub(crate) struct Image<T: 'static> {
    pub(crate) ptr: ErasedPtr<T>,
    pub(crate) n: usize,
    pub(crate) c: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) strides: [isize; 4],
    /// The blocks of images and channels.
    blocks: [Blocks; 2],
    /// Of volumes, some planes of which may be padding.
    depths: Option<Depths>,
}

impl<T> Clone for Image<T> {
    fn clone(&self) -> Image<T> {
        *self
    }
}
impl<T> Copy for Image<T> {}

// SAFETY: it only describes memory; code that dereferences the pointer must justify it.
unsafe impl<T: Send> Send for Image<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Image<T> {}

impl<T: Copy> Image<T> {
    /// The images of a 4-dimensional tensor. Missing dimensions have extent 1.
    pub(crate) fn new(tensor: &Erased<T>) -> Image<T> {
        let layout = tensor.layout();
        let [n, c, h, w] = [0, 1, 2, 3].map(|dim| layout.dims().get(dim).map_or(1, |&extent| extent));
        let strides = [0, 1, 2, 3].map(|dim| layout.strides().get(dim).map_or(0, |&stride| stride));
        Image { ptr: tensor.ptr(), n, c, h, w, strides, blocks: [Blocks::ONE; 2], depths: None }
    }

    /// Images and channels that are each numbered by two axes, the outer one first, of planes `h`, `w`.
    pub(crate) fn of_planes(ptr: ErasedPtr<T>, n: [Axis; 2], c: [Axis; 2], h: Axis, w: Axis) -> Image<T> {
        // The stride of an axis that two make, and its blocks if it takes any.
        let joined = |[(count, outer), (inner, stride)]: [Axis; 2]| match () {
            () if inner <= 1 => (outer, Blocks::ONE),
            () if count <= 1 || outer == inner as isize * stride => (stride, Blocks::ONE),
            () => (stride, Blocks { inner, outer }),
        };
        let ((sn, images), (sc, channels)) = (joined(n), joined(c));
        Image {
            ptr,
            n: n[0].0 * n[1].0,
            c: c[0].0 * c[1].0,
            h: h.0,
            w: w.0,
            strides: [sn, sc, h.1, w.1],
            blocks: [images, channels],
            depths: None,
        }
    }

    /// The same, of volumes some planes of which may be padding.
    pub(crate) fn of_depths(self, depths: Depths) -> Image<T> {
        Image { depths: Some(depths), ..self }
    }

    /// Number of pixels per channel of an image.
    pub(crate) fn area(&self) -> usize {
        self.h * self.w
    }

    /// Whether the pixels of a plane are evenly spaced, [`step`](Image::step) apart.
    pub(crate) fn is_flat(&self) -> bool {
        self.h == 1 || self.strides[2] == self.strides[3] * self.w as isize
    }

    /// Distance between neighboring pixels of a plane that [`is_flat`](Image::is_flat).
    pub(crate) fn step(&self) -> isize {
        if self.w == 1 { self.strides[2] } else { self.strides[3] }
    }

    /// Whether the planes of an image follow each other without gaps, pixel by pixel.
    pub(crate) fn dense_planes(&self) -> bool {
        let plane = self.area() <= 1 || self.is_flat() && self.step() == 1;
        plane && (self.c <= 1 || self.strides[1] == self.area() as isize && self.c <= self.blocks[1].inner)
    }

    /// The first element if all images are stored in `T` and follow each other without gaps, channel by channel.
    pub(crate) fn dense(&self) -> Option<*const T> {
        let per = self.c * self.area();
        let follow = self.strides[0] == per as isize && self.n <= self.blocks[0].inner;
        let dense = self.dense_planes() && (self.n <= 1 || follow);
        self.ptr.direct().filter(|_| dense).map(<*mut T>::cast_const)
    }

    /// The offset of an element from the pointer.
    pub(crate) fn at(&self, n: usize, c: usize, y: usize, x: usize) -> isize {
        let [sn, _, sh, sw] = self.strides;
        self.blocks[0].at(n, sn) + self.channel(c) + y as isize * sh + x as isize * sw
    }

    /// The offset of a channel.
    #[inline(always)]
    pub(crate) fn channel(&self, c: usize) -> isize {
        self.blocks[1].at(c, self.strides[1])
    }

    /// The depth of an image's first plane, of 1 if there are no volumes.
    #[inline(always)]
    pub(crate) fn depth_of_image(&self, n: usize) -> isize {
        self.depths.map_or(0, |of| of.first + (n % of.images.max(1)) as isize * of.between_images)
    }

    /// How much deeper a channel's plane lies than its image's first, and the depth of the volume.
    #[inline(always)]
    pub(crate) fn depth_of_channel(&self, c: usize) -> (isize, usize) {
        self.depths
            .map_or((0, 1), |of| ((c / of.channels.max(1) % of.planes.max(1)) as isize * of.between_planes, of.inside))
    }

    /// Whether a channel of an image is a plane of a volume, not padding.
    #[inline(always)]
    pub(crate) fn is_inside(&self, n: usize, c: usize) -> bool {
        let (deeper, inside) = self.depth_of_channel(c);
        ((self.depth_of_image(n) + deeper) as usize) < inside
    }

    /// Whether these channels, which exist, are as far apart as the stride says.
    pub(crate) fn are_in_a_block(&self, channels: std::ops::Range<usize>) -> bool {
        let inner = self.blocks[1].inner;
        channels.end <= inner || channels.start / inner == (channels.end - 1) / inner
    }

    /// `count` rows of `len` pixels of a plane, taking every `step`-th row and column.
    pub(crate) fn rows(&self, [count, len]: [usize; 2], step: [usize; 2]) -> Rows {
        let (row_stride, stride) = (self.strides[2] * step[0] as isize, self.strides[3] * step[1] as isize);
        Rows { count, len, row_stride, stride }
    }

    /// Copies the plane of a channel of an image.
    ///
    /// # Safety
    /// The plane is readable, and `to` writable for all of it.
    pub(crate) unsafe fn gather_plane(&self, n: usize, c: usize, to: *mut T) {
        let first = self.ptr.offset(self.at(n, c, 0, 0));
        // SAFETY: the caller's promise.
        unsafe {
            if self.is_flat() {
                first.gather(self.step(), self.area(), to);
            } else {
                first.gather_rows(self.rows([self.h, self.w], [1, 1]), to, self.w);
            }
        }
    }

    /// Stores the plane of a channel of an image.
    ///
    /// # Safety
    /// The plane is writable, nobody else accesses it, and `from` is readable for all of it.
    pub(crate) unsafe fn scatter_plane(&self, n: usize, c: usize, from: *const T) {
        let first = self.ptr.offset(self.at(n, c, 0, 0));
        // SAFETY: the caller's promise.
        unsafe {
            if self.is_flat() {
                first.scatter(from, self.step(), self.area());
            } else {
                first.scatter_rows(self.rows([self.h, self.w], [1, 1]), from, self.w);
            }
        }
    }

    /// The plane of a channel of an image: where it lies if it has no gaps and is stored in `T`, else copied to `staged`.
    ///
    /// # Safety
    /// The plane is readable for as long as the result is used.
    pub(crate) unsafe fn plane<'a>(&self, n: usize, c: usize, staged: &'a mut Vec<T>) -> &'a [T] {
        let first = self.ptr.offset(self.at(n, c, 0, 0)).direct();
        // SAFETY: the caller's promise, and there is room for the whole plane.
        unsafe {
            match first.filter(|_| self.is_flat() && self.step() == 1) {
                Some(first) => std::slice::from_raw_parts(first, self.area()),
                None => {
                    staged.clear();
                    staged.reserve(self.area());
                    self.gather_plane(n, c, staged.as_mut_ptr());
                    staged.set_len(self.area());
                    staged
                }
            }
        }
    }

    /// Lets `fill` write the plane of a channel of an image: where it lies if it has no gaps and is stored in `T`, else in
    /// `staged`, from where it is stored. What `fill` does not write is undefined.
    ///
    /// # Safety
    /// The plane is writable, and nobody else accesses it.
    pub(crate) unsafe fn fill_plane<R>(
        &self,
        n: usize,
        c: usize,
        staged: &mut Vec<T>,
        fill: impl FnOnce(&mut [T]) -> R,
    ) -> R
    where
        T: Default,
    {
        let first = self.ptr.offset(self.at(n, c, 0, 0)).direct();
        match first.filter(|_| self.is_flat() && self.step() == 1) {
            // SAFETY: the caller's promise.
            Some(first) => fill(unsafe { std::slice::from_raw_parts_mut(first, self.area()) }),
            None => {
                staged.resize(self.area(), T::default());
                let filled = fill(staged);
                // SAFETY: as above, and `staged` has the size of the plane.
                unsafe { self.scatter_plane(n, c, staged.as_ptr()) };
                filled
            }
        }
    }

    /// The `count` channels starting at `first`, of images whose channels have no blocks.
    pub(crate) fn channels(&self, first: usize, count: usize) -> Self {
        Image { ptr: self.ptr.offset(first as isize * self.strides[1]), c: count, ..*self }
    }

    /// The `count` images starting at `first`, of images that have no blocks.
    pub(crate) fn images(&self, first: usize, count: usize) -> Self {
        Image { ptr: self.ptr.offset(first as isize * self.strides[0]), n: count, ..*self }
    }

    /// Every `step`-th row and column starting at `first`, which must be inside.
    pub(crate) fn every(&self, first: [usize; 2], step: [usize; 2]) -> Self {
        let [sn, sc, sh, sw] = self.strides;
        Image {
            ptr: self.ptr.offset(first[0] as isize * sh + first[1] as isize * sw),
            h: self.h.saturating_sub(first[0]).div_ceil(step[0]),
            w: self.w.saturating_sub(first[1]).div_ceil(step[1]),
            strides: [sn, sc, sh * step[0] as isize, sw * step[1] as isize],
            ..*self
        }
    }
}

/// A run of pixels in one row of one image; a range of pixels, numbered across all images, is cut into these.
#[derive(Clone, Copy)]
pub(crate) struct PixelRun {
    pub n: usize,
    pub y: usize,
    pub x: usize,
    pub len: usize,
}

/// Cuts the pixels `range`, numbered `(n * h + y) * w + x`, into rows.
pub(crate) fn pixel_runs(h: usize, w: usize, range: std::ops::Range<usize>) -> Vec<PixelRun> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let (n, rest) = (at / (h * w), at % (h * w));
        let (y, x) = (rest / w, rest % w);
        let len = (w - x).min(range.end - at);
        out.push(PixelRun { n, y, x, len });
        at += len;
    }
    out
}

/// Cuts the pixels `range` into images, of `area` pixels in rows of `w`: runs for images whose planes are
/// [flat](Image::is_flat).
pub(crate) fn image_runs(area: usize, w: usize, range: std::ops::Range<usize>) -> Vec<PixelRun> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let (n, rest) = (at / area, at % area);
        let len = (area - rest).min(range.end - at);
        out.push(PixelRun { n, y: rest / w, x: rest % w, len });
        at += len;
    }
    out
}
