//! Convolutions that cuDNN refuses.

use std::env;

use kiln_backend::*;

use crate::{
    child::{child, child_with_report, profiler},
    dense, device, linear, ones, values,
};

/// `relu(conv(x, w) + bias)` of ones and both gradients: with 2 channels in and 4 out, 3×3, of 5×5 pixels.
pub fn convolutions(on: &dyn Backend) -> Result<[Vec<f32>; 3]> {
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
            residual: None,
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
            child("convolutions::child_convolves", &[("KILN_SIM_NO_CONVOLUTIONS", refused), ("BENCHMARK", benchmark)]);
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
    expect_in_report();
}

/// Looks for the parts between the bars of the variable `EXPECT`, if it is set.
fn expect_in_report() {
    let text = kiln_cuda::report();
    for part in env::var("EXPECT").unwrap_or_default().split('|') {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// What the library has nothing for with the channels last is computed with the channels first, on copies.
#[test]
fn channels_that_come_last_are_copied_where_nothing_takes_them() {
    for refused in ["", "nhwc"] {
        child("convolutions::child_convolves_channels_last", &[("KILN_SIM_NO_CONVOLUTIONS", refused)]);
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
        on.conv2d(Conv2dArgs { rule, x, w, bias: None, residual: None, relu: false, out }.checked().unwrap()).unwrap();
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
    expect_in_report();
}

/// With `convolution_benchmark`, channels that do not fill rows are padded with zeros if that is faster: each call fills
/// and copies then, and the results are the same.
#[test]
fn few_channels_are_padded_where_that_is_faster() {
    for (slower, padded) in [("0", false), ("1000", true)] {
        let child =
            child_with_report("convolutions::child_convolves_few_channels", &[("KILN_SIM_SLOW_CHANNELS", slower)]);
        let Some((_, report)) = child else { return };
        let executed = report.window("executed");
        let count = |kernel: &str| executed.iter().filter(|name| name.starts_with(kernel)).count();
        // The images and the filter forward; the filter's zeros and the gradient; the images' zeros and the gradient.
        assert_eq!((count("fill"), count("copy")), if padded { (4, 6) } else { (0, 0) }, "{executed:?}");
    }
}

#[test]
#[ignore = "a child"]
fn child_convolves_few_channels() {
    let (on, rule) = (device(), Conv2d::default());
    let last = |[n, c, h, w]: [usize; 4]| dense(&[n, h, w, c]).permute(&[0, 3, 1, 2]);
    let (lx, lw, ly, lb) = (last([2, 3, 6, 5]), last([8, 3, 3, 3]), last([2, 8, 4, 3]), dense(&[8]));
    let numbers = |n: usize, step: usize| {
        let all = (0..n).map(|i| half::f16::from_f32((i * step % 5) as f32 - 2.0)).collect();
        on.adopt(HostVec::F16(all)).unwrap()
    };
    let (image, filter, bias) = (numbers(180, 1), numbers(216, 3), numbers(8, 2));
    let (residual, grad) = (numbers(192, 7), numbers(192, 3));
    let view = |buffer, layout| View { buffer, layout };
    let convolve = || {
        let sizes = [192, 180, 216];
        let [mut out, mut to_x, mut to_w] = sizes.map(|size| on.alloc(DType::F16, size).unwrap());
        let (x, w, grad) = (view(&*image, &lx), view(&*filter, &lw), view(&*grad, &ly));
        let (bias, residual) = (Some(view(&*bias, &lb)), Some(view(&*residual, &ly)));
        let to = ViewMut { buffer: &mut *out, layout: &ly };
        on.conv2d(Conv2dArgs { rule, x, w, bias, residual, relu: true, out: to }.checked().unwrap()).unwrap();
        let to = ViewMut { buffer: &mut *to_x, layout: &lx };
        on.conv2d_grad_input(Conv2dGradInputArgs { rule, grad, w, out: to }.checked().unwrap()).unwrap();
        let to = ViewMut { buffer: &mut *to_w, layout: &lw };
        on.conv2d_grad_weight(Conv2dGradWeightArgs { rule, grad, x, out: to }.checked().unwrap()).unwrap();
        [out, to_x, to_w].map(|got| half::f16::read_vec(got.len(), |bytes| on.download(&*got, 0, bytes)).unwrap())
    };
    let want = convolve();
    set_convolution_benchmark(true);
    // While the ways are timed, and when one has been chosen.
    assert_eq!(convolve(), want);
    profiler("cuProfilerStart");
    assert_eq!(convolve(), want);
    profiler("cuProfilerStop");
}

#[test]
fn convolutions_that_are_not_fused_are_told() {
    let told =
        "fallback   1 times: cuda:0: a convolution, its bias and its ReLU by separate calls: |EXECUTION_FAILED (5000)";
    child(
        "convolutions::child_reports_of_convolutions",
        &[("KILN_SIM_NO_CONVOLUTIONS", "fused=5000"), ("EXPECT", told)],
    );
}

#[test]
#[ignore = "a child"]
fn child_reports_of_convolutions() {
    // It is tried once.
    for _ in 0..3 {
        convolutions(device()).unwrap();
    }
    expect_in_report();
}

#[test]
fn codes_of_the_environment_are_errors_that_say_how_to_mend_it() {
    let fail = |refused: &str, code: &str, name: &str| {
        let refused = format!("{refused}={code}");
        let expect =
            format!("CUDNN_STATUS_{name} ({code})|the library says: the simulator was asked|libcudnn.so.9|To fix it, ");
        for benchmark in ["", "1"] {
            let faults = [("KILN_SIM_NO_CONVOLUTIONS", &*refused), ("EXPECT", &*expect), ("BENCHMARK", benchmark)];
            child("convolutions::child_has_no_environment_for_convolutions", &faults);
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

/// By Kiln's own kernel, and the report says why.
#[test]
fn convolutions_that_cudnn_has_no_plan_for_are_computed_all_the_same() {
    let refused = "CUDNN_STATUS_NOT_SUPPORTED: the simulator was asked to refuse it";
    for (call, ops) in [
        ("forward", &["conv2d"][..]),
        ("data", &["conv2d_grad_input"]),
        ("filter", &["conv2d_grad_weight"]),
        ("plan", &["conv2d", "conv2d_grad_input", "conv2d_grad_weight"]),
        ("heuristic", &["conv2d", "conv2d_grad_input", "conv2d_grad_weight"]),
    ] {
        let told = ops.iter().map(|op| format!("times: cuda:0: {op} by Kiln's own kernel: {op}: |"));
        let expect = told.collect::<String>() + refused;
        for benchmark in ["", "1"] {
            let settings = [("KILN_SIM_NO_CONVOLUTIONS", call), ("EXPECT", &expect), ("BENCHMARK", benchmark)];
            child("convolutions::child_convolves", &settings);
        }
    }
    // In either order.
    let settings = [("KILN_SIM_NO_CONVOLUTIONS", "forward"), ("EXPECT", "conv2d by Kiln's own kernel")];
    child("convolutions::child_convolves_channels_last", &settings);
}

#[test]
fn convolutions_that_fail_are_errors() {
    let fail = |faults: &[(&str, &str)]| {
        child("convolutions::child_does_not_convolve", faults);
    };
    for (refused, op) in [("forward", "conv2d"), ("data", "conv2d_grad_input"), ("filter", "conv2d_grad_weight")] {
        let refused = format!("{refused}=5000");
        let expect = "cudnnBackendExecute|CUDNN_STATUS_EXECUTION_FAILED (5000)|the simulator was asked to refuse it";
        let direction = format!("{expect}|{}", if op == "conv2d" { "Forward" } else { "Grad" });
        fail(&[("KILN_SIM_NO_CONVOLUTIONS", &refused), ("EXPECT", &direction)]);
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
