//! Failures of the driver or a library: each must be a typed error that says what failed, without a panic or a memory
//! leak, and work that can continue must continue.
//!
//! The simulator injects the faults (`cargo sim test -p kiln-cuda --features kernels --test faults`); on a GPU nothing
//! fails on demand, and the tests pass without doing anything. Each runs a `child` of this program.

mod attention;
#[path = "../child/mod.rs"]
mod child;
mod convolutions;
mod libraries;
mod memory;

use std::env;

use child::child;
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
            activation: Activation::relu(relu),
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
    let mask = on.linear(
        LinearArgs { x: view(&*x, &lx), w: view(&*v, &lv), bias: first, activation: Activation::ReluWithMask, out: to }
            .checked()?,
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
    on.unary(
        UnaryArgs {
            op: UnaryOp::Square,
            x: View { buffer: x, layout: &layout },
            out: ViewMut { buffer: &mut *out, layout: &layout },
        }
        .checked()?,
    )?;
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
