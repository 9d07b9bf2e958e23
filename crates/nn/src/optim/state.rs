//! The state dicts of optimizers: saving and loading their state as tensors by name.
//!
//! `name` is the optimizer's name as bytes, `param_groups.0.lr` and the like are hyperparameters (`f64`, `bool`),
//! `state.<parameter>.step` step counts (`i64`), `state.<parameter>.exp_avg` and the like state tensors under PyTorch's
//! names.

use kiln_tensor::{DType, Device, Element, Error, ErrorKind, Result, StateDict, Tensor, no_grad};

use super::{
    group::{self, Groups, Slot},
    rule::{DynRule, Value, in_memory_order_of},
};

pub(super) fn save(name: &str, groups: &dyn Groups) -> Result<StateDict> {
    let name = name.as_bytes();
    let mut out = StateDict::from([("name".into(), Tensor::from_slice(name, name.len(), Device::Cpu)?)]);
    for (i, (rule, members)) in group::iter(groups).enumerate() {
        rule.boxed().each(&mut |name, value| {
            let tensor = match value {
                Value::Number(v) => scalar(*v)?,
                Value::Flag(v) => scalar(*v)?,
                Value::Count(v) => scalar(*v as i64)?,
                Value::Pair((a, b)) => Tensor::from_vec(vec![*a, *b], 2, Device::Cpu)?,
                // NaN marks a number that is left to the rule.
                Value::OptionalPair((a, b)) => Tensor::from_vec(vec![a.unwrap_or(f64::NAN), *b], 2, Device::Cpu)?,
                Value::Triple((a, b, c)) => Tensor::from_vec(vec![*a, *b, *c], 3, Device::Cpu)?,
                Value::Choice(v) => Tensor::from_slice(v.name().as_bytes(), v.name().len(), Device::Cpu)?,
            };
            out.insert(format!("param_groups.{i}.{name}"), tensor);
            Ok(())
        })?;
        if let Some(initial_lr) = members.initial_lr {
            out.insert(format!("param_groups.{i}.initial_lr"), scalar(initial_lr)?);
        }
    }
    for (rule, members) in group::iter(groups) {
        for slot in &members.slots {
            let Some(step) = &slot.step else { continue };
            let states = rule.states_of(slot.param.shape());
            out.insert(format!("state.{}.step", slot.name), step.detach());
            for (state, tensor) in states.iter().zip(&slot.states) {
                out.insert(format!("state.{}.{}", slot.name, state.name), tensor.detach());
            }
        }
    }
    Ok(out)
}

/// The part of a state dict that belongs to one group.
struct Loaded {
    rule: Box<dyn DynRule>,
    initial_lr: Option<f64>,
    /// For each parameter, its step count and its states.
    slots: Vec<(Option<Tensor>, Vec<Tensor>)>,
}

pub(super) fn load(name: &'static str, groups: &mut dyn Groups, state: &StateDict) -> Result<()> {
    let mut source = Source::new(name, state);
    // PyTorch's states do not name their optimizer.
    if state.contains_key("name") {
        let saved: Vec<u8> = source.vector("name", None)?.unwrap_or_default();
        if saved != name.as_bytes() {
            let saved = String::from_utf8_lossy(&saved);
            let message = format!("load_state_dict: the state is that of {saved} and cannot be loaded into {name}");
            return Err(Error::argument(name, message));
        }
    }
    let mut loaded = Vec::with_capacity(groups.len());
    let mut position = 0;
    for (i, (rule, members)) in group::iter(groups).enumerate() {
        let mut rule = rule.boxed();
        rule.each(&mut |hyperparameter, value| {
            let key = format!("param_groups.{i}.{hyperparameter}");
            match value {
                Value::Number(v) => *v = source.value(&key)?.unwrap_or(*v),
                Value::Flag(v) => *v = source.value(&key)?.unwrap_or(*v),
                Value::Pair(v) => *v = source.pair(&key)?.unwrap_or(*v),
                Value::Count(v) => {
                    if let Some(count) = source.value::<i64>(&key)? {
                        let wrong = |_| Error::argument(name, format!("{key} is {count}"));
                        *v = usize::try_from(count).map_err(wrong)?;
                    }
                }
                Value::OptionalPair(v) => {
                    if let Some((a, b)) = source.pair(&key)? {
                        *v = ((!a.is_nan()).then_some(a), b);
                    }
                }
                Value::Triple(v) => {
                    if let Some(&[a, b, c]) = source.vector(&key, Some(3))?.as_deref() {
                        *v = (a, b, c);
                    }
                }
                Value::Choice(v) => {
                    let choice: Option<Vec<u8>> = source.vector(&key, None)?;
                    if let Some(choice) = choice.map(|choice| String::from_utf8_lossy(&choice).into_owned())
                        && !v.set(&choice)
                    {
                        return Err(Error::argument(name, format!("{key} {choice:?} is not a known value")));
                    }
                }
            }
            Ok(())
        })?;
        let initial_key = format!("param_groups.{i}.initial_lr");
        let initial_lr = if state.contains_key(&initial_key) { source.value(&initial_key)? } else { None };
        let mut slots = Vec::with_capacity(members.slots.len());
        for slot in &members.slots {
            slots.push(load_slot(&mut source, slot, position, &*rule)?);
            position += 1;
        }
        loaded.push(Loaded { rule, initial_lr, slots });
    }
    source.finish()?;
    loaded.iter().try_for_each(|loaded| loaded.rule.validate())?;
    for (i, loaded) in loaded.into_iter().enumerate() {
        let (rule, members) = groups.at_mut(i);
        rule.assign(&*loaded.rule);
        members.initial_lr = loaded.initial_lr;
        for (slot, (step, states)) in members.slots.iter_mut().zip(loaded.slots) {
            (slot.step, slot.states) = (step, states);
        }
    }
    Ok(())
}

/// Copies the state, so that the caller's tensors do not change with the next step. The state of a named parameter may
/// also be under its index among all parameters, as PyTorch's optimizers number theirs.
fn load_slot(
    source: &mut Source<'_>,
    slot: &Slot,
    position: usize,
    rule: &dyn DynRule,
) -> Result<(Option<Tensor>, Vec<Tensor>)> {
    let mut name_in_state = slot.name.clone();
    if !source.state.contains_key(&format!("state.{name_in_state}.step")) {
        name_in_state = position.to_string();
    }
    let step_key = format!("state.{name_in_state}.step");
    if !source.state.contains_key(&step_key) {
        return Ok((None, Vec::new()));
    }
    let step: i64 = source.value(&step_key)?.unwrap_or(0);
    if step < 0 {
        return Err(Error::argument(source.owner, format!("{step_key} is {step}")));
    }
    let step = Tensor::from_vec(vec![step], (), slot.param.device())?;
    let mut states = Vec::new();
    let param = &slot.param;
    for state in rule.states_of(param.shape()) {
        let Some(tensor) = source.tensor(&format!("state.{name_in_state}.{}", state.name)) else { continue };
        let shape = state.shape(param.shape())?;
        if *tensor.shape() != shape {
            let expected = format!("state {} of parameter {} has shape {shape}", state.name, slot.name);
            return Err(Error::shapes(source.owner, param.shape(), tensor.shape(), expected));
        }
        let dtype = state.dtype(param.dtype());
        let copy = || in_memory_order_of(param, tensor.to_device(param.device())?.to_dtype(dtype)?.copy()?);
        states.push(no_grad(copy)?);
    }
    Ok((Some(step), states))
}

/// A tensor of one value on the CPU.
pub(super) fn scalar<T: Element>(value: T) -> Result<Tensor> {
    Tensor::from_vec(vec![value], (), Device::Cpu)
}

/// A state dict from which entries are taken one by one.
pub(super) struct Source<'a> {
    owner: &'static str,
    state: &'a StateDict,
    taken: std::collections::HashSet<String>,
    missing: Vec<String>,
}

impl<'a> Source<'a> {
    pub fn new(owner: &'static str, state: &'a StateDict) -> Source<'a> {
        Source { owner, state, taken: std::collections::HashSet::new(), missing: Vec::new() }
    }

    /// The tensor of this name; a missing name is remembered.
    pub fn tensor(&mut self, key: &str) -> Option<&'a Tensor> {
        let found = self.state.get(key);
        if found.is_some() {
            self.taken.insert(key.to_owned());
        } else {
            self.missing.push(key.to_owned());
        }
        found
    }

    /// The single value of this name.
    pub fn value<T: Element + Copy>(&mut self, key: &str) -> Result<Option<T>> {
        Ok(self.vector(key, Some(1))?.and_then(|values| values.first().copied()))
    }

    fn pair(&mut self, key: &str) -> Result<Option<(f64, f64)>> {
        Ok(self.vector(key, Some(2))?.and_then(|values| Some((*values.first()?, *values.get(1)?))))
    }

    /// All values of this name.
    pub fn vector<T: Element>(&mut self, key: &str, len: Option<usize>) -> Result<Option<Vec<T>>> {
        let Some(tensor) = self.tensor(key) else { return Ok(None) };
        if len.is_some_and(|len| len != tensor.numel()) {
            return Err(Error::shape(self.owner, format!("{len:?} values in {key}"), tensor.shape()));
        }
        if tensor.dtype() != T::DTYPE && !(tensor.dtype() == DType::F32 && T::DTYPE == DType::F64) {
            return Err(Error::dtype(self.owner, tensor.dtype(), format!("{key} is {}", T::DTYPE)));
        }
        no_grad(|| tensor.to_dtype(T::DTYPE))?.to_vec().map(Some)
    }

    /// Returns an error if a name was missing, or was not taken.
    pub fn finish(self) -> Result<()> {
        let Source { owner, state, taken, missing } = self;
        let unexpected: Vec<String> = state.keys().filter(|key| !taken.contains(*key)).cloned().collect();
        if missing.is_empty() && unexpected.is_empty() {
            return Ok(());
        }
        let list = |names: &[String]| names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let mut message = format!("load_state_dict: the state dict does not fit this {owner}:");
        for (what, names) in [("missing", &missing), ("unexpected", &unexpected)] {
            if !names.is_empty() {
                message += &format!("\n  {what}: {}", list(names));
            }
        }
        Err(ErrorKind::StateDict { missing, unexpected, message }.into())
    }
}
