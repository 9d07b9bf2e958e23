//! The types that convolutions are computed in, and which of them Winograd's algorithm supports.

use kiln_backend::Result;

use super::winograd::{self, Filters};
use crate::{engine::image::Image, gemm::source, numeric::real::Real};

/// Receives the 3×3 gradient of an output and an input channel.
type Store<'a, T> = &'a (dyn Fn(usize, usize, &[T; 9]) + Sync);

/// A compute type: `f32` or `f64`. Winograd's algorithm supports only `f32`; for `f64` its functions return `false` and
/// do nothing.
pub(crate) trait Compute: Real + source::Float + source::Source<Self> {
    /// # Safety
    /// As `winograd::forward`.
    unsafe fn winograd(
        _x: Image<Self>,
        _padding: [usize; 2],
        _filters: Filters<'_, Self>,
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
        filters: Filters<'_, f32>,
        bias: Option<&[f32]>,
        relu: bool,
        out: Image<f32>,
    ) -> Result<bool> {
        // SAFETY: the caller's promise.
        unsafe { winograd::forward(x, padding, filters, bias, relu, out).map(|()| true) }
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
