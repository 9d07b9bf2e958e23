//! What a gradient scaler does on the device: unscaling gradients and looking for values that are not finite, and moving
//! its scale.

use crate::{
    contract::{Arguments, Checked, has_dtype, is_float},
    dtype::DType,
    error::{Error, Result},
    view::{View, ViewMut},
};

/// Arguments of [`unscale_grads`](GradScalerBackend::unscale_grads).
#[derive(Debug)]
pub struct UnscaleGradsArgs<'a> {
    /// The gradients: floating-point and contiguous, in any number of dtypes.
    pub grads: Vec<ViewMut<'a>>,
    /// One `f32`: each gradient is multiplied by its reciprocal, which is computed in `f64` and rounded to what the
    /// gradient is computed in. Without it gradients are read only.
    pub scale: Option<View<'a>>,
    /// One `f32`, which is set to 1 if a gradient has an element that is infinite or NaN, and is left as it is otherwise.
    pub found_inf: ViewMut<'a>,
}

/// Arguments of [`update_scale`](GradScalerBackend::update_scale).
#[derive(Debug)]
pub struct UpdateScaleArgs<'a> {
    /// The scale: one `f32`.
    pub scale: ViewMut<'a>,
    /// The number of steps since it changed: one `i32`.
    pub growth_tracker: ViewMut<'a>,
    /// One `f32`: unless it is 0, the scale is multiplied by `backoff_factor`. It is 0 afterwards.
    pub found_inf: ViewMut<'a>,
    /// What the scale is multiplied by after `growth_interval` steps without infinities, unless the result is infinite.
    pub growth_factor: f64,
    /// What it is multiplied by after a step with infinities.
    pub backoff_factor: f64,
    /// The number of steps without infinities after which it grows.
    pub growth_interval: i32,
}

const UNSCALE: &str = "unscale_grads";
const UPDATE: &str = "update_scale";

impl Arguments for UnscaleGradsArgs<'_> {
    fn check(&self) -> Result<()> {
        let UnscaleGradsArgs { grads, scale, found_inf } = self;
        is_number(UNSCALE, DType::F32, found_inf.as_view())?;
        scale.map_or(Ok(()), |scale| is_number(UNSCALE, DType::F32, scale))?;
        grads.iter().try_for_each(|grad| {
            is_float(UNSCALE, grad.dtype())?;
            if grad.layout.is_contiguous() {
                Ok(())
            } else {
                Err(Error::argument(UNSCALE, "gradients must be contiguous"))
            }
        })
    }
}

impl Arguments for UpdateScaleArgs<'_> {
    fn check(&self) -> Result<()> {
        let UpdateScaleArgs { scale, growth_tracker, found_inf, growth_factor, backoff_factor, growth_interval } = self;
        is_number(UPDATE, DType::F32, scale.as_view())?;
        is_number(UPDATE, DType::I32, growth_tracker.as_view())?;
        is_number(UPDATE, DType::F32, found_inf.as_view())?;
        if !(growth_factor.is_finite() && backoff_factor.is_finite()) || *growth_interval < 1 {
            let message = format!("factors {growth_factor} and {backoff_factor}, interval {growth_interval}");
            return Err(Error::argument(UPDATE, message));
        }
        Ok(())
    }
}

fn is_number(op: &'static str, dtype: DType, view: View) -> Result<()> {
    has_dtype(op, dtype, view.dtype())?;
    if view.layout.numel() == 1 { Ok(()) } else { Err(Error::shape(op, "one number", view.layout.shape())) }
}

/// The parts of `torch.amp.GradScaler` that must not wait for the device
/// (<https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling>).
pub trait GradScalerBackend {
    /// Unscales gradients, and looks for values that are not finite.
    fn unscale_grads(&self, args: Checked<UnscaleGradsArgs>) -> Result<()>;
    /// Moves the scale after a step.
    fn update_scale(&self, args: Checked<UpdateScaleArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn operands_are_checked() {
        let (matrix, one, none) = (layout(&[2, 3]), layout(&[1]), layout(&[0]));
        let turned = layout(&[3, 2]).transpose(0, 1);
        let unscale = |grad: (DType, &_), scale: (DType, &_), found: (DType, &_)| {
            let (mut memory, mut set, number) = (Memory(grad.0), Memory(found.0), Memory(scale.0));
            let (grads, found_inf) = (vec![memory.view_mut(grad.1)], set.view_mut(found.1));
            UnscaleGradsArgs { grads, scale: Some(number.view(scale.1)), found_inf }.check().is_ok()
        };
        let f32 = (DType::F32, &one);
        assert!(unscale((DType::BF16, &matrix), f32, f32) && unscale((DType::F64, &none), f32, f32));
        assert!(!unscale((DType::I64, &matrix), f32, f32) && !unscale((DType::F32, &turned), f32, f32));
        assert!(!unscale(f32, (DType::F64, &one), f32) && !unscale(f32, (DType::F32, &matrix), f32));
        assert!(!unscale(f32, f32, (DType::Bool, &one)) && !unscale(f32, f32, (DType::F32, &none)));

        let update = |scale: DType, tracker: DType, growth_factor, growth_interval| {
            let (mut scale, mut tracker, mut found) = (Memory(scale), Memory(tracker), Memory(DType::F32));
            let (scale, growth_tracker) = (scale.view_mut(&one), tracker.view_mut(&one));
            let (found_inf, backoff_factor) = (found.view_mut(&one), 0.5);
            UpdateScaleArgs { scale, growth_tracker, found_inf, growth_factor, backoff_factor, growth_interval }
                .check()
                .is_ok()
        };
        assert!(update(DType::F32, DType::I32, 2.0, 1));
        assert!(!update(DType::F64, DType::I32, 2.0, 1) && !update(DType::F32, DType::I64, 2.0, 1));
        assert!(!update(DType::F32, DType::I32, f64::NAN, 1) && !update(DType::F32, DType::I32, 2.0, 0));
    }
}
