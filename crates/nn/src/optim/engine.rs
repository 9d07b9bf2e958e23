//! `Optim`, the optimizer for any rule: one primitive per group and step, or the rule's tensor operations for one
//! parameter after another.

use std::sync::Arc;

use kiln_derive::located;
use kiln_tensor::{
    DType, Device, Error, GradScaling, OptimTensors, Result, StateDict, Tensor, captured::unless_capturing, no_grad,
    optimizer_step,
};

use super::{
    group::{self as groups, Groups, Members, Param, ParamGroup, Slot},
    optimizer::{GroupRates, Optimizer},
    rule::{DynRule, Update, UpdateRule, non_negative},
    state,
    watch::Watch,
};

/// An optimizer with the [`UpdateRule`] of its options: [`SGD`](super::SGD), [`Adam`](super::Adam) and others, or a
/// custom one.
///
/// It holds handles to the parameters, so create it after the model was moved to its device. State is kept on the
/// device of each parameter, in its dtype.
#[derive(Debug)]
pub struct Optim<O> {
    groups: Vec<ParamGroup<O>>,
    unused: Vec<String>,
    fused: bool,
    watch: Arc<Watch>,
}

#[located(site)]
impl<O: UpdateRule> Optim<O> {
    /// An optimizer with one group. `options` may be the learning rate alone. A parameter that is given twice is used
    /// once.
    ///
    /// # Errors
    /// If there are no parameters, one is not a leaf or not floating-point, two have the same name, or a
    /// hyperparameter is invalid.
    pub fn new<P: Into<Param>>(params: impl IntoIterator<Item = P>, options: impl Into<O>) -> Result<Optim<O>> {
        let mut optimizer = Optim { groups: Vec::new(), unused: Vec::new(), fused: true, watch: Arc::default() };
        optimizer.add_group(&mut params.into_iter().map(Into::into), options.into())?;
        Ok(optimizer)
    }

    /// An optimizer with several groups, each of parameters and options.
    ///
    /// # Errors
    /// Those of [`new`](Optim::new); or if there is no group, or a parameter is in two groups.
    pub fn with_groups<P: Into<Param>, I: IntoIterator<Item = P>>(
        groups: impl IntoIterator<Item = (I, O)>,
    ) -> Result<Optim<O>> {
        let mut optimizer = Optim { groups: Vec::new(), unused: Vec::new(), fused: true, watch: Arc::default() };
        for (params, options) in groups {
            optimizer.add_group(&mut params.into_iter().map(Into::into), options)?;
        }
        if optimizer.groups.is_empty() {
            return Err(Error::argument(O::NAME, "there are no parameter groups"));
        }
        Ok(optimizer)
    }

    /// Adds a group, e.g. of layers whose training begins.
    ///
    /// # Errors
    /// Those of [`new`](Optim::new); or if a parameter is already in another group.
    pub fn add_param_group<P: Into<Param>>(
        &mut self,
        params: impl IntoIterator<Item = P>,
        options: impl Into<O>,
    ) -> Result<()> {
        self.add_group(&mut params.into_iter().map(Into::into), options.into())
    }

    fn add_group(&mut self, params: &mut dyn Iterator<Item = Param>, options: O) -> Result<()> {
        let members = Members::new(&options, params, &self.groups)?;
        self.watch.changed();
        self.groups.push(ParamGroup { options, members });
        Ok(())
    }

    /// Whether a step uses the device's fused primitive for each group, if the rule has one: on by default, like
    /// PyTorch's `fused=True`. Otherwise the rule is computed with tensor operations, one parameter after another.
    #[must_use]
    pub fn fused(self, fused: bool) -> Optim<O> {
        self.watch.changed();
        Optim { fused, ..self }
    }

    /// The groups.
    #[must_use]
    pub fn param_groups(&self) -> &[ParamGroup<O>] {
        &self.groups
    }

    /// The groups, for changing their options.
    pub fn param_groups_mut(&mut self) -> &mut [ParamGroup<O>] {
        self.watch.changed();
        &mut self.groups
    }
}

#[located(site)]
impl<O: UpdateRule> Optimizer for Optim<O> {
    fn step(&mut self) -> Result<()> {
        step(&mut self.groups, self.fused, None, &mut self.unused, &self.watch)
    }

    fn step_scaled(&mut self, scaling: GradScaling<'_>) -> Result<()> {
        step(&mut self.groups, self.fused, Some(scaling), &mut self.unused, &self.watch)
    }

    fn zero_grad(&self) {
        zero_grad(&self.groups);
    }

    fn parameters(&self) -> Vec<Tensor> {
        parameters(&self.groups)
    }

    fn unused_parameters(&self) -> &[String] {
        &self.unused
    }

    fn rates(&self) -> Vec<GroupRates> {
        rates(&self.groups)
    }

    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()> {
        set_rates(O::NAME, &mut self.groups, rates, &self.watch)
    }

    fn state_dict(&self) -> Result<StateDict> {
        state::save(O::NAME, &self.groups)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.watch.changed();
        state::load(O::NAME, &mut self.groups, state)
    }
}

fn step(
    groups: &mut dyn Groups,
    fused: bool,
    scaling: Option<GradScaling<'_>>,
    unused: &mut Vec<String>,
    watch: &Arc<Watch>,
) -> Result<()> {
    groups::iter(groups).try_for_each(|(rule, _)| rule.validate())?;
    if groups::slots(groups).all(|slot| slot.param.unconverted_grad().is_none()) {
        return Err(no_gradients(groups));
    }
    unused.clear();
    for i in 0..groups.len() {
        let (rule, members) = groups.at_mut(i);
        let mut ready: Vec<(Device, usize, Tensor)> = Vec::with_capacity(members.slots.len());
        for (i, slot) in members.slots.iter_mut().enumerate() {
            match slot.param.unconverted_grad() {
                Some(grad) => {
                    slot.prepare(rule)?;
                    ready.push((slot.param.device(), i, grad));
                }
                None if slot.param.requires_grad() => unused.push(slot.name.clone()),
                None => {}
            }
        }
        // A group is one call, unless its parameters are on several devices.
        ready.sort_by_key(|(device, ..)| device_number(*device));
        for on_one_device in ready.chunk_by(|a, b| a.0 == b.0) {
            let lr = members.rate_on(on_one_device[0].0, rule.lr())?;
            let tensors: Vec<OptimTensors<'_>> = on_one_device
                .iter()
                .filter_map(|(_, i, grad)| {
                    let Slot { param, states, step, .. } = &members.slots[*i];
                    step.as_ref().map(|count| OptimTensors { param, grad, states, count, low: None })
                })
                .collect();
            // What the scaler says is on one device; others get copies.
            let near = |number: &Tensor| no_grad(|| number.to_device(on_one_device[0].0));
            let (found_inf, scale) = match scaling {
                Some(GradScaling { found_inf, scale }) => (Some(near(found_inf)?), scale.map(near).transpose()?),
                None => (None, None),
            };
            let scaling = found_inf.as_ref().map(|found_inf| GradScaling { found_inf, scale: scale.as_ref() });
            match rule.fused().filter(|_| fused) {
                Some(primitive) => optimizer_step(&primitive, &lr, scaling, &tensors)?,
                None => tensors.iter().try_for_each(|tensors| no_grad(|| update(rule, &lr, scaling, tensors)))?,
            }
        }
    }
    watch.step(groups, fused)
}

fn zero_grad(groups: &dyn Groups) {
    groups::slots(groups).for_each(|slot| slot.param.zero_grad());
}

fn parameters(groups: &dyn Groups) -> Vec<Tensor> {
    groups::slots(groups).map(|slot| slot.param.clone()).collect()
}

fn no_gradients(groups: &dyn Groups) -> Error {
    let name = groups::iter(groups).next().map_or("Optim", |(rule, _)| rule.name());
    let count = groups::slots(groups).count();
    Error::autograd(
        format!("{name}::step"),
        format!(
            "none of the {count} parameters has a gradient, so nothing would be learned: call `backward` on the \
             loss first; if you did, the optimizer holds other tensors than the model (was it made before the \
             model was moved with `to`?), or all of them are frozen"
        ),
    )
}

/// A step by tensor operations: in `f32` for half-precision parameters, as the fused primitives compute. A step that may be
/// skipped is computed beside the old values, and one or the other is selected.
fn update(rule: &dyn DynRule, lr: &Tensor, scaling: Option<GradScaling<'_>>, slot: &OptimTensors<'_>) -> Result<()> {
    let OptimTensors { param, grad, states, count, .. } = *slot;
    let dtype = param.dtype();
    let wide = if dtype.is_half() { DType::F32 } else { dtype };
    let mut grad = grad.to_dtype(wide)?;
    if let Some(scale) = scaling.and_then(|scaling| scaling.scale) {
        grad = grad.mul(&scale.to_dtype(DType::F64)?.reciprocal()?.to_dtype(wide)?)?;
    }
    let counted = count.add(1)?;
    let step = counted.to_dtype(DType::F64)?;
    let own = |tensor: &Tensor| match tensor.dtype() {
        half if half.is_half() => tensor.to_dtype(DType::F32),
        // Scalar states of half-precision parameters are in `f64` already.
        _ if scaling.is_some() => tensor.copy(),
        _ => Ok(tensor.clone()),
    };
    let (new, new_states) = (own(param)?, states.iter().map(own).collect::<Result<Vec<_>>>()?);
    rule.update(&Update { param: &new, grad: &grad, states: &new_states, dtype, lr, step: &step })?;
    let skipped = scaling.map(|scaling| scaling.found_inf.ne(0.0)).transpose()?;
    let written = [(param, &new), (count, &counted)].into_iter().chain(states.iter().zip(&new_states));
    written.filter(|(to, new)| !to.is_same(new)).try_for_each(|(to, new)| match &skipped {
        Some(skipped) => to.copy_(&skipped.where_cond(to, &new.to_dtype(to.dtype())?)?),
        None => to.copy_(new),
    })
}

fn rates(groups: &dyn Groups) -> Vec<GroupRates> {
    let rates = |(rule, members): (&dyn DynRule, &Members)| GroupRates {
        lr: rule.lr(),
        initial_lr: members.initial_lr,
        momentum: rule.momentum(),
    };
    groups::iter(groups).map(rates).collect()
}

fn set_rates(name: &'static str, groups: &mut dyn Groups, rates: &[GroupRates], watch: &Watch) -> Result<()> {
    unless_capturing("set_rates", "rates change once a call, and not when the step is launched: change them outside")?;
    if rates.len() != groups.len() {
        let message = format!("{} rates for {} parameter groups", rates.len(), groups.len());
        return Err(Error::argument(name, message));
    }
    let changed = groups::iter(groups).zip(rates).map(|((rule, _), rates)| {
        let mut rule = rule.boxed();
        *rule.lr_mut() = rates.lr;
        if let (Some(place), Some(momentum)) = (rule.momentum_mut(), rates.momentum) {
            *place = momentum;
        }
        non_negative(name, "initial learning rate", rates.initial_lr.unwrap_or(0.0))?;
        rule.validate().map(|()| rule)
    });
    let changed: Vec<Box<dyn DynRule>> = changed.collect::<Result<_>>()?;
    for (i, (new, rates)) in changed.iter().zip(rates).enumerate() {
        let (rule, members) = groups.at_mut(i);
        if rule.momentum() != new.momentum() {
            watch.changed();
        }
        rule.assign(&**new);
        members.set_rate(new.lr());
        members.initial_lr = rates.initial_lr;
    }
    Ok(())
}

fn device_number(device: Device) -> usize {
    match device {
        Device::Cpu => 0,
        Device::Cuda(index) => index + 1,
    }
}
