//! Two-dimensional convolution and its gradients.
//!
//! * `taps`: which pixels see which
//! * `correlate`: the general case, as products of matrices over blocks of pixels
//! * `slide`: the same for few output channels, with kernels that read the image where it lies
//! * `frame`: images with the zeros around them that this needs
//! * `grad_weight`: the gradient of the weight, likewise
//! * `winograd`: kernels of 3×3 with a quarter of the multiplications, in `f32`
//! * `image`: images in any layout
//!
//! The gradient of the input is a convolution of the output's gradient, one for each of the `stride`² classes of input
//! pixels that see it through the same taps.

pub(crate) mod correlate;
mod frame;
pub(crate) mod grad_weight;

mod slide;
pub(crate) mod taps;
pub(crate) mod winograd;

use kiln_backend::Result;

use crate::{engine::image::Image, gemm::source, numeric::real::Real};

/// Which taps an output and an input channel have, written to the array.
type Filter<'a, T> = &'a (dyn Fn(usize, usize, &mut [T; 9]) + Sync);
/// Takes the taps of an output and an input channel.
type Store<'a, T> = &'a (dyn Fn(usize, usize, &[T; 9]) + Sync);

/// The types that are computed in: `f32` and `f64`. Only `f32` has Winograd's algorithm; the others return `false` and
/// have done nothing.
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
