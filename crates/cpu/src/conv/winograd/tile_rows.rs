//! Rows of tiles, and copies between images in any layout and the transforms' format: pixels with a vector of channels
//! each.

use crate::{
    engine::image::Image,
    gemm::kernel::{Kernel, PackArgs, TransposedTile},
};

/// A row of tiles of one image.
pub(super) struct TileRow {
    pub n: usize,
    /// The index of the row of tiles, and of the first tile in it.
    pub y: usize,
    pub x: usize,
    pub len: usize,
    /// The index in the block of the first tile.
    pub at: usize,
}

/// Maximum number of tiles in a segment, so that its pixel buffer stays in the L2 cache.
const MOST: usize = 32;

/// Cuts the tiles `range`, numbered across all images, into rows.
pub(super) fn tile_rows(tiles: [usize; 2], range: std::ops::Range<usize>) -> Vec<TileRow> {
    let (per, mut out, mut at) = (tiles[0] * tiles[1], Vec::new(), range.start);
    while at < range.end {
        let (rest, x) = (at % per, at % tiles[1]);
        let len = (tiles[1] - x).min(range.end - at).min(MOST);
        out.push(TileRow { n: at / per, y: rest / tiles[1], x, len, at: at - range.start });
        at += len;
    }
    out
}

/// Copies `pixels` pixels starting at `(y, x)` to `to`: for each, a vector of the channels starting at `c`; 0 where
/// there is no pixel or no channel.
///
/// # Safety
/// The image is readable, and `to` writable for `pixels` vectors.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn load_pixels(
    kern: &Kernel<f32>,
    image: &Image<f32>,
    n: usize,
    y: isize,
    x: isize,
    pixels: usize,
    c: usize,
    to: *mut f32,
) {
    let lanes = kern.lanes;
    let there = lanes.min(image.c - c);
    let one_plane = image.are_in_a_block(c..c + there);
    let inside = y >= 0 && y < image.h as isize && (!one_plane || image.is_inside(n, c));
    let low = if inside { (-x).clamp(0, pixels as isize) as usize } else { pixels };
    let high = if inside { (image.w as isize - x).clamp(low as isize, pixels as isize) as usize } else { pixels };
    // SAFETY: the caller's promise; `low..high` are the pixels inside the image.
    unsafe {
        std::slice::from_raw_parts_mut(to, low * lanes).fill(0.0);
        std::slice::from_raw_parts_mut(to.add(high * lanes), (pixels - high) * lanes).fill(0.0);
        if low == high {
            return;
        }
        let count = high - low;
        let from = image.ptr.offset(image.at(n, c, y as usize, (x + low as isize) as usize));
        let to = to.add(low * lanes);
        let [_, sc, _, sw] = image.strides;
        if !one_plane {
            std::slice::from_raw_parts_mut(to, count * lanes).fill(0.0);
            for lane in (0..there).filter(|lane| image.is_inside(n, c + lane)) {
                let from = from.offset(image.channel(c + lane) - image.channel(c));
                (0..count).for_each(|pixel| *to.add(pixel * lanes + lane) = from.offset(pixel as isize * sw).load());
            }
            return;
        }
        if let (Some(direct), true) = (from.direct(), sw == 1 && sc != 1) {
            (kern.pack_lanes)(&PackArgs {
                src: direct.cast_const(),
                k: count,
                lanes: there,
                k_stride: 1,
                lane_stride: sc,
                dst: to,
                panel: lanes,
                last: lanes,
            });
            return;
        }
        for pixel in 0..count {
            let to = to.add(pixel * lanes);
            from.offset(pixel as isize * sw).gather(sc, there, to);
            std::slice::from_raw_parts_mut(to.add(there), lanes - there).fill(0.0);
        }
    }
}

/// Copies vectors of channels back to pixels: the inverse of [`load_pixels`].
///
/// # Safety
/// The pixels are in the image, and nobody else accesses these channels of them; `from` is readable for `pixels` vectors
/// and as many more as a vector has lanes.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn store_pixels(
    kern: &Kernel<f32>,
    image: &Image<f32>,
    n: usize,
    y: usize,
    x: usize,
    pixels: usize,
    c: usize,
    from: *const f32,
) {
    let (lanes, there) = (kern.lanes, kern.lanes.min(image.c - c));
    let [_, sc, _, sw] = image.strides;
    // SAFETY: the caller's promise.
    unsafe {
        let to = image.ptr.offset(image.at(n, c, y, x));
        if let (Some(direct), true) = (to.direct(), sw == 1 && sc != 1) {
            (kern.store_transposed)(&TransposedTile {
                tile: from,
                ld: lanes,
                rows: pixels,
                cols: there,
                c: direct,
                c_cs: sc,
                load_c: false,
                bias: core::ptr::null(),
                relu: false,
            });
            return;
        }
        for pixel in 0..pixels {
            to.offset(pixel as isize * sw).scatter(from.add(pixel * lanes), sc, there);
        }
    }
}
