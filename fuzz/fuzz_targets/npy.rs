//! Fuzzes files of NumPy: the input as an array, and as an archive of arrays.
#![no_main]

use kiln_io::{load_npy, load_npz};
use kiln_tensor::Device;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    if std::fs::write(file.path(), input).is_ok() {
        let _ = (load_npy(file.path(), Device::Cpu), load_npz(file.path(), Device::Cpu));
    }
});
