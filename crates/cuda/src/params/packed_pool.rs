//! Pooling of dense images in packs of 16 bytes, along channels or along rows: whether these kernels apply, and their
//! parameters.

use kiln_backend::{Layout, Pool2d};

use super::Dim;
use crate::image_format::Format;

by_value! {
    /// A pooling of dense images with windows of 2×2 or 3×3 pixels and stride 2, in packs of elements.
    PackedPool: 104 => {
        /// The number of packs, or of blocks of packs.
        packs: u32 = 0,
        /// The distance between pixels in elements.
        channels: u32 = 4,
        /// Packs per pixel, columns, rows; or packs per row, 1, rows.
        dims: [Dim; 3] = 8,
        /// Of the input.
        height: i32 = 80,
        /// Of the input.
        width: i32 = 84,
        /// Of the output.
        out_height: i32 = 88,
        /// Of the output.
        out_width: i32 = 92,
        /// Height and width.
        padding: [i32; 2] = 96,
    }
    /// The gradient of the average of each plane of dense images, in packs of elements.
    PackedMean: 56 => {
        /// The number of packs.
        packs: u32 = 0,
        /// Pixels per plane.
        size: u32 = 4,
        /// Packs per pixel, pixels per plane; or pixels per plane, 1.
        dims: [Dim; 2] = 8,
    }
}

/// An image tensor: its layout, its address, and the size of its elements.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// The layout of `[N, C, H, W]`.
    pub layout: &'a Layout,
    /// The address of the first element.
    pub address: u64,
    /// Bytes per element.
    pub size: usize,
}

impl Images<'_> {
    fn dims(&self) -> Option<[usize; 4]> {
        self.layout.dims().try_into().ok()
    }

    /// Whether packs of so many elements begin at multiples of their size.
    fn holds_packs_of(&self, elements: usize) -> bool {
        self.address.is_multiple_of((elements * self.size) as u64)
    }
}

/// The common layout of all tensors: channels last (`true`) or planes, without gaps; else `None`.
fn dense(all: &[Images]) -> Option<bool> {
    let fit = |format: Format| all.iter().all(|images| format.fits::<4>(images.layout));
    if fit(Format::ChannelsFirst) { Some(false) } else { fit(Format::ChannelsLast).then_some(true) }
}

/// An extent as kernels store it: below 2^31.
fn small(extent: usize) -> Option<i32> {
    i32::try_from(extent).ok()
}

fn product(extents: &[usize]) -> Option<usize> {
    extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent))
}

fn dim(extent: usize) -> Dim {
    Dim::new(extent as u64)
}

impl PackedPool {
    /// Max pooling or (`backward`) its gradient: the operation of `max_pool_packed` and its parameters, if there are
    /// kernels for it. The operands are the images before and after the pooling, and the tap numbers.
    #[must_use]
    pub fn new(
        pool: &Pool2d,
        before: Images,
        after: Images,
        taps: Option<Images>,
        backward: bool,
    ) -> Option<(&'static str, PackedPool)> {
        let Pool2d::Window { kernel: [k, wide], stride: [2, 2], padding, dilation: [1, 1] } = *pool else {
            return None;
        };
        let (Some([n, c, h, w]), Some([_, _, out_h, out_w])) = (before.dims(), after.dims()) else { return None };
        let size = before.size;
        // Every window has a tap inside, as the kernels assume.
        let inside = |axis: usize, input: usize, out: usize| padding[axis] < k && 2 * out < input + padding[axis] + 2;
        if k != wide || !(2..=3).contains(&k) || !inside(0, h, out_h) || !inside(1, w, out_w) || size > 4 {
            return None;
        }
        let (mut all, mut count) = ([before, after, after], 2);
        if let Some(taps) = taps {
            (all[2], count) = (taps, 3);
        }
        let channels_last = dense(&all[..count])?;
        let taps_hold = |elements| taps.is_none_or(|taps| taps.holds_packs_of(elements));
        // Blocks of the gradient have two rows or columns, and begin at windows.
        let blocks = |extent: usize, padding: usize| (extent + padding).div_ceil(2);
        let (op, channels, dims, others) = if channels_last {
            let pack = 16 / size;
            if !c.is_multiple_of(pack)
                || !before.holds_packs_of(pack)
                || !after.holds_packs_of(pack)
                || !taps_hold(pack)
            {
                return None;
            }
            let (rows, columns) =
                if backward { (blocks(h, padding[0]), blocks(w, padding[1])) } else { (out_h, out_w) };
            small(product(&[n, h, w])?)?;
            (["pixels_2", "pixels_3"], c, [c / pack, columns, rows], n)
        } else {
            // Rows of the output have half as many elements, and windows of three begin one element before a pack.
            if w != 2 * out_w || padding != [k - 2; 2] {
                return None;
            }
            let fits = |bytes: &usize| {
                let pack = bytes / size;
                pack >= 2
                    && w.is_multiple_of(pack)
                    && before.holds_packs_of(pack)
                    && after.holds_packs_of(pack / 2)
                    && taps_hold(pack / 2)
            };
            let bytes = [16, 8, 4].into_iter().find(fits)?;
            let ops = match bytes {
                16 => ["rows16_2", "rows16_3"],
                8 => ["rows8_2", "rows8_3"],
                _ => ["rows4_2", "rows4_3"],
            };
            small(product(&[n, c, h])?)?;
            (ops, 1, [w / (bytes / size), 1, if backward { blocks(h, 0) } else { out_h }], n * c)
        };
        let packs = small(product(&[dims[0], dims[1], dims[2], others])?)? as u32;
        let params = PackedPool {
            packs,
            channels: small(channels)? as u32,
            dims: dims.map(dim),
            height: small(h)?,
            width: small(w)?,
            out_height: small(out_h)?,
            out_width: small(out_w)?,
            padding: [small(padding[0])?, small(padding[1])?],
        };
        Some((ops_of(op, k), params))
    }
}

fn ops_of([two, three]: [&'static str; 2], k: usize) -> &'static str {
    if k == 2 { two } else { three }
}

impl PackedMean {
    /// The gradient of images whose planes were averaged, from that of the averages: the operation of
    /// `mean_packed_grad` and its parameters, if there is a kernel for it.
    #[must_use]
    pub fn new(before: Images, after: Images) -> Option<(&'static str, PackedMean)> {
        let [n, c, h, w] = before.dims()?;
        let (size, pack) = (h * w, 16 / before.size);
        let packs = small(product(&[n, c, h, w])?)? as usize / pack;
        if before.size > 4 || !(n * c * size).is_multiple_of(pack) || !before.holds_packs_of(pack) {
            return None;
        }
        // The averages may have either layout.
        let averages = dense(&[after])?;
        let (op, dims) = if dense(&[before])? {
            if averages || !c.is_multiple_of(pack) || !after.holds_packs_of(pack) {
                return None;
            }
            ("pixels", [c / pack, size])
        } else if size >= pack && !averages {
            ("planes", [size, 1])
        } else {
            return None;
        };
        Some((op, PackedMean { packs: packs as u32, size: small(size)? as u32, dims: dims.map(dim) }))
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    fn lay(dims: [usize; 4], channels_last: bool) -> Layout {
        let [n, c, h, w] = dims;
        let shape = |dims: [usize; 4]| Layout::contiguous(Shape::new(&dims).unwrap());
        if channels_last { shape([n, h, w, c]).permute(&[0, 3, 1, 2]) } else { shape(dims) }
    }

    fn windows(k: usize, padding: usize) -> Pool2d {
        Pool2d::Window { kernel: [k; 2], stride: [2; 2], padding: [padding; 2], dilation: [1; 2] }
    }

    /// The operation for images with elements of `size` bytes, at these addresses.
    fn op(pool: &Pool2d, dims: [usize; 4], last: bool, size: usize, at: [u64; 3]) -> Option<&'static str> {
        let Pool2d::Window { kernel: [k, _], padding: [p, _], .. } = *pool else { return None };
        let out = |n: usize| (n + 2 * p - k) / 2 + 1;
        let (before, after) = (lay(dims, last), lay([dims[0], dims[1], out(dims[2]), out(dims[3])], last));
        let images = |layout, address, size| Images { layout, address, size };
        let taps = images(&after, at[2], 1);
        let ops = [false, true].map(|backward| {
            let (before, after) = (images(&before, at[0], size), images(&after, at[1], size));
            PackedPool::new(pool, before, after, Some(taps), backward).map(|found| found.0)
        });
        assert_eq!(ops[0], ops[1]);
        ops[0]
    }

    #[test]
    fn packs_fit_into_pixels_and_rows() {
        let (two, three, at) = (windows(2, 0), windows(3, 1), [256, 512, 1024]);
        assert_eq!(op(&two, [2, 64, 14, 14], true, 2, at), Some("pixels_2"));
        assert_eq!(op(&three, [2, 64, 15, 9], true, 4, at), Some("pixels_3"));
        assert_eq!(op(&windows(3, 0), [2, 64, 15, 9], true, 4, at), Some("pixels_3"));
        assert_eq!(op(&two, [2, 12, 14, 14], true, 2, at), None);
        assert_eq!(op(&two, [2, 64, 14, 14], true, 8, at), None);
        for (w, size, expected) in [
            (224, 2, Some("rows16_2")),
            (28, 2, Some("rows8_2")),
            (14, 2, Some("rows4_2")),
            (28, 4, Some("rows16_2")),
            (14, 4, Some("rows8_2")),
            (7, 4, None),
            (14, 8, Some("rows16_2")),
        ] {
            let expected = expected.filter(|_| size <= 4);
            assert_eq!(op(&two, [2, 3, 9, w], false, size, at), expected, "{w} {size}");
        }
        assert_eq!(op(&three, [2, 3, 112, 112], false, 4, at), Some("rows16_3"));
        assert_eq!(op(&windows(3, 0), [2, 3, 112, 112], false, 4, at), None);
        // Addresses that are not multiples of a pack.
        assert_eq!(op(&two, [2, 64, 14, 14], true, 2, [264, 512, 1024]), None);
        assert_eq!(op(&two, [2, 64, 14, 14], true, 2, [256, 512, 1028]), None);
        assert_eq!(op(&two, [2, 3, 28, 32], false, 4, [256, 512, 1025]), Some("rows8_2"));
        assert_eq!(op(&two, [2, 3, 28, 32], false, 4, [256, 516, 1024]), Some("rows8_2"));
        assert_eq!(op(&windows(4, 1), [2, 64, 14, 14], true, 2, at), None);
        // A window of the second row would be outside the input.
        let (before, after) = (lay([1, 8, 2, 4], true), lay([1, 8, 2, 2], true));
        let images = |layout| Images { layout, address: 0, size: 4 };
        assert!(PackedPool::new(&two, images(&before), images(&after), None, false).is_none());
    }

    #[test]
    fn numbers_of_packs_stay_below_2_to_the_31() {
        let large = lay([1 << 12, 64, 224, 224], true);
        let (after, images) = (lay([1 << 12, 64, 112, 112], true), |layout| Images { layout, address: 0, size: 2 });
        let (op, params) = PackedPool::new(&windows(2, 0), images(&large), images(&after), None, false).unwrap();
        assert_eq!((op, params.packs), ("pixels_2", (1 << 12) * 112 * 112 * 8));
        let larger = lay([1 << 16, 64, 224, 224], true);
        let after = lay([1 << 16, 64, 112, 112], true);
        assert!(PackedPool::new(&windows(2, 0), images(&larger), images(&after), None, false).is_none());
    }

    #[test]
    fn means_of_planes_have_packs() {
        let op = |dims: [usize; 4], last, size, address| {
            let (before, after) = (lay(dims, last), lay([dims[0], dims[1], 1, 1], false));
            let images = |layout, address| Images { layout, address, size };
            PackedMean::new(images(&before, address), images(&after, 64)).map(|found| found.0)
        };
        assert_eq!(op([2, 64, 7, 7], true, 2, 32), Some("pixels"));
        assert_eq!(op([2, 64, 7, 7], false, 2, 32), Some("planes"));
        assert_eq!(op([2, 65, 7, 7], true, 2, 32), None);
        assert_eq!(op([2, 8, 1, 3], false, 4, 32), None);
        assert_eq!(op([1, 3, 7, 7], false, 4, 32), None);
        assert_eq!(op([2, 64, 7, 7], false, 4, 36), None);
        assert_eq!(op([2, 64, 7, 7], false, 8, 32), None);
    }
}
