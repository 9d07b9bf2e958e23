//! Fuzzes the pickle reader with every class name allowed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(pickle) = kiln_pickle::load(bytes, &|_, _| true) {
        for value in pickle.values() {
            let _ = (value.text(), value.bytes(), value.numpy(), value.get("data"));
        }
    }
});
