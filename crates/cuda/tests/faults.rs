//! What happens when the driver or a library fails: a typed error that says what failed, no panic, no memory lost, and
//! what can go on goes on.
//!
//! The faults are the simulator's (`cargo sim test -p kiln-cuda --features kernels --test faults`); on a GPU nothing
//! fails on demand, and the tests pass without doing anything. Each runs a `child` of this program.
#![cfg(feature = "kernels")]

mod child;

use std::env;

use child::{NO_CACHING, child};
use kiln_backend::*;
use kiln_cuda::CudaBackend;

fn device() -> &'static CudaBackend {
    kiln_cuda::backend(0).unwrap()
}

fn dense(dims: &[usize]) -> Layout {
    Layout::contiguous(Shape::new(dims).unwrap())
}

fn ones(on: &dyn Backend, n: usize) -> Result<Box<dyn Buffer>> {
    on.adopt(HostVec::F32(vec![1.0; n]))
}

fn values(on: &dyn Backend, buffer: &dyn Buffer) -> Result<Vec<f32>> {
    f32::read_vec(buffer.len(), |bytes| on.download(buffer, 0, bytes))
}

/// `relu(x wᵀ + bias)` of ones: a launch of the library with an epilogue, or without it one of a kernel besides.
fn linear(on: &dyn Backend, bias: bool, relu: bool) -> Result<Vec<f32>> {
    let (x, w, b, mut out) = (ones(on, 8 * 16)?, ones(on, 24 * 16)?, ones(on, 24)?, on.alloc(DType::F32, 8 * 24)?);
    let (lx, lw, lb, lo) = (dense(&[8, 16]), dense(&[24, 16]), dense(&[24]), dense(&[8, 24]));
    let view = |buffer, layout| View { buffer, layout };
    let bias = bias.then(|| view(&*b, &lb));
    on.linear(
        LinearArgs {
            x: view(&*x, &lx),
            w: view(&*w, &lw),
            bias,
            relu,
            out: ViewMut { buffer: &mut *out, layout: &lo },
        }
        .checked()?,
    )?;
    values(on, &*out)
}

/// [`linear`] with ReLU and a mask, and then the gradient of 8 columns above it through that ReLU: `[out, bias]`.
fn masked(on: &dyn Backend, bias: bool) -> Result<[Vec<f32>; 2]> {
    let (x, v, b, mut y) = (ones(on, 8 * 16)?, ones(on, 24 * 16)?, ones(on, 24)?, on.alloc(DType::F32, 8 * 24)?);
    let (lx, lv, lb, ly) = (dense(&[8, 16]), dense(&[24, 16]), dense(&[24]), dense(&[8, 24]));
    let view = |buffer, layout| View { buffer, layout };
    let (first, to) = (bias.then(|| view(&*b, &lb)), ViewMut { buffer: &mut *y, layout: &ly });
    let mask = on.linear_relu(
        LinearArgs { x: view(&*x, &lx), w: view(&*v, &lv), bias: first, relu: true, out: to }.checked()?,
    )?;
    let (grad, w, lg) = (ones(on, 8 * 8)?, ones(on, 8 * 24)?, dense(&[8, 8]));
    let (mut out, mut sums, lw) = (on.alloc(DType::F32, 8 * 24)?, ones(on, 24)?, dense(&[8, 24]));
    let (to, mask) = (ViewMut { buffer: &mut *out, layout: &ly }, mask.as_ref());
    let to_bias = bias.then_some(ViewMut { buffer: &mut *sums, layout: &lb });
    on.linear_relu_grad(
        LinearReluGradArgs {
            grad: view(&*grad, &lg),
            w: view(&*w, &lw),
            y: view(&*y, &ly),
            mask,
            out: to,
            bias: to_bias,
        }
        .checked()?,
    )?;
    Ok([values(on, &*out)?, values(on, &*sums)?])
}

fn square(on: &dyn Backend, x: &dyn Buffer) -> Result<Vec<f32>> {
    let (layout, mut out) = (dense(&[x.len()]), on.alloc(DType::F32, x.len())?);
    on.unary(UnaryOp::Square, View { buffer: x, layout: &layout }, ViewMut { buffer: &mut *out, layout: &layout })?;
    values(on, &*out)
}

fn is_out_of_memory(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::OutOfMemory { .. })
}

#[test]
fn errors_that_come_late_name_the_operation() {
    let late = "cuda:0: an operation that was queued earlier failed|unary_square_f32|KILN_CUDA_LAUNCH_BLOCKING=1";
    let exact = "cuda:0: unary_square_f32 failed: CUDA_ERROR_ILLEGAL_ADDRESS";
    for (blocking, expect) in [("0", late), ("1", exact)] {
        let faults = [("KILN_SIM_FAIL_KERNEL", "2"), ("KILN_CUDA_LAUNCH_BLOCKING", blocking), ("EXPECT", expect)];
        child("child_computes_until_a_kernel_fails", &faults);
    }
}

#[test]
#[ignore = "a child"]
fn child_computes_until_a_kernel_fails() {
    let device = device();
    let x = ones(device, 100).unwrap();
    assert_eq!(square(device, &*x).unwrap(), [1.0; 100]);
    let text = square(device, &*x).unwrap_err().to_string();
    for part in env::var("EXPECT").unwrap().split('|') {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    // The context is lost, which every later call says, and none panics.
    assert!(square(device, &*x).is_err() && device.synchronize().is_err());
}

// ---- memory ----

#[test]
fn an_allocation_that_fails_once_is_served_from_what_the_cache_gives_back() {
    child("child_fills_and_empties_the_cache", &[("KILN_SIM_FAIL_ALLOCATION", "3")]);
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
    // Before the copy is queued, and behind it; then with memory that an earlier copy arrived in.
    for record in ["1", "2", "4"] {
        child("child_copies_from_page_locked_memory", &[("KILN_SIM_FAIL_RECORD", record)]);
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
    child("child_asks_for_more_than_there_is", &[("KILN_SIM_MEMORY", "67108864")]);
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
    child("child_computes_without_caching", &[(NO_CACHING, "1"), ("KILN_SIM_MEMORY", "1048576")]);
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
    child("child_finds_no_device", &[("KILN_SIM_MEMORY", "1024"), ("EXPECT", "0 bytes are in use")]);
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

// ---- launches ----

#[test]
fn every_launch_may_fail() {
    // The fifth of each is one of a kernel, or of the library.
    for launch in ["1", "2", "3", "4", "5", "6"] {
        child("child_launches_again_after_a_failure", &[("KILN_SIM_FAIL_LAUNCH", launch)]);
    }
}

#[test]
#[ignore = "a child"]
fn child_launches_again_after_a_failure() {
    let device = device();
    let before = device.memory_stats().allocated;
    let mut failures = Vec::new();
    {
        let x = ones(device, 100).unwrap();
        for _ in 0..4 {
            match square(device, &*x) {
                Ok(got) => assert_eq!(got, [1.0; 100]),
                Err(error) => failures.push(error.to_string()),
            }
            match linear(device, true, true) {
                Ok(got) => assert_eq!(got, [17.0; 8 * 24]),
                Err(error) => failures.push(error.to_string()),
            }
        }
    }
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    let kernel = failure.contains("kernel unary_square_f32 with grid [1, 1, 1]")
        && failure.contains("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701)");
    let library = failure.contains("cublasLtMatmul failed") && failure.contains("CUBLAS_STATUS_EXECUTION_FAILED (13)");
    assert!(kernel || library, "{failure}");
    assert_eq!(device.memory_stats().allocated, before, "nothing is lost by an error");
}

// ---- libraries ----

#[test]
fn libraries_and_functions_that_are_missing_are_named() {
    let missing = |what: &str, expect: &str| {
        child("child_finds_no_device", &[("KILN_SIM_WITHOUT", what), ("EXPECT", expect)]);
    };
    missing(
        "libcuda",
        "the NVIDIA driver (libcuda) was not found|libcuda.so.1, libcuda.so|install the NVIDIA display driver",
    );
    missing("cuLaunchKernel,cuMemAlloc_v2", "lacks cuMemAlloc_v2, cuLaunchKernel|CUDA 12.0 or newer");
    // One that does not start.
    for (code, expect) in [
        ("34", "To fix it, take the toolkit's `stubs` off LD_LIBRARY_PATH"),
        ("100", "CUDA_ERROR_NO_DEVICE|nvidia-smi|docker run --gpus all"),
        ("803", "libcuda.so.1 did not start: cuInit: |(803)|kernel module to one version"),
        ("999", "(999)|modprobe nvidia_uvm"),
    ] {
        child("child_finds_no_device", &[("KILN_SIM_INIT", code), ("EXPECT", expect)]);
        let expect = expect.rsplit('|').next().unwrap_or_default();
        child("child_reports", &[("KILN_SIM_INIT", code), ("EXPECT", &format!("missing: driver: |{expect}"))]);
    }
    let products = |what: &str, expect: &str| {
        child("child_has_no_products", &[("KILN_SIM_WITHOUT", what), ("EXPECT", expect)]);
    };
    products("libcublasLt", "cuBLASLt was not found|libcublasLt.so.13|pip install nvidia-cublas");
    products("cublasLtMatmul", "cuBLASLt was loaded as|lacks cublasLtMatmul:");
}

#[test]
#[ignore = "a child"]
fn child_has_no_products() {
    let device = device();
    let before = device.memory_stats().allocated;
    for _ in 0..2 {
        let error = linear(device, true, true).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DeviceUnavailable { .. }), "{error}");
        for part in env::var("EXPECT").unwrap().split('|') {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
    }
    assert_eq!(device.memory_stats().allocated, before);
    let x = ones(device, 100).unwrap();
    assert_eq!(square(device, &*x).unwrap(), [1.0; 100], "kernels need no library");
}

#[test]
fn libraries_of_different_versions_of_cuda_are_refused_with_their_paths() {
    let refused = |faults: &[(&str, &str)], expect: &str| {
        child("child_finds_no_device", &[faults, &[("EXPECT", expect)]].concat());
    };
    // cuDNN for CUDA 12 beside cuBLASLt of CUDA 13.
    let only_13 = ("KILN_SIM_WITHOUT", "libcublasLt.so.12,libcublasLt.so");
    refused(
        &[("KILN_SIM_CUDA", "12"), only_13],
        "different major versions of CUDA|libcudnn.so.9 is for CUDA 12|libcublasLt.so.13 is for CUDA|nvidia-cublas-cu12",
    );
    // Both for CUDA 13, and a driver for CUDA 12.
    let old = ("KILN_SIM_DRIVER", "12080");
    refused(
        &[("KILN_SIM_CUDA", "13"), old],
        "libcudnn.so.9 is for CUDA 13|libcuda.so.1 serves CUDA 12.8|nvidia-cudnn-cu12",
    );
    let no_cudnn = ("KILN_SIM_WITHOUT", "libcudnn,libcublasLt.so.12,libcublasLt.so");
    refused(
        &[("KILN_SIM_CUDA", "13"), old, no_cudnn],
        "libcublasLt.so.13 is for CUDA 13|libcuda.so.1 serves CUDA 12.8",
    );
    // One that is missing altogether is no pair.
    let missing =
        [("KILN_SIM_WITHOUT", "libcublasLt"), ("EXPECT", "cuBLASLt was not found under the names libcublasLt.so.13")];
    child("child_has_no_products", &missing);
}

#[test]
fn cudnn_decides_which_libraries_are_loaded() {
    for (cuda, names) in
        [("12", "libcublasLt.so.12|libnvrtc.so.12|built for CUDA 12.0"), ("13", "libcublasLt.so.13|13.0.0")]
    {
        child("child_reports", &[("KILN_SIM_CUDA", cuda), ("EXPECT", names)]);
    }
    // Without it, the newest that the driver serves.
    let newest = [("KILN_SIM_DRIVER", "12080"), ("KILN_SIM_WITHOUT", "libcudnn"), ("EXPECT", "libcublasLt.so.12")];
    child("child_reports", &newest);
}

#[test]
fn reports_say_what_there_is_and_what_is_missing() {
    let reports = |without: &str, expect: &str| {
        child("child_reports", &[("KILN_SIM_WITHOUT", without), ("EXPECT", expect)]);
    };
    reports(
        "",
        "serves CUDA 13.0|libcuda.so.1|cuda:0     Simulated CUDA device (sm_90), compute capability 9.0, 4.00 GiB|\
         built for CUDA 13.0|libcudnn.so.9|libnvrtc.so.13|open: kernels",
    );
    reports(
        "libcuda",
        "driver     missing|missing: driver: the NVIDIA driver (libcuda) was not found|cuBLASLt   13.0.0",
    );
    reports("libcublasLt", "cuBLASLt   missing|missing: cuBLASLt: |pip install nvidia-cublas`|cuDNN      9.1.0");
    reports("libcudnn,libnvrtc", "missing: cuDNN: |pip install nvidia-cudnn-cu13|missing: NVRTC: |cuBLASLt   13.0.0");
    // Libraries that do not belong together.
    let mixed = [
        ("KILN_SIM_CUDA", "12"),
        ("KILN_SIM_WITHOUT", "libcublasLt.so.12,libcublasLt.so"),
        ("EXPECT", "cuda:0     Simulated|missing: libraries: libraries of different major versions of CUDA"),
    ];
    child("child_reports", &mixed);
    // One that would end the process if it were asked for its version.
    reports("libcudnn_graph.so.9", "missing: cuDNN: |libcudnn_graph.so.9, a part of it, does not load: ");
}

#[test]
#[ignore = "a child"]
fn child_reports() {
    // The report is the same before a device is opened, but for what is open, and needs none.
    let before = kiln_cuda::report();
    if let Ok(device) = kiln_cuda::backend(0) {
        let _ = square(device, &*ones(device, 100).unwrap());
        let _ = linear(device, true, true);
    }
    let text = kiln_cuda::report();
    println!("{text}");
    for part in env::var("EXPECT").unwrap().split('|') {
        assert!(text.contains(part), "{part:?} is not in {text}");
        assert!(
            before.contains(part) || part.starts_with("open: ") || part.starts_with("fallback"),
            "{part:?}: {before}"
        );
    }
}

#[test]
fn devices_that_are_too_old_are_errors() {
    child("child_finds_no_device", &[("KILN_SIM_ARCH", "70"), ("EXPECT", "its compute capability is 7.0")]);
}

#[test]
fn epilogues_that_the_library_does_not_offer_are_done_by_kernels() {
    for missing in
        ["", "4", "6", "2,4,6", "130,134", "136,152", "2,4,6,130,134,136,152", "-2,-4,-6,-130,-134,-136,-152"]
    {
        child("child_computes_linear_layers", &[("KILN_SIM_NO_EPILOGUES", missing)]);
    }
}

#[test]
fn products_that_are_refused_when_they_are_tried_are_done_otherwise() {
    // The first candidate, the first of one and both of another, all of some epilogues and of all of them.
    let each =
        |code: &str| ["2", "4", "6", "130", "134", "136", "152", "512"].map(|one| format!("{one}={code}")).join(",");
    let mut refused: Vec<String> = ["15", "7", "8", "14"].iter().map(|code| format!("any:0={code}")).collect();
    refused.extend(["4:0=14,6:0=8,6:1=15".into(), "4=7,6=8".into(), each("14"), each("8"), each("7")]);
    for refused in refused {
        child("child_computes_linear_layers", &[("KILN_SIM_NO_PRODUCTS", &refused)]);
    }
    // The first two of three.
    child("child_multiplies", &[("KILN_SIM_NO_PRODUCTS", "any:0=14,any:1=15")]);
    // What is done by a kernel of ours is told.
    let noted = [
        ("KILN_SIM_NO_PRODUCTS", "6=14"),
        (
            "EXPECT",
            "fallback   1 times: cuda:0: a matrix product in f32 and its \
                 epilogue BiasRelu by separate kernels: cuBLASLt has none that works (CUBLAS_STATUS_INTERNAL_ERROR)",
        ),
    ];
    child("child_reports", &noted);
    // Nothing takes the place of a plain product.
    let all = [("KILN_SIM_NO_PRODUCTS", "any=14"), ("EXPECT", "with any algorithm|CUBLAS_STATUS_INTERNAL_ERROR (14)")];
    child("child_does_not_multiply", &all);
    let failed = [("KILN_SIM_NO_PRODUCTS", "any=13"), ("EXPECT", "CUBLAS_STATUS_EXECUTION_FAILED (13)")];
    child("child_does_not_multiply", &failed);
}

#[test]
#[ignore = "a child"]
fn child_does_not_multiply() {
    let device = device();
    for _ in 0..2 {
        let error = linear(device, false, false).unwrap_err().to_string();
        for part in env::var("EXPECT").unwrap().split('|') {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
}

/// A product that has a candidate with a workspace of 4 MiB, and one with bias and ReLU.
#[test]
fn a_workspace_that_does_not_fit_is_replaced_by_a_smaller_one() {
    for candidates in ["", "1"] {
        let memory = [("KILN_SIM_MEMORY", "67108864"), ("KILN_SIM_CANDIDATES", candidates), ("FULL", "1")];
        child("child_multiplies", &memory);
    }
}

#[test]
#[ignore = "a child"]
fn child_multiplies() {
    let device = device();
    let (n, k) = (512, 256);
    let (x, w, b) = (ones(device, n * k).unwrap(), ones(device, n * k).unwrap(), ones(device, n).unwrap());
    let mut out = device.alloc(DType::F32, n * n).unwrap();
    let (lx, lt, lw, lb, lo) = (dense(&[n, k]), dense(&[k, n]), dense(&[n, k]), dense(&[n]), dense(&[n, n]));
    let view = |buffer, layout| View { buffer, layout };
    // Everything that is left.
    let mut filled = Vec::new();
    for bytes in [16 << 20, 4 << 20, 2 << 20] {
        while env::var_os("FULL").is_some() {
            let Ok(buffer) = device.alloc(DType::U8, bytes) else { break };
            filled.push(buffer);
        }
    }
    for round in 0..4 {
        if round == 2 {
            filled.clear();
        }
        device
            .matmul(
                MatmulArgs { a: view(&*x, &lx), b: view(&*w, &lt), out: ViewMut { buffer: &mut *out, layout: &lo } }
                    .checked()
                    .unwrap(),
            )
            .unwrap();
        assert_eq!(values(device, &*out).unwrap(), vec![k as f32; n * n]);
        let bias = Some(view(&*b, &lb));
        let to = ViewMut { buffer: &mut *out, layout: &lo };
        device
            .linear(LinearArgs { x: view(&*x, &lx), w: view(&*w, &lw), bias, relu: true, out: to }.checked().unwrap())
            .unwrap();
        assert_eq!(values(device, &*out).unwrap(), vec![k as f32 + 1.0; n * n]);
    }
}

// ---- memory of the libraries ----

#[test]
fn a_library_that_finds_no_memory_gets_what_is_cached() {
    let memory = [("KILN_SIM_MEMORY", "67108864"), ("KILN_SIM_LAZY_MEMORY", "4194304")];
    child("child_has_all_memory_in_its_cache", &memory);
    child("child_has_all_memory_in_use", &memory);
    // Without saying that it is memory that is missing.
    for status in ["1", "13", "14"] {
        let memory = [memory[0], memory[1], ("KILN_SIM_LAZY_STATUS", status)];
        child("child_has_all_memory_in_its_cache", &memory);
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
    assert!(report.contains("found no memory for itself until Kiln's cache was emptied"), "{report}");
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

#[test]
#[ignore = "a child"]
fn child_computes_linear_layers() {
    for (bias, relu, want) in [(false, false, 16.0), (true, false, 17.0), (true, true, 17.0), (false, true, 16.0)] {
        // The second time from the plan that was kept.
        for _ in 0..2 {
            assert_eq!(linear(device(), bias, relu).unwrap(), [want; 8 * 24], "{bias} {relu}");
        }
    }
    for _ in 0..2 {
        assert_eq!(masked(device(), true).unwrap(), [vec![8.0; 8 * 24], vec![64.0; 24]]);
        assert_eq!(masked(device(), false).unwrap(), [vec![8.0; 8 * 24], vec![1.0; 24]]);
    }
}

// ---- convolutions ----

/// `relu(conv(x, w) + bias)` of ones and both gradients: with 2 channels in and 4 out, 3×3, of 5×5 pixels.
fn convolutions(on: &dyn Backend) -> Result<[Vec<f32>; 3]> {
    let (rule, x, w, y) = (Conv2d::default(), dense(&[2, 2, 5, 5]), dense(&[4, 2, 3, 3]), dense(&[2, 4, 3, 3]));
    let (image, filter, bias, grad) = (ones(on, 100)?, ones(on, 72)?, ones(on, 4)?, ones(on, 72)?);
    let (mut out, mut to_x, mut to_w) =
        (on.alloc(DType::F32, 72)?, on.alloc(DType::F32, 100)?, on.alloc(DType::F32, 72)?);
    let view = |buffer, layout| View { buffer, layout };
    let of_bias = dense(&[4]);
    let bias = Some(view(&*bias, &of_bias));
    on.conv2d(
        Conv2dArgs {
            rule,
            x: view(&*image, &x),
            w: view(&*filter, &w),
            bias,
            relu: true,
            out: ViewMut { buffer: &mut *out, layout: &y },
        }
        .checked()?,
    )?;
    let to = ViewMut { buffer: &mut *to_x, layout: &x };
    on.conv2d_grad_input(
        Conv2dGradInputArgs { rule, grad: view(&*grad, &y), w: view(&*filter, &w), out: to }.checked()?,
    )?;
    let to = ViewMut { buffer: &mut *to_w, layout: &w };
    on.conv2d_grad_weight(
        Conv2dGradWeightArgs { rule, grad: view(&*grad, &y), x: view(&*image, &x), out: to }.checked()?,
    )?;
    Ok([values(on, &*out)?, values(on, &*to_x)?, values(on, &*to_w)?])
}

#[test]
fn algorithms_that_refuse_when_they_are_tried_are_replaced() {
    for refused in [
        "",
        "fused",
        "fused:1",
        "forward:1,data:2,filter:2",
        "fused,forward:1,forward:7,data:2,data:1",
        // A fused plan that fails in any way, and the best plan of each direction.
        "fused=5000",
        "fused=2000",
        "fused=4000",
        "forward:1=5000,data:2=4000,filter:2=2000",
    ] {
        for benchmark in ["", "1"] {
            child("child_convolves", &[("KILN_SIM_NO_CONVOLUTIONS", refused), ("BENCHMARK", benchmark)]);
        }
    }
}

#[test]
#[ignore = "a child"]
fn child_convolves() {
    set_convolution_benchmark(env::var("BENCHMARK").is_ok_and(|text| !text.is_empty()));
    // The second time from the plans that were kept.
    for _ in 0..2 {
        let [out, to_x, to_w] = convolutions(device()).unwrap();
        // Engines may differ in the last bits.
        let near = |got: f32, want: f32| (got - want).abs() <= 1e-5 * want;
        assert!(out.iter().all(|&value| near(value, 19.0)), "{out:?}");
        assert!(near(to_x[0], 4.0) && near(to_x[12], 36.0) && near(to_x.iter().sum(), 1296.0), "{to_x:?}");
        assert!(to_w.iter().all(|&value| near(value, 18.0)), "{to_w:?}");
    }
}

/// What the library has nothing for with the channels last is computed with the channels first, on copies.
#[test]
fn channels_that_come_last_are_copied_where_nothing_takes_them() {
    for refused in ["", "nhwc"] {
        child("child_convolves_channels_last", &[("KILN_SIM_NO_CONVOLUTIONS", refused)]);
    }
}

#[test]
#[ignore = "a child"]
fn child_convolves_channels_last() {
    let (on, rule) = (device(), Conv2d::default());
    let last = |[n, c, h, w]: [usize; 4]| dense(&[n, h, w, c]).permute(&[0, 3, 1, 2]);
    let (lx, lw, ly) = (last([2, 2, 5, 5]), last([4, 2, 3, 3]), last([2, 4, 3, 3]));
    let numbers = |n: usize| on.adopt(HostVec::F32((0..n).map(|i| (i % 7) as f32).collect())).unwrap();
    let (image, filter, mut out) = (numbers(100), numbers(72), on.alloc(DType::F32, 72).unwrap());
    let view = |buffer, layout| View { buffer, layout };
    let (x, w) = (view(&*image, &lx), view(&*filter, &lw));
    for _ in 0..2 {
        let out = ViewMut { buffer: &mut *out, layout: &ly };
        on.conv2d(Conv2dArgs { rule, x, w, bias: None, relu: false, out }.checked().unwrap()).unwrap();
    }
    let got = values(on, &*out).unwrap();
    let at = |layout: &Layout, index: [usize; 4]| -> f32 {
        let steps = layout.strides().iter().zip(index);
        (steps.map(|(step, i)| *step as usize * i).sum::<usize>() % 7) as f32
    };
    for (i, got) in got.iter().enumerate() {
        let [n, row, col, o] = [i / 36, i / 12 % 3, i / 4 % 3, i % 4];
        let taps = (0..2).flat_map(|c| (0..9).map(move |tap| (c, tap / 3, tap % 3)));
        let want: f32 = taps.map(|(c, y, x)| at(&lx, [n, c, row + y, col + x]) * at(&lw, [o, c, y, x])).sum();
        assert!((got - want).abs() <= 1e-4 * want, "element {i} is {got}, not {want}");
    }
}

#[test]
fn convolutions_that_are_not_fused_are_told() {
    let told =
        "fallback   1 times: cuda:0: a convolution, its bias and its ReLU by separate calls: |EXECUTION_FAILED (5000)";
    child("child_reports_of_convolutions", &[("KILN_SIM_NO_CONVOLUTIONS", "fused=5000"), ("EXPECT", told)]);
}

#[test]
#[ignore = "a child"]
fn child_reports_of_convolutions() {
    // It is tried once.
    for _ in 0..3 {
        convolutions(device()).unwrap();
    }
    let text = kiln_cuda::report();
    for part in env::var("EXPECT").unwrap().split('|') {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn codes_of_the_environment_are_errors_that_say_how_to_mend_it() {
    let fail = |refused: &str, code: &str, name: &str| {
        let refused = format!("{refused}={code}");
        let expect =
            format!("CUDNN_STATUS_{name} ({code})|the library says: the simulator was asked|libcudnn.so.9|To fix it, ");
        for benchmark in ["", "1"] {
            let faults = [("KILN_SIM_NO_CONVOLUTIONS", &*refused), ("EXPECT", &*expect), ("BENCHMARK", benchmark)];
            child("child_has_no_environment_for_convolutions", &faults);
        }
    };
    fail("create", "3005", "NOT_SUPPORTED_INCOMPATIBLE_CUDA_DRIVER");
    fail("heuristic", "3006", "NOT_SUPPORTED_INCOMPATIBLE_CUDART");
    fail("any", "3007", "NOT_SUPPORTED_ARCH_MISMATCH");
    fail("fused", "3008", "NOT_SUPPORTED_RUNTIME_PREREQUISITE_MISSING");
    fail("fused", "3009", "NOT_SUPPORTED_SUBLIBRARY_UNAVAILABLE");
    fail("create", "1002", "SUBLIBRARY_VERSION_MISMATCH");
    fail("heuristic", "1008", "SUBLIBRARY_LOADING_FAILED");
}

#[test]
#[ignore = "a child"]
fn child_has_no_environment_for_convolutions() {
    set_convolution_benchmark(env::var("BENCHMARK").is_ok_and(|text| !text.is_empty()));
    let device = device();
    let before = device.memory_stats().allocated;
    for _ in 0..2 {
        let error = convolutions(device).unwrap_err();
        let ErrorKind::Other(source) = error.kind() else { panic!("{error}") };
        let source = source.downcast_ref::<kiln_cuda::CudaError>();
        assert!(
            matches!(source, Some(kiln_cuda::CudaError::Environment { files, .. }) if !files.is_empty()),
            "{error}"
        );
        for part in env::var("EXPECT").unwrap().split('|') {
            assert!(error.to_string().contains(part), "{part:?} is not in {error}");
        }
    }
    assert_eq!(device.memory_stats().allocated, before, "nothing is lost by an error");
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24], "everything else goes on");
    let report = kiln_cuda::report();
    assert!(!report.contains("fallback"), "{report}");
}

#[test]
fn convolutions_that_nothing_computes_are_errors() {
    let fail = |faults: &[(&str, &str)]| {
        child("child_does_not_convolve", faults);
    };
    for (refused, op) in [
        ("forward", "conv2d: "),
        ("data", "conv2d_grad_input: "),
        ("filter", "conv2d_grad_weight: "),
        ("plan", "conv2d: "),
    ] {
        let expect =
            format!("{op}|cuDNN has no plan for|CUDNN_STATUS_NOT_SUPPORTED: the simulator was asked to refuse it");
        fail(&[("KILN_SIM_NO_CONVOLUTIONS", refused), ("EXPECT", &expect)]);
    }
    fail(&[("KILN_SIM_WITHOUT", "libcudnn"), ("EXPECT", "cuDNN was not found|libcudnn.so.9|pip install nvidia-cudnn")]);
    fail(&[
        ("KILN_SIM_WITHOUT", "cudnnBackendExecute"),
        ("EXPECT", "cuDNN was loaded as|cudnnBackendExecute|cuDNN 9.1"),
    ]);
}

#[test]
#[ignore = "a child"]
fn child_does_not_convolve() {
    let device = device();
    let before = device.memory_stats().allocated;
    for _ in 0..2 {
        let error = convolutions(device).unwrap_err().to_string();
        for part in env::var("EXPECT").unwrap().split('|') {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    }
    assert_eq!(device.memory_stats().allocated, before, "nothing is lost by an error");
    assert_eq!(linear(device, true, true).unwrap(), [17.0; 8 * 24], "everything else goes on");
}
