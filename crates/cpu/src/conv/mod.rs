//! Two-dimensional convolution and its gradients.
//!
//! * `taps`: which input pixels each output pixel reads
//! * `implicit_gemm`: the general case, matrix products over blocks of pixels
//! * `direct_conv`: few output channels, by kernels that read a zero-padded copy of the image (`padded_input`)
//! * `winograd`: 3×3 kernels with a quarter of the multiplications, in `f32`
//! * `grad_weight`: the gradient with respect to the weight
//!
//! The gradient with respect to the input is a convolution of the output's gradient: for each of the `stride`² residue
//! classes of input pixels one with its own taps.

mod direct_conv;
pub(crate) mod grad_weight;
mod implicit_gemm;
mod padded_input;
pub(crate) mod taps;
pub(crate) mod weights;
pub(crate) mod winograd;

use kiln_backend::Result;

use self::{padded_input::PaddedInput, taps::Taps, weights::Weights};
use crate::{
    engine::image::Image,
    gemm::{kernel::Kernel, source},
    numeric::real::Real,
};

/// Writes the 3×3 filter of an output and an input channel to the array.
type Filter<'a, T> = &'a (dyn Fn(usize, usize, &mut [T; 9]) + Sync);
/// Receives the 3×3 gradient of an output and an input channel.
type Store<'a, T> = &'a (dyn Fn(usize, usize, &[T; 9]) + Sync);

/// A computing type: `f32` or `f64`. Winograd's algorithm is for `f32` only; for `f64` its functions return `false` and do
/// nothing.
pub(crate) trait Compute: Real + source::Float + source::Source<Self> {
    /// # Safety
    /// As `winograd::forward`.
    unsafe fn winograd(
        _x: Image<Self>,
        _padding: [usize; 2],
        _filter: Filter<'_, Self>,
        _bias: Option<&[Self]>,
        _relu: bool,
        _out: Image<Self>,
    ) -> Result<bool> {
        Ok(false)
    }

    /// # Safety
    /// As `winograd::grad_weight`.
    unsafe fn winograd_grad_weight(
        _grad: Image<Self>,
        _x: Image<Self>,
        _padding: [usize; 2],
        _store: Store<'_, Self>,
    ) -> Result<bool> {
        Ok(false)
    }
}

impl Compute for f64 {}

impl Compute for f32 {
    unsafe fn winograd(
        x: Image<f32>,
        padding: [usize; 2],
        filter: Filter<'_, f32>,
        bias: Option<&[f32]>,
        relu: bool,
        out: Image<f32>,
    ) -> Result<bool> {
        // SAFETY: the caller's promise.
        unsafe { winograd::forward(x, padding, filter, bias, relu, out).map(|()| true) }
    }

    unsafe fn winograd_grad_weight(
        grad: Image<f32>,
        x: Image<f32>,
        padding: [usize; 2],
        store: Store<'_, f32>,
    ) -> Result<bool> {
        // SAFETY: the caller's promise.
        unsafe { winograd::grad_weight(grad, x, padding, store).map(|()| true) }
    }
}

/// Convolves the channels of one group: every pixel of `out` is the weighted sum of the input pixels that it reads through
/// the taps, plus the bias, and then ReLU if `relu`.
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
            None => {
                implicit_gemm::implicit_gemm(kern, x, taps, weights, relu, out);
                Ok(())
            }
        }
    }
}
