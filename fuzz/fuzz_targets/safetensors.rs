//! Fuzzes safetensors files: the input is the header, followed by as many values as it declares, if they are few.
#![no_main]

use kiln_io::TensorFile;
use kiln_tensor::Device;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (values, header) = input;
    let Ok(file) = tempfile::NamedTempFile::new() else { return };
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + usize::from(values), 1);
    if std::fs::write(file.path(), bytes).is_ok()
        && let Ok(file) = TensorFile::open(file.path())
    {
        let _ = (file.verify(), file.state_dict(Device::Cpu));
    }
});
