//! `optimizer_step`: the update rules ([`rules`]), each fused to one pass over memory.
//!
//! A group often has many small parameters (biases, norms), so all of them share one parallel region that is
//! cut by elements, not by tensors.

mod rules;

use std::ops::Range;

use kiln_backend::{Error, FillBackend, OptimBackend, OptimRule, OptimSlot, Result, Scalar, View, ViewMut};

use crate::{
    CpuBackend,
    engine::{par, simd::multiversion},
    memory::view::{Source, Target, same_shape},
    numeric::{dispatch::for_float, real::Real, stored::Stored},
};
use rules::{Adagrad, Adam, Gradient, RmsProp, Sgd, Update};

const OP: &str = "optimizer step";

/// An element of a step costs about this many additions.
const COST: usize = 4;

/// Elements that are updated together.
const TILE: usize = 32;

/// One parameter's step, ready to run on any range of its elements.
type Job<'a> = Box<dyn Fn(Range<usize>) + Sync + 'a>;

impl OptimBackend for CpuBackend {
    fn optimizer_step(&self, rule: &OptimRule, lr: View, slots: &mut [OptimSlot]) -> Result<()> {
        let lr = number::<f64>(lr)?;
        // What the counts will be.
        let counted = |slot: &OptimSlot| {
            let count = View { buffer: &*slot.count.buffer, layout: slot.count.layout };
            number::<i64>(count).map(|count| count.saturating_add(1))
        };
        let counts: Vec<i64> = slots.iter().map(counted).collect::<Result<_>>()?;
        // Where each job ends when all elements of the group are numbered through.
        let mut jobs: Vec<(usize, Job)> = Vec::with_capacity(slots.len());
        let mut total = 0;
        for (slot, &count) in slots.iter_mut().zip(&counts) {
            let len = slot.param.layout.numel();
            if slot.states.len() != rule.states() {
                return Err(Error::argument(OP, format!("{} states, {rule:?} has others", slot.states.len())));
            }
            if len > 0 {
                total += len;
                let job = for_float!(OP, slot.param.dtype(), T => job::<T>(rule, lr, count, slot))?;
                jobs.push((total, job));
            }
        }
        par::ranges(total, par::GRAIN / COST, |range| {
            let mut start = range.start;
            let mut next = jobs.partition_point(|&(end, _)| end <= start);
            while start < range.end {
                let (job_end, job) = &jobs[next];
                let job_start = next.checked_sub(1).map_or(0, |before| jobs[before].0);
                let end = range.end.min(*job_end);
                job(start - job_start..end - job_start);
                (start, next) = (end, next + 1);
            }
        });
        drop(jobs);
        for (slot, count) in slots.iter_mut().zip(counts) {
            let view = ViewMut { buffer: &mut *slot.count.buffer, layout: slot.count.layout };
            CpuBackend.fill(Scalar::Int(count), view)?;
        }
        Ok(())
    }
}

/// The one number of a tensor.
fn number<T: Stored>(view: View) -> Result<T> {
    let source = Source::<T>::new(OP, view)?;
    match source.slice() {
        Some(&[one]) => Ok(one),
        _ => Err(Error::shape(OP, "one number", view.layout.shape())),
    }
}

/// Binds a rule, with its scalars computed in `f64` as Python does, to the memory of one parameter.
fn job<'a, T: Stored<Compute: Real>>(
    rule: &OptimRule,
    lr: f64,
    count: i64,
    slot: &'a mut OptimSlot,
) -> Result<Job<'a>> {
    let step = count as f64;
    match *rule {
        OptimRule::Sgd { momentum, dampening, nesterov, weight_decay, maximize } => {
            let gradient = Gradient::new(weight_decay, maximize);
            let sgd = Sgd::new(lr, momentum, dampening, nesterov, count <= 1);
            if momentum == 0.0 { bind::<T, _, 0>(gradient, sgd, slot) } else { bind::<T, _, 1>(gradient, sgd, slot) }
        }
        OptimRule::Adam { beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize } => {
            let gradient = Gradient::new(if decoupled { 0.0 } else { weight_decay }, maximize);
            let shrink = if decoupled { 1.0 - lr * weight_decay } else { 1.0 };
            let adam = Adam::new(lr, beta1, beta2, eps, shrink, step);
            if amsgrad { bind::<T, _, 3>(gradient, adam, slot) } else { bind::<T, _, 2>(gradient, adam, slot) }
        }
        OptimRule::RmsProp { alpha, eps, weight_decay, momentum, centered, maximize } => {
            let gradient = Gradient::new(weight_decay, maximize);
            let rms = RmsProp::new(lr, alpha, eps, momentum, centered);
            match rule.states() {
                1 => bind::<T, _, 1>(gradient, rms, slot),
                2 => bind::<T, _, 2>(gradient, rms, slot),
                _ => bind::<T, _, 3>(gradient, rms, slot),
            }
        }
        OptimRule::Adagrad { lr_decay, weight_decay, eps, maximize } => {
            let gradient = Gradient::new(weight_decay, maximize);
            bind::<T, _, 1>(gradient, Adagrad::new(lr, lr_decay, eps, step), slot)
        }
    }
}

/// The memory of one parameter: a contiguous tensor, its gradient and its states.
struct Memory<'a, T, const N: usize> {
    param: Target<'a, T>,
    grad: Source<'a, T>,
    states: [Target<'a, T>; N],
}

impl<T: Stored, const N: usize> Memory<'_, T, N> {
    /// The elements of a range.
    ///
    /// # Safety
    /// The range is inside `0..numel`, and no two overlapping ranges are in use at a time.
    #[allow(clippy::mut_from_ref)] // the contract above
    unsafe fn part(&self, range: Range<usize>) -> (&mut [T], &[T], [&mut [T]; N]) {
        // SAFETY: `bind` checked that each tensor is contiguous with `numel` elements, from its pointer on; the
        // caller promises the rest.
        unsafe {
            let of = |target: &Target<T>| std::slice::from_raw_parts_mut(target.ptr().add(range.start), range.len());
            let grad = std::slice::from_raw_parts(self.grad.ptr().add(range.start), range.len());
            (of(&self.param), grad, std::array::from_fn(|k| of(&self.states[k])))
        }
    }
}

fn bind<'a, T, U, const N: usize>(gradient: Gradient<T::Compute>, update: U, slot: &'a mut OptimSlot) -> Result<Job<'a>>
where
    T: Stored<Compute: Real>,
    U: Update<T::Compute, N> + 'a,
{
    let mut states = slot.states.iter_mut();
    let memory = Memory::<T, N> {
        param: target(&mut slot.param)?,
        grad: source(slot.grad)?,
        states: array(|| states.next().map_or_else(|| Err(missing()), target))?,
    };
    for layout in memory.states.iter().map(Target::layout).chain([memory.grad.layout()]) {
        same_shape(OP, &[memory.param.layout(), layout])?;
    }
    Ok(Box::new(move |range| {
        // SAFETY: `optimizer_step` runs a job on disjoint ranges inside its length.
        let (param, grad, states) = unsafe { memory.part(range) };
        apply(&gradient, &update, param, grad, states);
    }))
}

fn source<'a, T: Stored>(view: View<'a>) -> Result<Source<'a, T>> {
    if view.layout.is_contiguous() { Source::new(OP, view) } else { Err(strided()) }
}

fn target<'a, T: Stored>(view: &'a mut ViewMut) -> Result<Target<'a, T>> {
    let view = ViewMut { buffer: &mut *view.buffer, layout: view.layout };
    if view.layout.is_contiguous() { Target::new(OP, view) } else { Err(strided()) }
}

/// `N` values, or the first error.
fn array<X, const N: usize>(mut make: impl FnMut() -> Result<X>) -> Result<[X; N]> {
    let all: Vec<X> = (0..N).map(|_| make()).collect::<Result<_>>()?;
    all.try_into().map_err(|_| missing())
}

fn missing() -> Error {
    Error::argument(OP, "a state tensor is missing")
}

fn strided() -> Error {
    Error::argument(OP, "parameters, gradients and states must be contiguous")
}

multiversion! {
    /// Updates the elements of a range.
    fn apply[T: Stored, U: Update<T::Compute, N>, const N: usize](
        gradient: &Gradient<T::Compute>,
        update: &U,
        param: &mut [T],
        grad: &[T],
        states: [&mut [T]; N],
    ) where [T::Compute: Real] {
        let zero = <T as bytemuck::Zeroable>::zeroed();
        let mut states = states;
        let whole = param.len() - param.len() % TILE;
        let mut start = 0;
        while start < whole {
            let (mut p, mut g, mut s) = ([zero; TILE], [zero; TILE], [[zero; TILE]; N]);
            p.copy_from_slice(&param[start..start + TILE]);
            g.copy_from_slice(&grad[start..start + TILE]);
            for (tile, state) in s.iter_mut().zip(&states) {
                tile.copy_from_slice(&state[start..start + TILE]);
            }
            apply_tile(gradient, update, &mut p, &g, &mut s);
            param[start..start + TILE].copy_from_slice(&p);
            for (tile, state) in s.iter().zip(&mut states) {
                state[start..start + TILE].copy_from_slice(tile);
            }
            start += TILE;
        }
        // The rest, filled up with zeros.
        let rest = param.len() - whole;
        if rest > 0 {
            let (mut p, mut g, mut s) = ([zero; TILE], [zero; TILE], [[zero; TILE]; N]);
            p[..rest].copy_from_slice(&param[whole..]);
            g[..rest].copy_from_slice(&grad[whole..]);
            for (tile, state) in s.iter_mut().zip(&states) {
                tile[..rest].copy_from_slice(&state[whole..]);
            }
            apply_tile(gradient, update, &mut p, &g, &mut s);
            param[whole..].copy_from_slice(&p[..rest]);
            for (tile, state) in s.iter().zip(&mut states) {
                state[whole..].copy_from_slice(&tile[..rest]);
            }
        }
    }
}

/// Updates a tile. Its size is fixed and its arrays are known not to overlap, so that all of it becomes vector
/// code in registers.
#[inline(always)]
fn apply_tile<T: Stored<Compute: Real>, U: Update<T::Compute, N>, const N: usize>(
    gradient: &Gradient<T::Compute>,
    update: &U,
    p: &mut [T; TILE],
    g: &[T; TILE],
    s: &mut [[T; TILE]; N],
) {
    for i in 0..TILE {
        let mut states = [<T::Compute as bytemuck::Zeroable>::zeroed(); N];
        for k in 0..N {
            states[k] = s[k][i].load();
        }
        let param = p[i].load();
        let grad = gradient.of(param, g[i].load());
        p[i] = T::store(update.update(param, grad, &mut states));
        for k in 0..N {
            s[k][i] = T::store(states[k]);
        }
    }
}

#[cfg(test)]
mod tests;
