//! Fuzzes the image decoders of every format.
#![no_main]

use kiln_data::transforms::{Image, ImageLimits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = Image::decode_with(bytes, ImageLimits::default().memory(64 << 20)) {
        assert_eq!(image.height() * image.width() * image.channels(), image.pixels().len());
    }
});
