//! Convolution over height and width, and its gradients. Convolutions of volumes are made of it (`ops/conv3d.rs`).
//!
//! * `groups`: the three computations, by groups
//! * `taps`: which input pixels each output pixel reads
//! * `implicit_gemm`: the general case, matrix products over blocks of pixels
//! * `direct_conv`: few output channels, by kernels that read a zero-padded copy of the image (`padded_input`)
//! * `winograd`: 3×3 kernels with a quarter of the multiplications, in `f32`
//! * `grad_weight`: the gradient with respect to the weight
//!
//! The gradient with respect to the input is a convolution of the output's gradient: one with its own taps for each of
//! the `stride`² residue classes of input pixels.

pub(crate) mod compute;
mod direct_conv;
mod grad_weight;
pub(crate) mod groups;
mod implicit_gemm;
mod padded_input;
mod taps;
mod weights;
mod winograd;

use kiln_backend::Result;

use self::{compute::Compute, padded_input::PaddedInput, taps::Taps, weights::Weights};
use crate::{engine::image::Image, gemm::kernel::Kernel};

/// Convolves the channels of one group: every pixel of `out` is the weighted sum of the input pixels that it reads
/// through the taps, plus the bias, followed by ReLU if `relu` is set.
///
/// # Safety
/// The images are readable and writable, `out`'s elements are distinct and in no other image, and there are as many images
/// in `x` as in `out`.
pub(crate) unsafe fn convolve<T: Compute>(
    kern: &Kernel<T>,
    x: Image<T>,
    taps: &Taps,
    weights: Weights<'_, T>,
    relu: bool,
    out: Image<T>,
) -> Result<()> {
    if out.n * out.area() == 0 || weights.rows == 0 {
        return Ok(());
    }
    let direct = PaddedInput::new(taps, out.w)
        .and_then(|padded| Some((direct_conv::rows_at_once(&padded, x.c, &weights, out.h)?, padded)));
    // SAFETY: the caller's promise.
    unsafe {
        match direct {
            Some((rows, padded)) => direct_conv::direct_conv(kern, x, &padded, rows, weights, relu, out),
            None => implicit_gemm::implicit_gemm(kern, x, taps, weights, relu, out),
        }
    }
}
