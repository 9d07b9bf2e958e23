//! Parameter groups: parameters with their state, and the hyperparameters that they share.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kiln_tensor::{
    DType, Device, Error, Result, Tensor,
    captured::{before_launch, is_capturing, unless_capturing},
    no_grad,
};

use super::rule::{DynRule, UpdateRule};

/// A parameter for an optimizer: a tensor, or a name and a tensor (the name is then used in the state dict and in
/// messages). A module's [`parameters`](crate::ModuleTree::parameters) and
/// [`named_parameters`](crate::ModuleTree::named_parameters) return these.
#[derive(Clone, Debug)]
pub struct Param {
    name: Option<String>,
    tensor: Tensor,
}

impl Param {
    /// The name, if it has one, and the tensor.
    pub(super) fn into_parts(self) -> (Option<String>, Tensor) {
        (self.name, self.tensor)
    }
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
    /// Its name, or its index among all parameters.
    pub name: String,
    pub param: Tensor,
    /// The number of its steps so far, an `i64` on its device; created in its first step.
    pub step: Option<Tensor>,
    /// The states; created in its first step.
    pub states: Vec<Tensor>,
}

impl Slot {
    /// Creates missing state tensors; which ones exist may change with a momentum that is set later.
    pub fn prepare(&mut self, rule: &dyn DynRule) -> Result<()> {
        let wanted = rule.states_of(self.param.shape());
        let zero = || Tensor::zeros((), (DType::I64, self.param.device()));
        if self.states.len() == wanted.len() {
            if self.step.is_none() {
                unless_capturing(rule.name(), "its count of steps would begin anew whenever the step is launched")?;
                self.step = Some(zero()?);
            }
            return Ok(());
        }
        unless_capturing(rule.name(), "its state would be made anew whenever the step is launched: run a step before")?;
        if !self.states.is_empty() && !wanted.is_empty() {
            let message = format!("parameter {} was optimized with other options, which have other states", self.name);
            return Err(Error::argument(rule.name(), message));
        }
        let states = wanted.iter().map(|state| state.tensor(&self.param)).collect::<Result<_>>()?;
        (self.step, self.states) = (Some(zero()?), states);
        Ok(())
    }
}

/// A learning rate, and what there is of it on each device that parameters are on.
#[derive(Debug)]
struct Rates {
    lr: f64,
    written: Vec<Rate>,
}

/// A learning rate on a device.
#[derive(Debug)]
struct Rate {
    lr: f64,
    tensor: Tensor,
}

impl Rates {
    /// Writes it wherever it has changed.
    fn write(&mut self) -> Result<()> {
        let Rates { lr, written } = self;
        for rate in written.iter_mut().filter(|rate| rate.lr.to_bits() != lr.to_bits()) {
            no_grad(|| rate.tensor.fill_(*lr))?;
            rate.lr = *lr;
        }
        Ok(())
    }
}

/// Parameters with their own hyperparameters.
#[derive(Debug)]
pub struct ParamGroup<O> {
    /// The hyperparameters; changes take effect in the next step.
    pub options: O,
    pub(super) members: Members,
}

impl<O> ParamGroup<O> {
    /// The parameters with their names (or indices).
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.members.slots.iter().map(|slot| (slot.name.as_str(), &slot.param))
    }
}

/// The parts of a [`ParamGroup`] other than its hyperparameters.
#[derive(Debug)]
pub(super) struct Members {
    pub initial_lr: Option<f64>,
    pub slots: Vec<Slot>,
    /// Steps that were captured write it, too.
    rates: Arc<Mutex<Rates>>,
}

impl Members {
    /// A group of these parameters, in addition to the `others` of the optimizer. One that is given twice is used once.
    pub fn new(rule: &dyn DynRule, params: &mut dyn Iterator<Item = Param>, others: &dyn Groups) -> Result<Members> {
        rule.validate()?;
        let optimizer = rule.name();
        let refuse = |message: String| Err(Error::argument(optimizer, message));
        let others = || slots(others);
        let before = others().count();
        let mut names: HashSet<String> = others().map(|slot| slot.name.clone()).collect();
        let mut slots: Vec<Slot> = Vec::new();
        for Param { name, tensor: param } in params {
            let name = name.unwrap_or_else(|| (before + slots.len()).to_string());
            if slots.iter().any(|slot| slot.param.is_same(&param)) {
                continue;
            }
            if others().any(|slot| slot.param.is_same(&param)) {
                return refuse(format!("parameter {name} is already in another group"));
            }
            if !param.is_leaf() {
                let message = format!("parameter {name} is the result of an operation; only leaves can be optimized");
                return refuse(message);
            }
            if !param.dtype().is_float() {
                return Err(Error::dtype(optimizer, param.dtype(), "parameters must be floating-point"));
            }
            rule.accept(&name, &param)?;
            if !names.insert(name.clone()) {
                return refuse(format!("two parameters have the name {name}; give them others, or none"));
            }
            slots.push(Slot { name, param, step: None, states: Vec::new() });
        }
        if slots.is_empty() {
            return refuse("there are no parameters".into());
        }
        let rates = Rates { lr: rule.lr(), written: Vec::new() };
        Ok(Members { initial_lr: None, slots, rates: Arc::new(Mutex::new(rates)) })
    }

    /// The learning rate in device memory. It is written when it has changed, always to the same address.
    pub fn rate_on(&mut self, device: Device, lr: f64) -> Result<Tensor> {
        let mut rates = lock(&self.rates);
        rates.lr = lr;
        if is_capturing() {
            // Whatever it is when the step is launched.
            let shared = self.rates.clone();
            before_launch(move || lock(&shared).write());
        } else {
            rates.write()?;
        }
        if let Some(rate) = rates.written.iter().find(|rate| rate.tensor.device() == device) {
            return Ok(rate.tensor.clone());
        }
        unless_capturing("learning rate", "it would be the same whenever the step is launched: run a step before")?;
        let tensor = Tensor::full((), lr, (DType::F64, device))?;
        rates.written.push(Rate { lr, tensor: tensor.clone() });
        Ok(tensor)
    }

    /// A step that was captured takes this learning rate from now on.
    pub fn set_rate(&self, lr: f64) {
        lock(&self.rates).lr = lr;
    }
}

fn lock(rates: &Mutex<Rates>) -> MutexGuard<'_, Rates> {
    // Every change is whole, whoever panics.
    rates.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The groups of an optimizer, whatever its rule, so that the optimizer's code is compiled once rather than for each
/// rule in each program.
pub(super) trait Groups {
    fn len(&self) -> usize;
    fn at(&self, index: usize) -> (&dyn DynRule, &Members);
    fn at_mut(&mut self, index: usize) -> (&mut dyn DynRule, &mut Members);
}

impl<O: UpdateRule> Groups for Vec<ParamGroup<O>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn at(&self, index: usize) -> (&dyn DynRule, &Members) {
        let group = &self[index];
        (&group.options, &group.members)
    }

    fn at_mut(&mut self, index: usize) -> (&mut dyn DynRule, &mut Members) {
        let group = &mut self[index];
        (&mut group.options, &mut group.members)
    }
}

pub(super) fn iter(groups: &dyn Groups) -> impl Iterator<Item = (&dyn DynRule, &Members)> {
    (0..groups.len()).map(|index| groups.at(index))
}

/// The parameters of all groups.
pub(super) fn slots(groups: &dyn Groups) -> impl Iterator<Item = &Slot> {
    iter(groups).flat_map(|(_, members)| &members.slots)
}
