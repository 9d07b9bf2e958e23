//! `optimizer_step`: an optimizer's step for all parameters of a group, in one primitive.

use std::collections::HashSet;

use kiln_backend::{Arguments, DType, Error, OptimArgs, OptimRule, OptimSlot, Result, View, ViewMut};
use kiln_derive::located;
use parking_lot::{RwLockReadGuard, RwLockWriteGuard};

use super::check;
use crate::{autograd::no_grad, tensor::Tensor};

const OP: &str = "optimizer_step";

/// A parameter with the tensors that an optimizer step needs.
#[derive(Clone, Copy, Debug)]
pub struct OptimTensors<'a> {
    /// The parameter, changed in place (autograd's rules for leaves do not apply: this is the update).
    pub param: &'a Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// [`OptimRule::states`] tensors of its shape and dtype, changed in place.
    pub states: &'a [Tensor],
    /// How many steps it has had: one `i64` on its device, which the step increments.
    pub count: &'a Tensor,
}

impl<'a> OptimTensors<'a> {
    /// The tensors that a step writes.
    fn written(&self) -> impl Iterator<Item = &'a Tensor> + use<'a> {
        [self.param, self.count].into_iter().chain(self.states)
    }
}

/// Updates all parameters by one rule with the learning rate `lr`, a tensor of one `f64` on their device.
///
/// All values that change from step to step (the learning rate, the counts) are in device memory, so that a GPU gets
/// the same launches each time.
///
/// # Errors
/// If a gradient or state does not have its parameter's shape, dtype and device, a count or the learning rate is not as
/// described, or parameters are on different devices. Nothing has been changed then.
#[located(site)]
pub fn optimizer_step(rule: &OptimRule, lr: &Tensor, slots: &[OptimTensors<'_>]) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    one_number(lr, DType::F64, "learning rates are one number")?;
    for slot in slots {
        let param = slot.param;
        check::floats(OP, param)?;
        check::same_device(OP, first.param, &[param, slot.count, lr])?;
        one_number(slot.count, DType::I64, "counts of steps are one number")?;
        if slot.states.len() != rule.states() {
            return Err(Error::argument(OP, format!("{} states for {rule:?}", slot.states.len())));
        }
        for other in std::iter::once(slot.grad).chain(slot.states) {
            check::same_kind(OP, param, &[other])?;
            if other.shape() != param.shape() {
                let expected = "a gradient or state has its parameter's shape";
                return Err(Error::shapes(OP, param.shape(), other.shape(), expected));
            }
        }
    }
    // Memory is locked for the whole step, so each storage may be written by one parameter only; others wait for a
    // later call.
    let (mut now, mut later, mut taken) = (Vec::new(), Vec::new(), HashSet::new());
    for slot in slots {
        let own: HashSet<usize> = slot.written().map(address).collect();
        let plain = slot.written().all(Tensor::is_contiguous) && own.len() == 2 + slot.states.len();
        if !plain {
            step_on_copies(rule, lr, slot)?;
        } else if own.is_disjoint(&taken) {
            taken.extend(own);
            now.push(*slot);
        } else {
            later.push(*slot);
        }
    }
    step_distinct(rule, lr, &now, &taken)?;
    later.iter().try_for_each(|slot| optimizer_step(rule, lr, &[*slot]))
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
fn step_on_copies(rule: &OptimRule, lr: &Tensor, slot: &OptimTensors<'_>) -> Result<()> {
    no_grad(|| {
        let param = slot.param.copy()?;
        let states: Vec<Tensor> = slot.states.iter().map(Tensor::copy).collect::<Result<_>>()?;
        let count = slot.count.copy()?;
        let copies = OptimTensors { param: &param, grad: slot.grad, states: &states, count: &count };
        optimizer_step(rule, lr, &[copies])?;
        slot.param.copy_(&param)?;
        slot.count.copy_(&count)?;
        slot.states.iter().zip(&states).try_for_each(|(state, copy)| state.copy_(copy))
    })
}

type Memory = Box<dyn kiln_backend::Buffer>;

enum Guard<'a> {
    Read(RwLockReadGuard<'a, Memory>),
    Write(RwLockWriteGuard<'a, Memory>),
}

/// Locks all or none: while it waits for one lock it holds no other, so it cannot deadlock with a thread that reads two
/// parameters in any order.
fn lock_all<'a>(wanted: &[(&'a Tensor, bool)]) -> Vec<Guard<'a>> {
    loop {
        let try_lock = |&(tensor, write): &(&'a Tensor, bool)| {
            let storage = &tensor.0.storage;
            let guard = if write { storage.try_write().map(Guard::Write) } else { storage.try_read().map(Guard::Read) };
            guard.ok_or((tensor, write))
        };
        match wanted.iter().map(try_lock).collect() {
            Ok(guards) => return guards,
            Err((busy, true)) => drop(busy.0.storage.write()),
            Err((busy, false)) => drop(busy.0.storage.read()),
        }
    }
}

fn step_distinct(rule: &OptimRule, lr: &Tensor, slots: &[OptimTensors<'_>], written: &HashSet<usize>) -> Result<()> {
    let Some(first) = slots.first() else { return Ok(()) };
    let backend = first.param.0.storage.backend;
    let own = |slot: &OptimTensors<'_>| {
        no_grad(|| if written.contains(&address(slot.grad)) { slot.grad.copy() } else { slot.grad.contiguous() })
    };
    let grads: Vec<Tensor> = slots.iter().map(own).collect::<Result<_>>()?;
    // A learning rate in memory that is also written could not be locked.
    let lr = if written.contains(&address(lr)) { no_grad(|| lr.copy())? } else { lr.clone() };
    let mut wanted: Vec<(&Tensor, bool)> = Vec::with_capacity(slots.len() * 4 + 1);
    wanted.push((&lr, false));
    for (slot, grad) in slots.iter().zip(&grads) {
        wanted.push((grad, false));
        wanted.extend(slot.written().map(|t| (t, true)));
    }
    let mut guards = lock_all(&wanted);
    let mut entries = wanted.iter().zip(&mut guards);
    let mut work: Vec<OptimSlot<'_>> = Vec::with_capacity(slots.len());
    let Some((lr, Guard::Read(rate))) = entries.next() else { return Ok(()) };
    let lr = View { buffer: &***rate, layout: lr.0.layout() };
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
        work.push(OptimSlot {
            param: ViewMut { buffer: &mut ***write, layout: param.0.layout() },
            grad: View { buffer: &***read, layout: grad.0.layout() },
            states: states.collect(),
            count: ViewMut { buffer: &mut ***count_write, layout: count.0.layout() },
        });
    }
    backend.optimizer_step(OptimArgs { rule: *rule, lr, slots: work }.checked()?)?;
    drop(guards);
    slots.iter().flat_map(OptimTensors::written).for_each(|t| t.0.storage.bump_version());
    Ok(())
}
