//! What happens when the driver or a library fails: a typed error that says what failed, no panic, no memory lost, and
//! what can go on goes on.
//!
//! The faults are the simulator's (`cargo sim test -p kiln-cuda --features kernels --test faults`); on a GPU nothing
//! fails on demand, and the tests pass without doing anything. Each runs a `child` of this program in a process of
//! its own, because a process has one device.
#![cfg(feature = "kernels")]

use std::{
    env,
    process::{Command, Output},
};

use kiln_backend::*;
use kiln_cuda::CudaBackend;

const NO_CACHING: &str = "KILN_CUDA_NO_MEMORY_CACHING";

/// Runs one of the ignored tests below on a device with these faults, and hands back what it printed.
fn child(name: &str, faults: &[(&str, &str)]) -> Option<String> {
    let runner = env::var_os("KILN_SIM_RUNNER")?;
    let mut command = Command::new(runner);
    command.arg(env::current_exe().unwrap()).args(["--exact", name, "--ignored", "--nocapture"]);
    // Where real libraries would be found.
    for name in ["VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH", "KILN_CUDA_PATH"] {
        command.env_remove(name);
    }
    // Figures are those of the caching allocator where nothing else is said.
    command.env_remove(NO_CACHING);
    let Output { status, stdout, stderr } = command.env("PATH", "").envs(faults.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success() && text.contains("1 passed"), "{name} with {faults:?}:\n{text}");
    Some(text)
}

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
    on.linear(view(&*x, &lx), view(&*w, &lw), bias, relu, ViewMut { buffer: &mut *out, layout: &lo })?;
    values(on, &*out)
}

/// [`linear`] with ReLU and a mask, and then the gradient of 8 columns above it through that ReLU: `[out, bias]`.
fn masked(on: &dyn Backend, bias: bool) -> Result<[Vec<f32>; 2]> {
    let (x, v, b, mut y) = (ones(on, 8 * 16)?, ones(on, 24 * 16)?, ones(on, 24)?, on.alloc(DType::F32, 8 * 24)?);
    let (lx, lv, lb, ly) = (dense(&[8, 16]), dense(&[24, 16]), dense(&[24]), dense(&[8, 24]));
    let view = |buffer, layout| View { buffer, layout };
    let (first, to) = (bias.then(|| view(&*b, &lb)), ViewMut { buffer: &mut *y, layout: &ly });
    let mask = on.linear_relu(view(&*x, &lx), view(&*v, &lv), first, to)?;
    let (grad, w, lg) = (ones(on, 8 * 8)?, ones(on, 8 * 24)?, dense(&[8, 8]));
    let (mut out, mut sums, lw) = (on.alloc(DType::F32, 8 * 24)?, ones(on, 24)?, dense(&[8, 24]));
    let (to, mask) = (ViewMut { buffer: &mut *out, layout: &ly }, mask.as_ref());
    let to_bias = bias.then_some(ViewMut { buffer: &mut *sums, layout: &lb });
    on.linear_relu_grad(view(&*grad, &lg), view(&*w, &lw), view(&*y, &ly), mask, to, to_bias)?;
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
    for refused in ["", "fused", "fused:1", "forward:1,data:0,filter:0", "fused,forward:1,forward:7,data:0,data:5"] {
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
        // Algorithms may differ in the last bits.
        let near = |got: f32, want: f32| (got - want).abs() <= 1e-5 * want;
        assert!(out.iter().all(|&value| near(value, 19.0)), "{out:?}");
        assert!(near(to_x[0], 4.0) && near(to_x[12], 36.0) && near(to_x.iter().sum(), 1296.0), "{to_x:?}");
        assert!(to_w.iter().all(|&value| near(value, 18.0)), "{to_w:?}");
    }
}

#[test]
fn convolutions_that_nothing_computes_are_errors() {
    let fail = |faults: &[(&str, &str)]| {
        child("child_does_not_convolve", faults);
    };
    for (refused, call) in [
        ("forward", "cudnnConvolutionForward"),
        ("data", "cudnnConvolutionBackwardData"),
        ("filter", "cudnnConvolutionBackwardFilter"),
    ] {
        let expect = format!("{call}|cuDNN has no algorithm for");
        fail(&[("KILN_SIM_NO_CONVOLUTIONS", refused), ("EXPECT", &expect)]);
    }
    fail(&[("KILN_SIM_WITHOUT", "libcudnn"), ("EXPECT", "cuDNN was not found|libcudnn.so.9|pip install nvidia-cudnn")]);
    fail(&[("KILN_SIM_WITHOUT", "cudnnConvolutionForward"), ("EXPECT", "cuDNN was loaded as|cudnnConvolutionForward")]);
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
