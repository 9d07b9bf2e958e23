//! Limits on the size of an image file's contents: bounds that are checked before memory is reserved, and reservations
//! of the memory that decoders need, since they abort the program when an allocation fails.

#[cfg(feature = "images")]
use std::{
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bounds on decoding an image, so that a small file cannot claim the machine's memory.
///
/// By default an image has at most 178,956,970 pixels (beyond which Pillow refuses as well), and decoding it needs at
/// most 64 MiB plus 1,100 times the length of its file, which is more than deflate, JPEG and LZW expand real images to.
/// A file that needs more is an error that says how much.
///
/// # When memory runs out
///
/// The memory that decoding needs in addition to the pixels is reserved in advance, because the decoders of other
/// crates abort the program if an allocation fails: tables and buffers of at most 1 MiB, rows, and what a format keeps
/// of the whole image (the coefficients of a progressive JPEG). Threads that decode at the same time reserve the sum.
/// So running out of memory is an [`OutOfMemory`](kiln_tensor::ErrorKind::OutOfMemory) error. Two gaps remain: other
/// parts of the program may take the reserved memory while an image is being decoded; and a lossless WebP that was
/// crafted to have more than 64 bytes of Huffman tables per byte of the file may find no memory for them.
///
/// ```no_run
/// use kiln_data::transforms::{Image, ImageLimits};
///
/// let slide = Image::open_with("slide.tif", ImageLimits::default().pixels(1 << 30).memory(8 << 30))?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    pixels: u64,
    memory: Option<u64>,
}

/// Twice Pillow's `MAX_IMAGE_PIXELS`: where its `DecompressionBombError` begins.
const MAX_PIXELS: u64 = 178_956_970;
/// The memory that any file may take to decode.
#[cfg(feature = "images")]
const FREE_BYTES: u64 = 64 << 20;
/// Slightly more than deflate's best ratio, 1032 (<https://zlib.net/zlib_tech.html>).
#[cfg(feature = "images")]
const MAX_EXPANSION: u64 = 1100;

impl Default for ImageLimits {
    fn default() -> ImageLimits {
        ImageLimits { pixels: MAX_PIXELS, memory: None }
    }
}

impl ImageLimits {
    /// No bounds but those of the machine. Only for trusted files.
    #[must_use]
    pub fn unlimited() -> ImageLimits {
        ImageLimits { pixels: u64::MAX, memory: Some(u64::MAX) }
    }

    /// Sets another bound on the number of pixels.
    #[must_use]
    pub fn pixels(self, pixels: u64) -> ImageLimits {
        ImageLimits { pixels, ..self }
    }

    /// A fixed budget in bytes for decoding one image, instead of one that grows with the file: the image and the
    /// decoder's own memory, without the file itself.
    #[must_use]
    pub fn memory(self, bytes: u64) -> ImageLimits {
        ImageLimits { memory: Some(bytes), ..self }
    }

    /// The budget for a file of `len` bytes.
    #[cfg(feature = "images")]
    pub(super) fn budget(self, len: usize) -> Budget {
        let bytes = self.memory.unwrap_or((len as u64).saturating_mul(MAX_EXPANSION).saturating_add(FREE_BYTES));
        Budget { pixels: self.pixels, bytes }
    }
}

/// The bounds for one file.
#[cfg(feature = "images")]
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pixels: u64,
    bytes: u64,
}

/// Why an image cannot be decoded.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file is damaged, or of an unsupported kind.
    File(String),
    /// The machine does not have this many bytes.
    #[cfg_attr(not(feature = "images"), expect(dead_code, reason = "nothing is decoded"))]
    Memory(u64),
}

#[cfg(feature = "images")]
impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::File(message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Failure {
        Failure::File(message.to_owned())
    }
}

#[cfg(feature = "images")]
impl Budget {
    /// Checks that an image of this size, whose decoding holds `per_pixel` bytes per pixel and `extra` more at once, is
    /// within the bounds, and that the machine has the memory now. The memory counts as taken until the result is
    /// dropped.
    pub fn admit(self, width: u64, height: u64, per_pixel: u64, extra: u64) -> Result<Reservation, Failure> {
        if width == 0 || height == 0 {
            return Err(format!("its header declares an empty image, {height}×{width}").into());
        }
        let pixels = width.saturating_mul(height);
        if pixels > self.pixels {
            let message = format!(
                "its header declares {height}×{width} pixels, more than the {} of `ImageLimits::pixels`",
                self.pixels
            );
            return Err(message.into());
        }
        let bytes = pixels.saturating_mul(per_pixel).saturating_add(extra);
        if bytes > self.bytes {
            let message = format!(
                "its header declares {height}×{width} pixels, which take {bytes} bytes to decode; this file may take {} \
                 (`ImageLimits::memory` allows more)",
                self.bytes
            );
            return Err(message.into());
        }
        Reservation::new(bytes)
    }

    /// The bytes that a decoder may reserve.
    pub fn bytes(self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

/// Memory that a decoder will allocate. The machine had it when it was reserved, and other threads' decoders do not
/// reserve the same memory.
#[cfg(feature = "images")]
#[must_use]
#[derive(Debug)]
pub(super) struct Reservation(usize);

/// The size of decoders' tables, buffers and headers, whatever the size of the image.
#[cfg(feature = "images")]
const WORKING_BYTES: u64 = 1 << 20;
/// The sum of all reservations.
#[cfg(feature = "images")]
static RESERVED: AtomicUsize = AtomicUsize::new(0);

#[cfg(feature = "images")]
impl Reservation {
    /// Reserves this many bytes and [`WORKING_BYTES`].
    pub fn new(bytes: u64) -> Result<Reservation, Failure> {
        let bytes = bytes.saturating_add(WORKING_BYTES);
        let failed = Failure::Memory(bytes);
        let Ok(bytes) = usize::try_from(bytes) else { return Err(failed) };
        let before = RESERVED.fetch_add(bytes, Ordering::Relaxed);
        let reservation = Reservation(bytes);
        let mut memory = Vec::<u8>::new();
        let found = memory.try_reserve_exact(before.saturating_add(bytes)).is_ok();
        // The compiler may remove an allocation that nothing uses.
        black_box(&mut memory);
        if found { Ok(reservation) } else { Err(failed) }
    }
}

#[cfg(feature = "images")]
impl Drop for Reservation {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A vector of `len` zeros.
#[cfg(feature = "images")]
pub(super) fn zeros(len: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = room(len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// An empty vector with room for `len` elements.
#[cfg(feature = "images")]
pub(super) fn room<T>(len: usize) -> Result<Vec<T>, Failure> {
    let mut elements = Vec::new();
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    elements.try_reserve_exact(len).map_err(|_| Failure::Memory(bytes))?;
    Ok(elements)
}

/// At most `len` elements, in a vector that does not grow.
#[cfg(feature = "images")]
pub(super) fn collected<T>(len: usize, elements: impl Iterator<Item = T>) -> Result<Vec<T>, Failure> {
    let mut out = room(len)?;
    out.extend(elements.take(len));
    Ok(out)
}
