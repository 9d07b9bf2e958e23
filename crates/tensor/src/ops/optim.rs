//! `optimizer_step`: an optimizer's step for all parameters of a group, in one primitive.

use std::collections::HashSet;

use kiln_backend::{Arguments, DType, Error, OptimArgs, OptimRule, OptimScaling, OptimSlot, Result, View, ViewMut};
use kiln_derive::located;

use super::{
    check,
    lock::{Guard, lock_all},
};
use crate::{
    autocast::{after_step, for_step},
    autograd::no_grad,
    tensor::Tensor,
};

const OP: &str = "optimizer_step";

/// A parameter with the tensors that an optimizer step needs.
#[derive(Clone, Copy, Debug)]
pub struct OptimTensors<'a> {
    /// The parameter, changed in place (autograd's rules for leaves do not apply: this is the update).
    pub param: &'a Tensor,
    /// Its gradient: of its dtype, or in half precision for a parameter in `f32`.
    pub grad: &'a Tensor,
    /// [`OptimRule::states`] tensors of its shape and dtype, changed in place.
    pub states: &'a [Tensor],
    /// How many steps it has had: one `i64` on its device, which the step increments.
    pub count: &'a Tensor,
    /// What receives the new parameter rounded to half precision, for a parameter in `f32`.
    pub low: Option<&'a Tensor>,
}

/// What a gradient scaler has to say about a step. Both are one `f32` on the device of the parameters.
#[derive(Clone, Copy, Debug)]
pub struct GradScaling<'a> {
    /// Unless it is 0, the step is skipped: nothing changes, not even counts.
    pub found_inf: &'a Tensor,
    /// What gradients are divided by; `None` if that has been done.
    pub scale: Option<&'a Tensor>,
}

impl<'a> OptimTensors<'a> {
    /// The tensors that a step writes.
    fn written(&self) -> impl Iterator<Item = &'a Tensor> + use<'a> {
        [self.param, self.count].into_iter().chain(self.states).chain(self.low)
    }
}

/// Updates all parameters by one rule with the learning rate `lr`, a tensor of one `f64` on their device.
///
/// All values that change from step to step (the learning rate, the counts, the scale of gradients, whether the step is
/// skipped) are in device memory, so that a GPU gets the same launches each time.
///
/// # Errors
/// If a gradient or state does not have its parameter's shape, dtype and device, a count, the learning rate or the scaling is
/// not as described, or parameters are on different devices. Nothing has been changed then.
#[located(site)]
pub fn optimizer_step(
    rule: &OptimRule,
    lr: &Tensor,
    scaling: Option<GradScaling<'_>>,
    slots: &[OptimTensors<'_>],
) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    one_number(lr, DType::F64, "learning rates are one number")?;
    for number in scaling.iter().flat_map(|scaling| [Some(scaling.found_inf), scaling.scale]).flatten() {
        one_number(number, DType::F32, "scales and flags are one number")?;
        check::same_device(OP, first.param, &[number])?;
    }
    for slot in slots {
        let param = slot.param;
        check::floats(OP, param)?;
        check::same_device(OP, first.param, &[param, slot.count, lr])?;
        one_number(slot.count, DType::I64, "counts of steps are one number")?;
        if slot.states.len() != rule.states() {
            return Err(Error::argument(OP, format!("{} states for {rule:?}", slot.states.len())));
        }
        for (other, may_be_low) in [(slot.grad, true)]
            .into_iter()
            .chain(slot.low.map(|low| (low, true)))
            .chain(slot.states.iter().map(|t| (t, false)))
        {
            check::same_device(OP, param, &[other])?;
            let is_low = may_be_low && param.dtype() == DType::F32 && other.dtype().is_half();
            if !is_low && other.dtype() != param.dtype() {
                return Err(Error::dtypes(OP, param.dtype(), other.dtype()));
            }
            if other.shape() != param.shape() {
                let expected = "a gradient, state or copy has its parameter's shape";
                return Err(Error::shapes(OP, param.shape(), other.shape(), expected));
            }
        }
    }
    with_low_copies(rule, lr, scaling, slots)
}

/// The step also writes the copies in half precision that autocast keeps of the parameters.
fn with_low_copies(
    rule: &OptimRule,
    lr: &Tensor,
    scaling: Option<GradScaling<'_>>,
    slots: &[OptimTensors<'_>],
) -> Result<()> {
    let copy = |slot: &OptimTensors<'_>| {
        if slot.low.is_some() { Ok(None) } else { for_step(slot.param, scaling.is_some()) }
    };
    let copies = slots.iter().map(copy).collect::<Result<Vec<_>>>()?;
    if copies.iter().all(Option::is_none) {
        return step_checked(rule, lr, scaling, slots);
    }
    let with = slots.iter().zip(&copies).map(|(slot, copy)| OptimTensors { low: slot.low.or(copy.as_ref()), ..*slot });
    let with = with.collect::<Vec<_>>();
    let versions: Vec<u32> = slots.iter().map(|slot| slot.param.version()).collect();
    let result = step_checked(rule, lr, scaling, &with);
    for ((slot, copy), version) in slots.iter().zip(&copies).zip(versions) {
        if copy.is_some() {
            // Memory that several parameters share has changed more than once.
            after_step(slot.param, result.is_ok() && slot.param.version() == version.wrapping_add(1));
        }
    }
    result
}

/// Parameters, states and copies in one order of memory, channels-last, are contiguous to the kernels in that order.
fn step_checked(
    rule: &OptimRule,
    lr: &Tensor,
    scaling: Option<GradScaling<'_>>,
    slots: &[OptimTensors<'_>],
) -> Result<()> {
    let is_last = |slot: &OptimTensors<'_>| {
        [slot.param].into_iter().chain(slot.states).chain(slot.low).all(Tensor::is_channels_last)
    };
    if !slots.iter().any(is_last) {
        return step_in_order(rule, lr, scaling, slots);
    }
    let order = |t: &Tensor| t.permute([0, 2, 3, 1]);
    let ordered = |slot: &OptimTensors<'_>| {
        let states = slot.states.iter().map(order).collect::<Result<Vec<_>>>()?;
        Ok((order(slot.param)?, order(slot.grad)?, states, slot.low.map(order).transpose()?))
    };
    let views = no_grad(|| {
        let each = slots.iter().map(|slot| is_last(slot).then(|| ordered(slot)).transpose());
        each.collect::<Result<Vec<_>>>()
    })?;
    let slots = slots.iter().zip(&views).map(|(slot, view)| match view {
        Some((param, grad, states, low)) => OptimTensors { param, grad, states, low: low.as_ref(), ..*slot },
        None => *slot,
    });
    step_in_order(rule, lr, scaling, &slots.collect::<Vec<_>>())
}

fn step_in_order(
    rule: &OptimRule,
    lr: &Tensor,
    scaling: Option<GradScaling<'_>>,
    slots: &[OptimTensors<'_>],
) -> Result<()> {
    // Memory is locked for the whole step, so each storage may be written by one parameter only; others wait for a
    // later call.
    let (mut now, mut later, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
    for slot in slots {
        let own: HashSet<usize> = slot.written().map(address).collect();
        let plain = slot.written().all(Tensor::is_contiguous) && own.len() == slot.written().count();
        if !plain {
            step_on_copies(rule, lr, scaling, slot)?;
        } else if own.is_disjoint(&taken) {
            taken.extend(own);
            now.push(*slot);
        } else {
            later.push(*slot);
        }
    }
    step_distinct(rule, lr, scaling, &now, &taken)?;
    later.iter().try_for_each(|slot| step_in_order(rule, lr, scaling, &[*slot]))
}

fn one_number(tensor: &Tensor, dtype: DType, what: &'static str) -> Result<()> {
    if tensor.dtype() != dtype {
        return Err(Error::dtypes(OP, dtype, tensor.dtype()));
    }
    if tensor.numel() == 1 { Ok(()) } else { Err(Error::shape(OP, what, tensor.shape())) }
}

fn address(tensor: &Tensor) -> usize {
    std::sync::Arc::as_ptr(&tensor.0.storage) as usize
}

/// For views with gaps, and for states that share memory.
fn step_on_copies(
    rule: &OptimRule,
    lr: &Tensor,
    scaling: Option<GradScaling<'_>>,
    slot: &OptimTensors<'_>,
) -> Result<()> {
    no_grad(|| {
        let param = slot.param.copy()?;
        let states: Vec<Tensor> = slot.states.iter().map(Tensor::copy).collect::<Result<_>>()?;
        let count = slot.count.copy()?;
        let copies = OptimTensors { param: &param, grad: slot.grad, states: &states, count: &count, low: None };
        optimizer_step(rule, lr, scaling, &[copies])?;
        slot.param.copy_(&param)?;
        slot.low.map_or(Ok(()), |low| low.copy_(&param))?;
        slot.count.copy_(&count)?;
        slot.states.iter().zip(&states).try_for_each(|(state, copy)| state.copy_(copy))
    })
}

fn step_distinct(
    rule: &OptimRule,
    lr: &Tensor,
    scaling: Option<GradScaling<'_>>,
    slots: &[OptimTensors<'_>],
    written: &HashSet<usize>,
) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    let backend = first.param.0.storage.backend;
    let own = |slot: &OptimTensors<'_>| {
        no_grad(|| if written.contains(&address(slot.grad)) { slot.grad.copy() } else { slot.grad.contiguous() })
    };
    let grads: Vec<Tensor> = slots.iter().map(own).collect::<Result<_>>()?;
    // A learning rate in memory that is also written could not be locked.
    let apart = |number: &Tensor| {
        if written.contains(&address(number)) { no_grad(|| number.copy()) } else { Ok(number.clone()) }
    };
    let lr = apart(lr)?;
    let found_inf = scaling.map(|scaling| apart(scaling.found_inf)).transpose()?;
    let scale = scaling.and_then(|scaling| scaling.scale).map(apart).transpose()?;
    let mut wanted: Vec<(&Tensor, bool)> = Vec::with_capacity(slots.len() * 4 + 3);
    wanted.push((&lr, false));
    wanted.extend(found_inf.iter().chain(&scale).map(|number| (number, false)));
    for (slot, grad) in slots.iter().zip(&grads) {
        wanted.push((grad, false));
        wanted.extend(slot.written().map(|t| (t, true)));
    }
    let mut guards = lock_all(&wanted);
    let mut entries = wanted.iter().zip(&mut guards);
    let mut work: Vec<OptimSlot<'_>> = Vec::with_capacity(slots.len());
    let mut number = || match entries.next() {
        Some(((number, _), Guard::Read(read))) => Some(View { buffer: &***read, layout: number.layout() }),
        _ => None,
    };
    let Some(lr) = number() else { return Ok(()) };
    let found_inf = found_inf.as_ref().and_then(|_| number());
    let scale = scale.as_ref().and_then(|_| number());
    let scaling = found_inf.map(|found_inf| OptimScaling { found_inf, scale });
    for slot in slots {
        let (
            Some((grad, Guard::Read(read))),
            Some((param, Guard::Write(write))),
            Some((count, Guard::Write(count_write))),
        ) = (entries.next(), entries.next(), entries.next())
        else {
            break;
        };
        let states = entries.by_ref().take(slot.states.len()).filter_map(|((t, _), guard)| match guard {
            Guard::Write(write) => Some(ViewMut { buffer: &mut ***write, layout: t.layout() }),
            Guard::Read(_) => None,
        });
        let states = states.collect();
        let low = slot.low.and_then(|_| match entries.next() {
            Some(((low, _), Guard::Write(write))) => Some(ViewMut { buffer: &mut ***write, layout: low.layout() }),
            _ => None,
        });
        work.push(OptimSlot {
            param: ViewMut { buffer: &mut ***write, layout: param.0.layout() },
            grad: View { buffer: &***read, layout: grad.0.layout() },
            states,
            low,
            count: ViewMut { buffer: &mut ***count_write, layout: count.0.layout() },
        });
    }
    backend.optimizer_step(OptimArgs { rule: *rule, lr, scaling, slots: work }.checked()?)?;
    drop(guards);
    slots.iter().flat_map(OptimTensors::written).for_each(|t| t.0.storage.bump_version());
    Ok(())
}
