//! Training with `conv3d` and `conv_transpose3d` takes no copies of the input for the planes of the kernel. A program of its own, since
//! it counts the memory of the process.

#![cfg(feature = "cpu")]

use kiln_tensor::{Conv3d, DType, Device, Result, Tensor};

/// Bytes that a call allocates and keeps, and the most that it has allocated meanwhile.
fn measured<R>(body: impl FnOnce() -> Result<R>) -> Result<(R, usize, usize)> {
    let device = Device::Cpu;
    device.reset_peak_memory()?;
    let before = device.memory_stats()?.allocated;
    let result = body()?;
    let after = device.memory_stats()?;
    Ok((result, after.allocated - before, after.peak_allocated - before))
}

#[test]
fn nothing_grows_with_the_depth_of_the_kernel() -> Result<()> {
    const DEPTH: usize = 11;
    let rule = Conv3d { padding: [DEPTH / 2, 1, 1], ..Conv3d::default() };
    let operand = |dims: &[usize]| Tensor::randn(dims.to_vec(), (DType::F32, Device::Cpu))?.requires_grad_(true);
    let (x, w) = (operand(&[2, 8, 24, 28, 28])?, operand(&[8, 8, DEPTH, 3, 3])?);
    let volumes = x.numel() * DType::F32.size();
    for transposed in [false, true] {
        let (y, kept, peak) = measured(|| match transposed {
            false => x.conv3d(&w, None, &rule),
            true => x.conv_transpose3d(&w, None, &rule, [0; 3]),
        })?;
        assert_eq!(y.dims(), x.dims());
        // The result, and what threads pack.
        assert!(kept < volumes * 5 / 4 && peak < 2 * volumes, "forward keeps {kept} and takes {peak}, of {volumes}");
        let ((), kept, peak) = measured(|| y.sum(()).and_then(|sum| sum.backward()))?;
        // The gradients of the result and of the input, and what threads pack.
        assert!(kept < volumes * 5 / 4 && peak < 4 * volumes, "backward keeps {kept} and takes {peak}, of {volumes}");
        x.zero_grad();
        w.zero_grad();
    }
    Ok(())
}
