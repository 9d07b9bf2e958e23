//! `unscale_grads` and `update_scale`: what a gradient scaler does between the backward pass and the next one.

use std::sync::atomic::{AtomicBool, Ordering};

use kiln_backend::{
    Checked, FillBackend, GradScalerBackend, Result, Scalar, UnscaleGradsArgs, UpdateScaleArgs, ViewMut,
};

use super::optim::number;
use crate::{
    device::CpuBackend,
    engine::{
        par,
        tile::{load, steps, store},
    },
    memory::view::Target,
    numeric::{dispatch::for_float, real::Real, stored::Stored},
};

const OP: &str = "unscale_grads";
const UPDATE: &str = "update_scale";

/// Elements that are converted together.
const STAGE: usize = 512;

impl GradScalerBackend for CpuBackend {
    fn unscale_grads(&self, args: Checked<UnscaleGradsArgs>) -> Result<()> {
        let UnscaleGradsArgs { grads, scale, found_inf } = args.into_inner();
        let factor = scale.map(|scale| number::<f32>(OP, scale).map(|scale| 1.0 / f64::from(scale))).transpose()?;
        let mut found = false;
        for grad in grads {
            found |= for_float!(OP, grad.dtype(), T => unscale::<T>(grad, factor))?;
        }
        if found { CpuBackend.fill(Scalar::Float(1.0), found_inf) } else { Ok(()) }
    }

    fn update_scale(&self, args: Checked<UpdateScaleArgs>) -> Result<()> {
        let UpdateScaleArgs { scale, growth_tracker, found_inf, growth_factor, backoff_factor, growth_interval } =
            args.into_inner();
        let (now, steps) = (number::<f32>(UPDATE, scale.as_view())?, number::<i32>(UPDATE, growth_tracker.as_view())?);
        let times = |factor: f64| (f64::from(now) * factor) as f32;
        let (now, steps) = if number::<f32>(UPDATE, found_inf.as_view())? != 0.0 {
            (times(backoff_factor), 0)
        } else if steps.saturating_add(1) == growth_interval {
            let grown = times(growth_factor);
            (if grown.is_finite() { grown } else { now }, 0)
        } else {
            (now, steps.saturating_add(1))
        };
        CpuBackend.fill(Scalar::Float(f64::from(now)), scale)?;
        CpuBackend.fill(Scalar::Int(i64::from(steps)), growth_tracker)?;
        CpuBackend.fill(Scalar::Float(0.0), found_inf)
    }
}

/// Multiplies a gradient by a factor, if there is one, and tells whether an element was not finite.
fn unscale<T: Stored<Compute: Real>>(grad: ViewMut, factor: Option<f64>) -> Result<bool> {
    let (len, target) = (grad.layout.numel(), Target::<T>::new(OP, grad)?);
    let (found, by) = (AtomicBool::new(false), factor.map(T::Compute::of));
    par::ranges(len, par::GRAIN, |range| {
        let mut tile = [T::Compute::of(0.0); STAGE];
        for range in steps(range, STAGE) {
            // SAFETY: the gradient is contiguous with `len` elements, by the contract of the primitive, and ranges are disjoint.
            let part = unsafe { std::slice::from_raw_parts_mut(target.ptr().add(range.start), range.len()) };
            let tile = &mut tile[..part.len()];
            load(part, tile);
            // The product is 0 for finite numbers, else NaN.
            let zero = T::Compute::of(0.0);
            if tile.iter().fold(zero, |sum, &x| sum + x * zero) != zero {
                found.store(true, Ordering::Relaxed);
            }
            if let Some(by) = by {
                tile.iter_mut().for_each(|x| *x = *x * by);
                store(tile, part);
            }
        }
    });
    Ok(found.into_inner())
}
