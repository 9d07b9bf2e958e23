//! `optimizer_step`: the update rules ([`rules`]), each fused into one pass over memory.
//!
//! A group often has many small parameters (biases, norms), so all of them share one parallel region that is
//! cut by elements, not by tensors.

mod rules;

use std::ops::Range;

use kiln_backend::{
    Checked, DType, Error, FillBackend, OptimArgs, OptimBackend, OptimRule, OptimScaling, OptimSlot, Result, Scalar,
    View, ViewMut,
};

use crate::{
    device::CpuBackend,
    engine::{
        par,
        simd::multiversion,
        tile::{load, steps, store},
    },
    memory::view::{Source, Target},
    numeric::{
        dispatch::{for_float, for_half},
        real::Real,
        stored::Stored,
    },
};
use rules::{Adagrad, Adam, Gradient, RmsProp, Sgd, Update};

const OP: &str = "optimizer_step";

/// The update of one element costs about this many additions.
const COST: usize = 4;

/// Elements that are updated together.
const TILE: usize = 32;

/// Elements of half precision that are converted to `f32` together.
const STAGE: usize = 512;

/// The most states that any rule has.
const MOST_STATES: usize = 3;

/// One parameter's step, ready to run on any range of its elements.
type Job<'a> = Box<dyn Fn(Range<usize>) + Sync + 'a>;

impl OptimBackend for CpuBackend {
    fn optimizer_step(&self, args: Checked<OptimArgs>) -> Result<()> {
        let OptimArgs { rule, lr, scaling, mut slots } = args.into_inner();
        let lr = number::<f64>(OP, lr)?;
        let mut factor = 1.0;
        if let Some(OptimScaling { found_inf, scale }) = scaling {
            if number::<f32>(OP, found_inf)? != 0.0 {
                return Ok(());
            }
            factor = scale.map_or(Ok(factor), |scale| number::<f32>(OP, scale).map(|scale| 1.0 / f64::from(scale)))?;
        }
        // The step counts after this step.
        let counted = |slot: &OptimSlot| number::<i64>(OP, slot.count.as_view()).map(|count| count.saturating_add(1));
        let counts: Vec<i64> = slots.iter().map(counted).collect::<Result<_>>()?;
        // Each job with the end of its elements when all elements of the group are numbered consecutively.
        let mut jobs: Vec<(usize, Job)> = Vec::with_capacity(slots.len());
        let mut total = 0;
        for (slot, &count) in slots.iter_mut().zip(&counts) {
            let len = slot.param.layout.numel();
            if len > 0 {
                total += len;
                let step = Rates { rule: &rule, lr, factor, count };
                let half = slot.grad.dtype();
                let job = if half == slot.param.dtype() {
                    for_float!(OP, slot.param.dtype(), T => job::<T, T>(&step, slot))?
                } else {
                    for_half!(half, G => job::<f32, G>(&step, slot), other => Err(Error::dtypes(OP, slot.param.dtype(), other)))?
                };
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
            CpuBackend.fill(Scalar::Int(count), slot.count.reborrow())?;
        }
        Ok(())
    }
}

/// The value of a one-element tensor.
pub(super) fn number<T: Stored>(op: &'static str, view: View) -> Result<T> {
    // SAFETY: the one element of a checked view.
    Ok(unsafe { Source::<T>::new(op, view)?.ptr().read() })
}

/// Updates some elements: the parameter, its gradient and its states, one slice each.
type Step<C> = Box<dyn Fn(&mut [C], &[C], &mut [&mut [C]]) + Sync>;

/// What a parameter's step depends on besides its tensors.
struct Rates<'a> {
    rule: &'a OptimRule,
    lr: f64,
    /// What gradients are multiplied by.
    factor: f64,
    /// The number of steps, including this one.
    count: i64,
}

/// A rule with its scalars, which are computed in `f64`, as in Python.
fn step_of<C: Real>(&Rates { rule, lr, factor, count }: &Rates<'_>) -> Step<C> {
    let step = count as f64;
    match *rule {
        OptimRule::Sgd { momentum, dampening, nesterov, weight_decay, maximize } => {
            let gradient = Gradient::new(factor, weight_decay, maximize);
            let sgd = Sgd::new(lr, momentum, dampening, nesterov, count <= 1);
            if momentum == 0.0 { bind::<C, _, 0>(gradient, sgd) } else { bind::<C, _, 1>(gradient, sgd) }
        }
        OptimRule::Adam { beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize } => {
            let gradient = Gradient::new(factor, if decoupled { 0.0 } else { weight_decay }, maximize);
            let shrink = if decoupled { 1.0 - lr * weight_decay } else { 1.0 };
            let adam = Adam::new(lr, beta1, beta2, eps, shrink, step);
            if amsgrad { bind::<C, _, 3>(gradient, adam) } else { bind::<C, _, 2>(gradient, adam) }
        }
        OptimRule::RmsProp { alpha, eps, weight_decay, momentum, centered, maximize } => {
            let gradient = Gradient::new(factor, weight_decay, maximize);
            let rms = RmsProp::new(lr, alpha, eps, momentum, centered);
            match rule.states() {
                1 => bind::<C, _, 1>(gradient, rms),
                2 => bind::<C, _, 2>(gradient, rms),
                _ => bind::<C, _, 3>(gradient, rms),
            }
        }
        OptimRule::Adagrad { lr_decay, weight_decay, eps, maximize } => {
            let gradient = Gradient::new(factor, weight_decay, maximize);
            bind::<C, _, 1>(gradient, Adagrad::new(lr, lr_decay, eps, step))
        }
    }
}

fn bind<C: Real, U: Update<C, N> + 'static, const N: usize>(gradient: Gradient<C>, update: U) -> Step<C> {
    Box::new(move |param, grad, states| apply(&gradient, &update, param, grad, states))
}

/// Writes the rounded elements of a range, where a copy in half precision is wanted.
type Lower<'a> = Box<dyn Fn(&[f32], Range<usize>) + Sync + 'a>;

fn lower<L: Stored<Compute = f32>>(low: Target<'_, L>) -> Lower<'_> {
    Box::new(move |values, range| {
        // SAFETY: the copy is contiguous with as many elements as the parameter, by the contract of the primitive; jobs run on
        // disjoint ranges inside its length.
        store(values, unsafe { std::slice::from_raw_parts_mut(low.ptr().add(range.start), range.len()) });
    })
}

/// The step of one parameter: a contiguous tensor, its gradient and its states.
fn job<'a, T: Stored<Compute: Real>, G: Stored<Compute = T::Compute>>(
    rates: &Rates<'_>,
    slot: &'a mut OptimSlot,
) -> Result<Job<'a>> {
    let step = step_of::<T::Compute>(rates);
    let target = |view: &'a mut ViewMut| Target::<T>::new(OP, view.reborrow());
    let (param, grad) = (target(&mut slot.param)?, Source::<G>::new(OP, slot.grad)?);
    let states = slot.states.iter_mut().map(target).collect::<Result<Vec<_>>>()?;
    let count = states.len();
    let memory = Memory { param, grad, states };
    let low: Option<Lower<'a>> = match &mut slot.low {
        Some(low) => {
            let dtype = low.dtype();
            let low = low.reborrow();
            Some(
                for_half!(dtype, L => Target::<L>::new(OP, low).map(lower), other => Err(Error::dtypes(OP, DType::F32, other)))?,
            )
        }
        None => None,
    };
    Ok(Box::new(move |whole| {
        let is_direct = T::DIRECT && G::DIRECT;
        let stage = if is_direct && low.is_none() { whole.len() } else { STAGE };
        // Half precision goes through tiles of the compute type.
        let zero = T::Compute::of(0.0);
        let mut tiles = [[zero; STAGE]; 2 + MOST_STATES];
        for range in steps(whole, stage) {
            let n = range.len();
            // SAFETY: `optimizer_step` runs a job on disjoint ranges inside its length.
            let (param, grad, states) = unsafe { memory.part(range.clone()) };
            if is_direct {
                let mut states = states.map(bytemuck::cast_slice_mut);
                let param: &mut [T::Compute] = bytemuck::cast_slice_mut(param);
                step(param, bytemuck::cast_slice(grad), &mut states[..count]);
                low.iter().for_each(|low| low(bytemuck::cast_slice(param), range.clone()));
                continue;
            }
            let [p, g, s @ ..] = tiles.each_mut().map(|tile| &mut tile[..n]);
            load(param, p);
            load(grad, g);
            let mut s: [_; MOST_STATES] = s;
            s.iter_mut().zip(&states).take(count).for_each(|(tile, state)| load(state, tile));
            step(p, g, &mut s[..count]);
            store(p, param);
            states.into_iter().zip(&s).take(count).for_each(|(state, tile)| store(tile, state));
            low.iter().for_each(|low| low(bytemuck::cast_slice(p), range.clone()));
        }
    }))
}

struct Memory<'a, T, G> {
    param: Target<'a, T>,
    grad: Source<'a, G>,
    states: Vec<Target<'a, T>>,
}

impl<T: Stored, G: Stored> Memory<'_, T, G> {
    /// The elements of a range; empty slices for states that the rule does not have.
    ///
    /// # Safety
    /// The range is inside `0..numel`, and no two overlapping ranges are in use at a time.
    #[allow(clippy::mut_from_ref)] // the contract above
    unsafe fn part(&self, range: Range<usize>) -> (&mut [T], &[G], [&mut [T]; MOST_STATES]) {
        // SAFETY: each tensor is contiguous with `numel` elements, from its pointer on, by the contract of the primitive; the
        // caller promises the rest.
        unsafe {
            let of = |target: &Target<T>| std::slice::from_raw_parts_mut(target.ptr().add(range.start), range.len());
            let grad = std::slice::from_raw_parts(self.grad.ptr().add(range.start), range.len());
            let states = std::array::from_fn(|k| self.states.get(k).map_or_else(Default::default, of));
            (of(&self.param), grad, states)
        }
    }
}

multiversion! {
    /// Updates the elements of slices.
    fn apply[C: Real, U: Update<C, N>, const N: usize](
        gradient: &Gradient<C>,
        update: &U,
        param: &mut [C],
        grad: &[C],
        states: &mut [&mut [C]],
    ), avx512 if [size_of::<C>() == 4] {
        let zero = C::of(0.0);
        let whole = param.len() - param.len() % TILE;
        let mut start = 0;
        while start < whole {
            let (mut p, mut g, mut s) = ([zero; TILE], [zero; TILE], [[zero; TILE]; N]);
            p.copy_from_slice(&param[start..start + TILE]);
            g.copy_from_slice(&grad[start..start + TILE]);
            for (tile, state) in s.iter_mut().zip(&*states) {
                tile.copy_from_slice(&state[start..start + TILE]);
            }
            apply_tile(gradient, update, &mut p, &g, &mut s);
            param[start..start + TILE].copy_from_slice(&p);
            for (tile, state) in s.iter().zip(states.iter_mut()) {
                state[start..start + TILE].copy_from_slice(tile);
            }
            start += TILE;
        }
        // The remainder, padded with zeros. If the loop over whole tiles handled it, tile sizes would not be known at
        // compile time, and copies would become calls that take longer than the update.
        let rest = param.len() - whole;
        if rest > 0 {
            let (mut p, mut g, mut s) = ([zero; TILE], [zero; TILE], [[zero; TILE]; N]);
            p[..rest].copy_from_slice(&param[whole..]);
            g[..rest].copy_from_slice(&grad[whole..]);
            for (tile, state) in s.iter_mut().zip(&*states) {
                tile[..rest].copy_from_slice(&state[whole..]);
            }
            apply_tile(gradient, update, &mut p, &g, &mut s);
            param[whole..].copy_from_slice(&p[..rest]);
            for (tile, state) in s.iter().zip(states.iter_mut()) {
                state[whole..].copy_from_slice(&tile[..rest]);
            }
        }
    }
}

/// Updates a tile. Its size is fixed and its arrays are known not to overlap, so the compiler keeps it in registers and
/// vectorizes all of it.
#[inline(always)]
fn apply_tile<C: Real, U: Update<C, N>, const N: usize>(
    gradient: &Gradient<C>,
    update: &U,
    p: &mut [C; TILE],
    g: &[C; TILE],
    s: &mut [[C; TILE]; N],
) {
    for i in 0..TILE {
        let mut own = [C::of(0.0); N];
        for k in 0..N {
            own[k] = s[k][i];
        }
        p[i] = update.update(p[i], gradient.of(p[i], g[i]), &mut own);
        for k in 0..N {
            s[k][i] = own[k];
        }
    }
}
