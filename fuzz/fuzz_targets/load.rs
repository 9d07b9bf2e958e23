//! Fuzzes `io::load`: safetensors, indexes of shards, and both formats of `torch.save`.
#![no_main]

use kiln_tensor::Device;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    if std::fs::write(file.path(), bytes).is_ok() {
        let _ = kiln_io::load(file.path(), Device::Cpu);
    }
});
