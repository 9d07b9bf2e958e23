//! Fuzzes the reader of MNIST's IDX files, compressed or not.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(idx) = kiln_data::idx::decode("fuzz", bytes) {
        assert_eq!(idx.dims.iter().product::<usize>(), idx.data.len());
    }
});
