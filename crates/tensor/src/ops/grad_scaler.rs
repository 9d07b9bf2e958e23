//! `unscale_grads` and `update_scale`: what a gradient scaler does on the device, without waiting for it.

use kiln_backend::{Arguments, DType, Error, Result, UnscaleGradsArgs, UpdateScaleArgs, View, ViewMut};
use kiln_derive::located;

use super::{
    check,
    lock::{Guard, lock_all},
};
use crate::{autograd::no_grad, tensor::Tensor};

const UNSCALE: &str = "unscale_grads";
const UPDATE: &str = "update_scale";

/// Divides gradients by `scale` in place, or only looks at them if there is none, and sets `found_inf` to 1 if one of
/// them has an element that is infinite or NaN; otherwise `found_inf` stays what it is. Both are one `f32` on the
/// device of the gradients. As `torch._amp_foreach_non_finite_check_and_unscale_`, in one launch for up to 254
/// gradients of a dtype.
///
/// # Errors
/// If a gradient is not floating-point, or a tensor is on another device or not as described.
#[located(site)]
pub fn unscale_grads(grads: &[Tensor], scale: Option<&Tensor>, found_inf: &Tensor) -> Result<()> {
    one_number(UNSCALE, DType::F32, found_inf)?;
    scale.map_or(Ok(()), |scale| one_number(UNSCALE, DType::F32, scale))?;
    for tensor in grads.iter().chain(scale) {
        check::floats(UNSCALE, tensor)?;
        check::same_device(UNSCALE, found_inf, &[tensor])?;
    }
    // Gradients with gaps, or that share memory with others, one after another.
    let mut whole: Vec<&Tensor> = Vec::with_capacity(grads.len());
    for grad in grads {
        let is_apart = |other: &&Tensor| !other.shares_memory(grad);
        let is_apart = whole.iter().all(is_apart) && !grad.shares_memory(found_inf);
        if grad.is_contiguous() && is_apart && scale.is_none_or(|scale| !scale.shares_memory(grad)) {
            whole.push(grad);
        } else {
            no_grad(|| {
                let copy = grad.copy()?;
                unscale_distinct(&[&copy], scale, found_inf)?;
                if scale.is_some() { grad.copy_(&copy) } else { Ok(()) }
            })?;
        }
    }
    unscale_distinct(&whole, scale, found_inf)
}

/// For gradients that share memory with nothing else here.
fn unscale_distinct(grads: &[&Tensor], scale: Option<&Tensor>, found_inf: &Tensor) -> Result<()> {
    let scale = scale.map(|scale| apart(scale, found_inf)).transpose()?;
    let mut wanted: Vec<(&Tensor, bool)> = Vec::with_capacity(grads.len() + 2);
    wanted.extend(scale.iter().map(|scale| (scale, false)));
    wanted.push((found_inf, true));
    wanted.extend(grads.iter().map(|grad| (*grad, true)));
    let mut guards = lock_all(&wanted);
    let mut scale_view = None;
    let mut written = Vec::with_capacity(grads.len() + 1);
    for ((tensor, _), guard) in wanted.iter().zip(&mut guards) {
        match guard {
            Guard::Read(read) => scale_view = Some(View { buffer: &***read, layout: tensor.layout() }),
            Guard::Write(write) => written.push(ViewMut { buffer: &mut ***write, layout: tensor.layout() }),
        }
    }
    let mut written = written.into_iter();
    let Some(flag) = written.next() else { return Ok(()) };
    let args = UnscaleGradsArgs { grads: written.collect(), scale: scale_view, found_inf: flag };
    found_inf.0.storage.backend.unscale_grads(args.checked()?)?;
    drop(guards);
    if scale.is_some() {
        grads.iter().for_each(|grad| grad.0.storage.bump_version());
    }
    found_inf.0.storage.bump_version();
    Ok(())
}

/// A number in other memory than what is written.
fn apart(number: &Tensor, written: &Tensor) -> Result<Tensor> {
    if number.shares_memory(written) { no_grad(|| number.copy()) } else { Ok(number.clone()) }
}

/// How a scale moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScaleGrowth {
    /// What it is multiplied by after `growth_interval` steps without infinities, unless the result is infinite.
    pub growth_factor: f64,
    /// What it is multiplied by after a step with infinities.
    pub backoff_factor: f64,
    /// The number of steps without infinities after which it grows.
    pub growth_interval: i32,
}

/// Moves a scale (one `f32`) after a step by `found_inf` (one `f32`), counts steps without infinities in
/// `growth_tracker` (one `i32`), and sets `found_inf` to 0. As `torch._amp_update_scale_`, in one launch.
///
/// # Errors
/// If a tensor is on another device or not as described, or the growth is not finite.
#[located(site)]
pub fn update_scale(scale: &Tensor, growth_tracker: &Tensor, found_inf: &Tensor, growth: &ScaleGrowth) -> Result<()> {
    one_number(UPDATE, DType::F32, scale)?;
    one_number(UPDATE, DType::I32, growth_tracker)?;
    one_number(UPDATE, DType::F32, found_inf)?;
    check::same_device(UPDATE, scale, &[growth_tracker, found_inf])?;
    let all = [scale, growth_tracker, found_inf];
    if (1..3).any(|i| all[..i].iter().any(|other| other.shares_memory(all[i]))) {
        return Err(Error::argument(UPDATE, "the scale, its count and the flag must not share memory"));
    }
    let wanted = all.map(|tensor| (tensor, true));
    let mut guards = lock_all(&wanted);
    let mut written = wanted.iter().zip(&mut guards).filter_map(|((tensor, _), guard)| match guard {
        Guard::Write(write) => Some(ViewMut { buffer: &mut ***write, layout: tensor.layout() }),
        Guard::Read(_) => None,
    });
    let (Some(to), Some(count), Some(flag)) = (written.next(), written.next(), written.next()) else { return Ok(()) };
    let ScaleGrowth { growth_factor, backoff_factor, growth_interval } = *growth;
    let args = UpdateScaleArgs {
        scale: to,
        growth_tracker: count,
        found_inf: flag,
        growth_factor,
        backoff_factor,
        growth_interval,
    };
    scale.0.storage.backend.update_scale(args.checked()?)?;
    drop(written);
    drop(guards);
    all.iter().for_each(|tensor| tensor.0.storage.bump_version());
    Ok(())
}

fn one_number(op: &'static str, dtype: DType, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() != dtype {
        return Err(Error::dtypes(op, dtype, tensor.dtype()));
    }
    if tensor.numel() == 1 { Ok(()) } else { Err(Error::shape(op, "one number", tensor.shape())) }
}
