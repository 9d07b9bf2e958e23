//! Running out of memory in the driver and in the libraries, and memory without caching.

use std::env;

use kiln_backend::*;

use crate::{
    child::{NO_CACHING, child},
    convolutions::convolutions,
    device, is_out_of_memory, linear, ones, square,
};

#[test]
fn an_allocation_that_fails_once_is_served_from_what_the_cache_gives_back() {
    child("memory::child_fills_and_empties_the_cache", &[("KILN_SIM_FAIL_ALLOCATION", "3")]);
}

#[test]
#[ignore = "a child"]
fn child_fills_and_empties_the_cache() {
    let device = device();
    // The first allocation is for small things, the second for this one, which is cached when it is dropped.
    drop(device.alloc(DType::F32, 8 << 20).unwrap());
    let (reserved, given) = (device.memory_stats().reserved, device.memory_stats().system_allocations);
    // The third finds no memory; the cache is given back, and the fourth finds some.
    let large = device.alloc(DType::F32, 16 << 20).unwrap();
    assert_eq!(device.memory_stats().system_allocations, given + 1);
    assert_eq!(device.memory_stats().reserved, reserved - (32 << 20) + (64 << 20));
    drop(large);
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24]);
}

#[test]
fn page_locked_memory_is_the_hosts_again_when_a_copy_from_it_fails() {
    // Before the copy is queued, and after it; then with memory that an earlier copy arrived in.
    for record in ["1", "2", "4"] {
        child("memory::child_copies_from_page_locked_memory", &[("KILN_SIM_FAIL_RECORD", record)]);
    }
}

#[test]
#[ignore = "a child"]
fn child_copies_from_page_locked_memory() {
    let device = device();
    let (before, len) = (device.memory_stats().allocated, 200_000);
    let mut memory = device.pinned(len).unwrap();
    let mut failed = 0;
    for round in 0..4 {
        memory.bytes_mut().fill(round);
        match device.import(DType::U8, &memory.bytes()[..len]) {
            Ok(x) => {
                // What the device still read would be seen to be written too early.
                memory.bytes_mut().fill(0xff);
                let got = u8::read_vec(len, |bytes| device.download(&*x, 0, bytes)).unwrap();
                assert!(got.iter().all(|&byte| byte == round), "round {round}");
            }
            Err(error) => {
                memory.bytes_mut().fill(0xff);
                assert!(error.to_string().contains("cuEventRecord"), "{error}");
                failed += 1;
            }
        }
        assert_eq!(device.memory_stats().allocated, before, "round {round}");
    }
    assert_eq!(failed, 1);
    device.empty_cache();
    assert!(device.memory_stats().reserved <= 2 << 20, "{}", device.memory_stats());
}

#[test]
fn out_of_memory_is_an_error_after_which_work_goes_on() {
    child("memory::child_asks_for_more_than_there_is", &[("KILN_SIM_MEMORY", "67108864")]);
}

#[test]
#[ignore = "a child"]
fn child_asks_for_more_than_there_is() {
    let device = device();
    let before = device.memory_stats().allocated;
    let mut kept = Vec::new();
    let error = loop {
        match device.alloc(DType::F32, 4 << 20) {
            Ok(buffer) => kept.push(buffer),
            Err(error) => break error,
        }
    };
    assert_eq!(kept.len(), 3, "three times 16 MiB beside 2 MiB for small things, of 64");
    assert!(is_out_of_memory(&error), "{error}");
    let text = error.to_string();
    for part in ["16777216 bytes", "48.00 MiB are in use by tensors", "of 64.00 MiB free"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    // More than the address space, and more than any device.
    for len in [usize::MAX, 1 << 60] {
        assert!(is_out_of_memory(&device.alloc(DType::F32, len).unwrap_err()));
    }
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24], "small things have room");
    kept.clear();
    assert_eq!(device.memory_stats().allocated, before);
    // What was cached in pieces serves one that is larger than each.
    drop(device.alloc(DType::F32, 12 << 20).unwrap());
    device.empty_cache();
    let stats = device.memory_stats();
    assert!(stats.reserved <= 2 << 20, "{stats:?}");
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24]);
}

#[test]
fn without_caching_every_block_is_an_allocation_of_the_driver() {
    child("memory::child_computes_without_caching", &[(NO_CACHING, "1"), ("KILN_SIM_MEMORY", "1048576")]);
}

#[test]
#[ignore = "a child"]
fn child_computes_without_caching() {
    let device = device();
    let stats = || device.memory_stats();
    let (before, buffer) = (stats(), device.alloc(DType::U8, 1001).unwrap());
    assert_eq!(stats().allocated, before.allocated + 1001);
    assert_eq!((stats().reserved, stats().system_allocations), (stats().allocated, before.system_allocations + 1));
    drop(buffer);
    assert_eq!(stats().reserved, before.reserved);
    // Freed while the work that uses it is queued; uploads, products and downloads, large and small.
    for _ in 0..3 {
        assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24]);
        assert_eq!(square(device, &*ones(device, 50_000).unwrap()).unwrap(), [1.0; 50_000]);
    }
    assert!(is_out_of_memory(&device.alloc(DType::U8, 2 << 20).unwrap_err()));
    assert_eq!((stats().allocated, stats().reserved), (before.allocated, before.reserved));
}

#[test]
fn a_device_without_any_memory_is_an_error() {
    child("memory::child_finds_no_device", &[("KILN_SIM_MEMORY", "1024"), ("EXPECT", "0 bytes are in use")]);
}

#[test]
#[ignore = "a child"]
fn child_finds_no_device() {
    let error = kiln_cuda::backend(0).unwrap_err().to_string();
    for part in env::var("EXPECT").unwrap().split('|') {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    // It stays one.
    assert!(kiln_cuda::backend(0).is_err());
}

#[test]
fn a_library_that_finds_no_memory_gets_what_is_cached() {
    let memory = [("KILN_SIM_MEMORY", "67108864"), ("KILN_SIM_LAZY_MEMORY", "4194304")];
    child("memory::child_has_all_memory_in_its_cache", &memory);
    child("memory::child_has_all_memory_in_use", &memory);
    // Without saying that it is memory that is missing.
    for status in ["1", "13", "14"] {
        let memory = [memory[0], memory[1], ("KILN_SIM_LAZY_STATUS", status)];
        child("memory::child_has_all_memory_in_its_cache", &memory);
    }
}

/// Takes 48 MiB of the 64, in three pieces.
fn fill(device: &dyn Backend) -> Vec<Box<dyn Buffer>> {
    let pieces: Vec<_> = std::iter::from_fn(|| device.alloc(DType::U8, 16 << 20).ok()).collect();
    assert_eq!(pieces.len(), 3);
    let rest: Vec<_> = std::iter::from_fn(|| device.alloc(DType::U8, 3 << 20).ok()).collect();
    pieces.into_iter().chain(rest).collect()
}

#[test]
#[ignore = "a child"]
fn child_has_all_memory_in_its_cache() {
    let device = device();
    let x = ones(device, 100).unwrap();
    // Each first use of a module, of a kernel, of a library and of a function of it needs memory that is in the cache.
    drop(fill(device));
    assert_eq!(square(device, &*x).unwrap(), [1.0; 100]);
    drop(fill(device));
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24]);
    let report = kiln_cuda::report();
    assert!(report.contains("ran out of memory until Kiln's cache was emptied"), "{report}");
    let convolved = convolutions(device).unwrap();
    assert!((convolved[0][0] - 19.0).abs() < 1e-4, "{convolved:?}");
}

#[test]
#[ignore = "a child"]
fn child_has_all_memory_in_use() {
    let device = device();
    let x = ones(device, 100).unwrap();
    let kept = fill(device);
    let mut errors = vec![square(device, &*x).unwrap_err(), linear(device, true, true).unwrap_err()];
    errors.push(convolutions(device).unwrap_err());
    for (error, call) in errors.iter().zip(["unary", "cublasLtCreate", "cudnnCreate"]) {
        assert!(is_out_of_memory(error) && error.to_string().contains(call), "{call}: {error}");
        assert!(!error.to_string().contains("0 bytes requested"), "{error}");
        assert!(error.to_string().contains("are in use by tensors"), "{error}");
    }
    // None of them is remembered.
    drop(kept);
    assert_eq!(square(device, &*x).unwrap(), [1.0; 100]);
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24]);
    convolutions(device).unwrap();
}
