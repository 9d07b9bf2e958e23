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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Tensor, assert_close, numbers};
    use kiln_backend::{Arguments, DType};

    fn one(dtype: DType, value: f64) -> Tensor {
        Tensor::new(dtype, &[], &[value])
    }

    #[test]
    fn gradients_are_unscaled_and_infinities_are_found() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for len in [0, 1, 7, 511, 512, 513, 40_000] {
                // Where the value that is not finite lies, if there is one.
                let last = len - len.min(1);
                for (at, wild) in
                    [(None, 0.0), (Some(0), f64::NAN), (Some(last), f64::INFINITY), (Some(len / 2), -f64::INFINITY)]
                {
                    let mut values = numbers(len, 3);
                    if let (Some(at), true) = (at, len > 0) {
                        values[at] = wild;
                    }
                    for scale in [None, Some(one(DType::F32, 4.0))] {
                        let mut grads =
                            [Tensor::new(dtype, &[len], &values), Tensor::new(DType::F64, &[2], &[8.0, 1.0])];
                        let mut found = one(DType::F32, 0.0);
                        let args = UnscaleGradsArgs {
                            grads: grads.iter_mut().map(Tensor::view_mut).collect(),
                            scale: scale.as_ref().map(Tensor::view),
                            found_inf: found.view_mut(),
                        };
                        CpuBackend.unscale_grads(args.checked().unwrap()).unwrap();
                        let what = format!("{dtype}, {wild} at {at:?} of {len}");
                        assert_eq!(found.values(), [f64::from(u8::from(at.is_some() && len > 0))], "{what}");
                        let by = if scale.is_some() { 0.25 } else { 1.0 };
                        let want: Vec<f64> = values.iter().map(|x| x * by).collect();
                        assert_close(&grads[0].values(), &want, dtype, 1.0, &what);
                        assert_eq!(grads[1].values(), [8.0 * by, by], "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_scale_grows_and_backs_off() {
        let (mut scale, mut tracker, mut found) = (one(DType::F32, 3.0), one(DType::I32, 0.0), one(DType::F32, 0.0));
        let mut update = |set: Option<f64>, inf: f64| {
            if let Some(set) = set {
                scale = one(DType::F32, set);
            }
            found = one(DType::F32, inf);
            let args = UpdateScaleArgs {
                scale: scale.view_mut(),
                growth_tracker: tracker.view_mut(),
                found_inf: found.view_mut(),
                growth_factor: 2.0,
                backoff_factor: 0.5,
                growth_interval: 2,
            };
            CpuBackend.update_scale(args.checked().unwrap()).unwrap();
            assert_eq!(found.values(), [0.0], "the next step begins anew");
            (scale.values()[0], tracker.values()[0])
        };
        let got = [0.0, 0.0, 0.0, 1.0, 1.0, 0.0].map(|inf| update(None, inf));
        assert_eq!(got, [(3.0, 1.0), (6.0, 0.0), (6.0, 1.0), (3.0, 0.0), (1.5, 0.0), (1.5, 1.0)]);
        // It does not grow beyond what f32 holds.
        assert_eq!(update(Some(3e38), 0.0), (f64::from(3e38f32), 0.0));
    }
}
