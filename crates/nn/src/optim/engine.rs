//! The optimizer itself: parameter groups, per-parameter state, and one primitive a group and step.

use std::collections::HashSet;

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, OptimTensors, Result, StateDict, Tensor, no_grad, optimizer_step};

use super::{GroupRates, Optimizer, Update, UpdateRule, non_negative, state};

/// A parameter as an optimizer takes it: a tensor, or a name and a tensor (then the name is used in the
/// state dict and in messages). [`parameters`](crate::ModuleTree::parameters) and
/// [`named_parameters`](crate::ModuleTree::named_parameters) of a module give these.
#[derive(Clone, Debug)]
pub struct Param {
    name: Option<String>,
    tensor: Tensor,
}

impl From<Tensor> for Param {
    fn from(tensor: Tensor) -> Param {
        Param { name: None, tensor }
    }
}

impl From<&Tensor> for Param {
    fn from(tensor: &Tensor) -> Param {
        tensor.clone().into()
    }
}

impl<S: Into<String>> From<(S, Tensor)> for Param {
    fn from((name, tensor): (S, Tensor)) -> Param {
        Param { name: Some(name.into()), tensor }
    }
}

impl<S: Into<String>> From<(S, &Tensor)> for Param {
    fn from((name, tensor): (S, &Tensor)) -> Param {
        (name, tensor.clone()).into()
    }
}

/// One parameter with its state.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its name, or its number among all parameters.
    pub name: String,
    pub param: Tensor,
    /// The number of its steps so far, an `i64` on its device; made in its first step.
    pub step: Option<Tensor>,
    /// Made in its first step.
    pub states: Vec<Tensor>,
}

/// A learning rate on a device.
#[derive(Debug)]
struct Rate {
    lr: f64,
    tensor: Tensor,
}

/// Parameters with hyper-parameters of their own.
#[derive(Debug)]
pub struct ParamGroup<O> {
    /// The hyper-parameters; a change counts from the next step.
    pub options: O,
    pub(super) initial_lr: Option<f64>,
    pub(super) slots: Vec<Slot>,
    /// One for each device that parameters are on; made in the first step.
    rates: Vec<Rate>,
}

impl<O> ParamGroup<O> {
    /// The parameters with their names (or numbers).
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.param))
    }
}

/// An optimizer with the [`UpdateRule`] of its options: [`SGD`](super::SGD), [`Adam`](super::Adam) and the like, or one
/// of your own.
///
/// It holds handles of the parameters, so make it after the model was moved to its device. State is kept on
/// the device of each parameter, in its dtype.
#[derive(Debug)]
pub struct Optim<O> {
    pub(super) groups: Vec<ParamGroup<O>>,
    unused: Vec<String>,
    fused: bool,
}

#[located(site)]
impl<O: UpdateRule> Optim<O> {
    /// An optimizer of one group. `options` may be the learning rate alone. A parameter that is given twice
    /// is taken once.
    ///
    /// # Errors
    /// There are no parameters, one is no leaf or not of floats, two have one name, or a hyper-parameter is
    /// invalid.
    pub fn new<P: Into<Param>>(params: impl IntoIterator<Item = P>, options: impl Into<O>) -> Result<Optim<O>> {
        let mut optimizer = Optim { groups: Vec::new(), unused: Vec::new(), fused: true };
        optimizer.add_param_group(params, options)?;
        Ok(optimizer)
    }

    /// An optimizer of several groups, each of parameters and options.
    ///
    /// # Errors
    /// As [`new`](Optim::new), or there is no group, or a parameter is in two groups.
    pub fn with_groups<P: Into<Param>, I: IntoIterator<Item = P>>(
        groups: impl IntoIterator<Item = (I, O)>,
    ) -> Result<Optim<O>> {
        let mut optimizer = Optim { groups: Vec::new(), unused: Vec::new(), fused: true };
        groups.into_iter().try_for_each(|(params, options)| optimizer.add_param_group(params, options))?;
        if optimizer.groups.is_empty() {
            return Err(Error::argument(O::NAME, "there are no parameter groups"));
        }
        Ok(optimizer)
    }

    /// Adds a group, e.g. of layers that begin to be trained.
    ///
    /// # Errors
    /// As [`new`](Optim::new), or a parameter is in another group already.
    pub fn add_param_group<P: Into<Param>>(
        &mut self,
        params: impl IntoIterator<Item = P>,
        options: impl Into<O>,
    ) -> Result<()> {
        let options = options.into();
        options.validate()?;
        let refuse = |message: String| Err(Error::argument(O::NAME, message));
        let before = self.groups.iter().map(|group| group.slots.len()).sum::<usize>();
        let mut names: HashSet<String> = self.slots().map(|slot| slot.name.clone()).collect();
        let mut slots: Vec<Slot> = Vec::new();
        for Param { name, tensor: param } in params.into_iter().map(Into::into) {
            let name = name.unwrap_or_else(|| (before + slots.len()).to_string());
            if slots.iter().any(|slot| slot.param.is_same(&param)) {
                continue;
            }
            if self.slots().any(|slot| slot.param.is_same(&param)) {
                return refuse(format!("parameter {name} is in another group already"));
            }
            if !param.is_leaf() {
                let message = format!("parameter {name} is the result of an operation; only leaves can be optimized");
                return refuse(message);
            }
            if !param.dtype().is_float() {
                return Err(Error::dtype(O::NAME, param.dtype(), "parameters are floats"));
            }
            options.accept(&name, &param)?;
            if !names.insert(name.clone()) {
                return refuse(format!("two parameters have the name {name}; give them others, or none"));
            }
            slots.push(Slot { name, param, step: None, states: Vec::new() });
        }
        if slots.is_empty() {
            return refuse("there are no parameters".into());
        }
        self.groups.push(ParamGroup { options, initial_lr: None, slots, rates: Vec::new() });
        Ok(())
    }

    /// Whether a step is one fused primitive of the device for each group, where the rule has one: on at first, as with
    /// PyTorch's `fused=True`. Without it the rule is computed by tensor operations, one parameter after the other.
    #[must_use]
    pub fn fused(self, fused: bool) -> Optim<O> {
        Optim { fused, ..self }
    }

    /// The groups.
    #[must_use]
    pub fn param_groups(&self) -> &[ParamGroup<O>] {
        &self.groups
    }

    /// The groups, to change their options.
    pub fn param_groups_mut(&mut self) -> &mut [ParamGroup<O>] {
        &mut self.groups
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.groups.iter().flat_map(|group| &group.slots)
    }

    fn no_gradients(&self) -> Error {
        let count = self.slots().count();
        Error::autograd(
            format!("{}::step", O::NAME),
            format!(
                "none of the {count} parameters has a gradient, so nothing would be learnt: call `backward` on the \
                 loss first; if you did, the optimizer holds other tensors than the model (was it made before the \
                 model was moved with `to`?), or all of them are frozen"
            ),
        )
    }
}

impl Slot {
    /// Makes the state tensors if there are none; they may also come and go with a momentum that is set
    /// later.
    fn prepare<O: UpdateRule>(&mut self, options: &O) -> Result<()> {
        let wanted = options.states_of(self.param.shape());
        let zero = || Tensor::zeros((), (DType::I64, self.param.device()));
        if self.states.len() == wanted.len() {
            if self.step.is_none() {
                self.step = Some(zero()?);
            }
            return Ok(());
        }
        if !self.states.is_empty() && !wanted.is_empty() {
            let message = format!("parameter {} was optimized with other options, which kept another state", self.name);
            return Err(Error::argument(O::NAME, message));
        }
        let states = wanted.iter().map(|state| state.tensor(&self.param)).collect::<Result<_>>()?;
        (self.step, self.states) = (Some(zero()?), states);
        Ok(())
    }
}

/// A step by tensor operations: in `f32` for parameters of half precision, as fused primitives compute.
fn update<O: UpdateRule>(rule: &O, lr: &Tensor, slot: &OptimTensors<'_>) -> Result<()> {
    let OptimTensors { param, grad, states, count } = *slot;
    count.add_(1)?;
    let step = count.to_dtype(DType::F64)?;
    let dtype = param.dtype();
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return rule.update(&Update { param, grad, states, dtype, lr, step: &step });
    }
    // Numbers are in `f64` already.
    let wide =
        |tensor: &Tensor| if tensor.dtype() == DType::F64 { Ok(tensor.clone()) } else { tensor.to_dtype(DType::F32) };
    let (param, grad, states) = (wide(param)?, wide(grad)?, states.iter().map(wide).collect::<Result<Vec<_>>>()?);
    rule.update(&Update { param: &param, grad: &grad, states: &states, dtype, lr, step: &step })?;
    slot.param.copy_(&param)?;
    let changed = slot.states.iter().zip(&states).filter(|(state, _)| state.dtype() == dtype);
    changed.into_iter().try_for_each(|(state, wide)| state.copy_(wide))
}

/// The learning rate in the memory of a device. It is written there when it has changed, and stays at its place.
fn rate_on(rates: &mut Vec<Rate>, device: Device, lr: f64) -> Result<Tensor> {
    if let Some(rate) = rates.iter_mut().find(|rate| rate.tensor.device() == device) {
        if rate.lr.to_bits() != lr.to_bits() {
            no_grad(|| rate.tensor.fill_(lr))?;
            rate.lr = lr;
        }
        return Ok(rate.tensor.clone());
    }
    let tensor = Tensor::full((), lr, (DType::F64, device))?;
    rates.push(Rate { lr, tensor: tensor.clone() });
    Ok(tensor)
}

#[located(site)]
impl<O: UpdateRule> Optimizer for Optim<O> {
    fn step(&mut self) -> Result<()> {
        self.groups.iter().try_for_each(|group| group.options.validate())?;
        if self.slots().all(|slot| slot.param.grad().is_none()) {
            return Err(self.no_gradients());
        }
        self.unused.clear();
        for group in &mut self.groups {
            let options = group.options;
            let mut ready: Vec<(&mut Slot, Tensor)> = Vec::with_capacity(group.slots.len());
            for slot in &mut group.slots {
                match slot.param.grad() {
                    Some(grad) => {
                        slot.prepare(&options)?;
                        ready.push((slot, grad));
                    }
                    None if slot.param.requires_grad() => self.unused.push(slot.name.clone()),
                    None => {}
                }
            }
            // A group is one call, unless its parameters are spread over devices.
            ready.sort_by_key(|(slot, _)| device_number(slot));
            for on_one_device in ready.chunk_by_mut(|a, b| a.0.param.device() == b.0.param.device()) {
                let tensors: Vec<OptimTensors<'_>> = on_one_device
                    .iter()
                    .filter_map(|(slot, grad)| {
                        let Slot { param, states, step, .. } = &**slot;
                        step.as_ref().map(|count| OptimTensors { param, grad, states, count })
                    })
                    .collect();
                let (mut options, device) = (options, on_one_device[0].0.param.device());
                let lr = rate_on(&mut group.rates, device, *options.lr_mut())?;
                match options.fused().filter(|_| self.fused) {
                    Some(rule) => optimizer_step(&rule, &lr, &tensors)?,
                    None => tensors.iter().try_for_each(|tensors| no_grad(|| update(&options, &lr, tensors)))?,
                }
            }
        }
        Ok(())
    }

    fn zero_grad(&self) {
        self.slots().for_each(|slot| slot.param.zero_grad());
    }

    fn parameters(&self) -> Vec<Tensor> {
        self.slots().map(|slot| slot.param.clone()).collect()
    }

    fn unused_parameters(&self) -> &[String] {
        &self.unused
    }

    fn rates(&self) -> Vec<GroupRates> {
        let rates = |group: &ParamGroup<O>| {
            let mut options = group.options;
            let momentum = options.momentum_mut().copied();
            GroupRates { lr: *options.lr_mut(), initial_lr: group.initial_lr, momentum }
        };
        self.groups.iter().map(rates).collect()
    }

    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()> {
        if rates.len() != self.groups.len() {
            let message = format!("{} rates for {} parameter groups", rates.len(), self.groups.len());
            return Err(Error::argument(O::NAME, message));
        }
        let changed = self.groups.iter().zip(rates).map(|(group, rates)| {
            let mut options = group.options;
            *options.lr_mut() = rates.lr;
            if let (Some(place), Some(momentum)) = (options.momentum_mut(), rates.momentum) {
                *place = momentum;
            }
            non_negative(O::NAME, "initial learning rate", rates.initial_lr.unwrap_or(0.0))?;
            options.validate().map(|()| (options, rates.initial_lr))
        });
        let changed: Vec<_> = changed.collect::<Result<_>>()?;
        for (group, (options, initial_lr)) in self.groups.iter_mut().zip(changed) {
            (group.options, group.initial_lr) = (options, initial_lr);
        }
        Ok(())
    }

    fn state_dict(&self) -> Result<StateDict> {
        state::save(&self.groups)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        state::load(&mut self.groups, state)
    }
}

fn device_number(slot: &Slot) -> usize {
    match slot.param.device() {
        Device::Cpu => 0,
        Device::Cuda(index) => index + 1,
    }
}
