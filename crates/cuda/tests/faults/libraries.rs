//! Libraries and functions that are missing or incompatible, and products that cuBLASLt refuses.

use std::env;

use kiln_backend::*;

use crate::{child::child, dense, device, linear, masked, ones, square, values};

#[test]
fn libraries_and_functions_that_are_missing_are_named() {
    let missing = |what: &str, expect: &str| {
        child("memory::child_finds_no_device", &[("KILN_SIM_WITHOUT", what), ("EXPECT", expect)]);
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
        child("memory::child_finds_no_device", &[("KILN_SIM_INIT", code), ("EXPECT", expect)]);
        let expect = expect.rsplit('|').next().unwrap_or_default();
        child(
            "libraries::child_reports",
            &[("KILN_SIM_INIT", code), ("EXPECT", &format!("missing: driver: |{expect}"))],
        );
    }
    let products = |what: &str, expect: &str| {
        child("libraries::child_has_no_products", &[("KILN_SIM_WITHOUT", what), ("EXPECT", expect)]);
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
        child("memory::child_finds_no_device", &[faults, &[("EXPECT", expect)]].concat());
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
    child("libraries::child_has_no_products", &missing);
}

#[test]
fn cudnn_decides_which_libraries_are_loaded() {
    for (cuda, names) in
        [("12", "libcublasLt.so.12|libnvrtc.so.12|built for CUDA 12.0"), ("13", "libcublasLt.so.13|13.0.0")]
    {
        child("libraries::child_reports", &[("KILN_SIM_CUDA", cuda), ("EXPECT", names)]);
    }
    // Without it, the newest that the driver serves.
    let newest = [("KILN_SIM_DRIVER", "12080"), ("KILN_SIM_WITHOUT", "libcudnn"), ("EXPECT", "libcublasLt.so.12")];
    child("libraries::child_reports", &newest);
}

#[test]
fn reports_say_what_there_is_and_what_is_missing() {
    let reports = |without: &str, expect: &str| {
        child("libraries::child_reports", &[("KILN_SIM_WITHOUT", without), ("EXPECT", expect)]);
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
    reports("libcublasLt", "cuBLASLt   missing|missing: cuBLASLt: |pip install nvidia-cublas`|cuDNN      9.26.0");
    reports("libcudnn,libnvrtc", "missing: cuDNN: |pip install nvidia-cudnn-cu13|missing: NVRTC: |cuBLASLt   13.0.0");
    // Libraries that do not belong together.
    let mixed = [
        ("KILN_SIM_CUDA", "12"),
        ("KILN_SIM_WITHOUT", "libcublasLt.so.12,libcublasLt.so"),
        ("EXPECT", "cuda:0     Simulated|missing: libraries: libraries of different major versions of CUDA"),
    ];
    child("libraries::child_reports", &mixed);
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
    child("memory::child_finds_no_device", &[("KILN_SIM_ARCH", "70"), ("EXPECT", "its compute capability is 7.0")]);
}

#[test]
fn epilogues_that_the_library_does_not_offer_are_done_by_kernels() {
    for missing in
        ["", "4", "6", "2,4,6", "130,134", "136,152", "2,4,6,130,134,136,152", "-2,-4,-6,-130,-134,-136,-152"]
    {
        child("libraries::child_computes_linear_layers", &[("KILN_SIM_NO_EPILOGUES", missing)]);
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
        child("libraries::child_computes_linear_layers", &[("KILN_SIM_NO_PRODUCTS", &refused)]);
    }
    // The first two of three.
    child("libraries::child_multiplies", &[("KILN_SIM_NO_PRODUCTS", "any:0=14,any:1=15")]);
    // What is done by a kernel of ours is told.
    let noted = [
        ("KILN_SIM_NO_PRODUCTS", "6=14"),
        (
            "EXPECT",
            "fallback   1 times: cuda:0: a matrix product in f32 and its \
                 epilogue BiasRelu by separate kernels: cuBLASLt has none that works (CUBLAS_STATUS_INTERNAL_ERROR)",
        ),
    ];
    child("libraries::child_reports", &noted);
    // Nothing takes the place of a plain product.
    let all = [("KILN_SIM_NO_PRODUCTS", "any=14"), ("EXPECT", "with any algorithm|CUBLAS_STATUS_INTERNAL_ERROR (14)")];
    child("libraries::child_does_not_multiply", &all);
    let failed = [("KILN_SIM_NO_PRODUCTS", "any=13"), ("EXPECT", "CUBLAS_STATUS_EXECUTION_FAILED (13)")];
    child("libraries::child_does_not_multiply", &failed);
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
        child("libraries::child_multiplies", &memory);
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
            .linear(
                LinearArgs { x: view(&*x, &lx), w: view(&*w, &lw), bias, activation: Activation::Relu, out: to }
                    .checked()
                    .unwrap(),
            )
            .unwrap();
        assert_eq!(values(device, &*out).unwrap(), vec![k as f32 + 1.0; n * n]);
    }
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
