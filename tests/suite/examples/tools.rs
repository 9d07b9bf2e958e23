//! Examples that train nothing.

use std::env;

use kiln::prelude::*;

use super::run;

#[test]
fn autograd_prints_what_pytorch_prints() {
    let output = run("autograd", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "Gradient function for z = <AddBackward0>\n",
        "Gradient function for loss = <BinaryCrossEntropyWithLogitsBackward0>\n",
        "\nTrue\nFalse\nFalse\n",
        "First call\n\
         tensor([[4., 2., 2., 2., 2.],\n        \
                 [2., 4., 2., 2., 2.],\n        \
                 [2., 2., 4., 2., 2.],\n        \
                 [2., 2., 2., 4., 2.],\n        \
                 [2., 2., 2., 2., 4.]])\n\n\
         Second call\n\
         tensor([[8., 4., 4., 4., 4.],\n",
        "Call after zeroing gradients\ntensor([[4., 2., 2., 2., 2.],\n",
        "tensor([[3., 3.],\n        [3., 3.]])\nNone\ntensor([[1., 1.],\n        [1., 1.]])\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn custom_dataset_loads_what_it_wrote() {
    let output = run("custom_dataset", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Feature batch shape")).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].contains("[64, 1, 28, 28], labels batch shape: [64]"), "{text}");
    assert!(lines[3].contains("[8, 1, 28, 28]"), "{text}");
}

#[test]
fn device_info_reports_with_and_without_a_device() {
    let output = run("device_info", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    if text.starts_with("missing: Kiln was built without the feature `cuda`") {
        assert!(text.contains("To fix it, build with `--features cuda`"), "{text}");
        return;
    }
    for what in ["driver ", "cuBLASLt ", "cuDNN ", "NVRTC ", "kernels "] {
        assert!(text.lines().any(|line| line.starts_with(what)), "{what:?} is not in {text}");
    }
    // What is missing has a reason and a way out.
    let missing = text.lines().filter(|line| line.ends_with(" missing")).count();
    assert_eq!(text.lines().filter(|line| line.starts_with("missing: ")).count(), missing, "{text}");
    if Device::cuda(0).is_ok() {
        let output = run("device_info", &["--use"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("cuda:0 ") && text.contains("open: "), "{text}");
    }
}

/// With NVIDIA's cuDNN; without it the example says what is missing.
#[test]
fn compile_plans_writes_what_the_library_takes_back() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    let lenet = |more: &[&str]| {
        let args = ["lenet", "--device", "h100,a100", "--batch", "64,7", "--dtype", "f32,bf16"];
        let output = run("compile_plans", &[&args[..], &["--output", output], more].concat());
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    };
    let (passed, text) = lenet(&[]);
    if !passed && text.contains("cuDNN was not found") {
        assert!(env::var_os("KILN_REQUIRE_CUDNN").is_none(), "{text}");
        assert!(text.contains("pip install nvidia-cudnn"), "{text}");
        return eprintln!("skipped: {text}");
    }
    assert!(passed, "{text}");
    // Two layers, of which the first has no gradient of its input; dtypes, batches, devices.
    assert_eq!(text.matches("5 convolutions, 5 plans of cuDNN").count(), 8, "{text}");
    // The second time each is read, and given to the library.
    let (passed, text) = lenet(&[]);
    assert!(passed && text.matches("5 convolutions, 0 plans of cuDNN").count() == 8, "{text}");
    let (passed, text) = lenet(&["--inference"]);
    assert!(passed && text.matches("2 convolutions, 0 plans of cuDNN").count() == 8, "{text}");
    let small =
        ["resnet18", "--image-size", "32", "--inference", "--layout", "nhwc", "--batch", "8", "--device", "h100"];
    let text = run("compile_plans", &[&small[..], &["--output", output]].concat()).stdout;
    let text = String::from_utf8_lossy(&text);
    // Of the 11 shapes, four occur with a bias and ReLU and with a residual besides, and three shortcuts with a bias alone.
    let plans = text.split_once(" convolutions, ").and_then(|(_, rest)| rest.split_once(" plans of cuDNN"));
    let plans: usize = plans.expect("a line for each model").0.parse().unwrap();
    assert!((15..=21).contains(&plans) && !text.contains("none: "), "{text}");
    for (args, expect) in [
        (["lenet", "--device", "h10", "--batch", "64"], "h10 is neither one of a100, "),
        (["lenet", "--device", "/", "--batch", "64"], "nor a file"),
        (["lenet", "--device", "h100", "--batch", "0"], "at least one image"),
    ] {
        let output = run("compile_plans", &args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(expect), "{text}");
    }
}
