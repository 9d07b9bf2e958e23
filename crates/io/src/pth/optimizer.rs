//! Converts optimizer states of PyTorch to state dicts of Kiln's optimizers.

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, StateDict, Tensor};

use super::{
    PthFile,
    read::Reading,
    value::{PthTensor, PthValue},
};
use crate::{load_options::LoadOptions, names::insert};

/// Keys under which checkpoints keep the optimizer's state, the most specific first.
const USUAL_KEYS: [&str; 6] =
    ["optimizer_state_dict", "optimizer", "optimizer_state", "optim_state_dict", "optim", "opt"];

/// The numeric hyperparameters that Kiln's optimizers have. A group has others too: some say how a step is computed
/// (`foreach`, `fused`, `capturable`), and programs add their own.
const NUMBERS: [&str; 19] = [
    "lr",
    "momentum",
    "dampening",
    "weight_decay",
    "eps",
    "alpha",
    "lr_decay",
    "initial_accumulator_value",
    "initial_lr",
    "betas",
    "rho",
    "momentum_decay",
    "lambd",
    "t0",
    "beta2_decay",
    "d",
    "etas",
    "step_sizes",
    "ns_coefficients",
];
const COUNTS: [&str; 1] = ["ns_steps"];
const FLAGS: [&str; 5] = ["nesterov", "maximize", "amsgrad", "centered", "decoupled_weight_decay"];
/// Hyperparameters whose values are names, and the name that `None` stands for.
const CHOICES: [(&str, &str); 1] = [("adjust_lr_fn", "original")];

#[located(site)]
impl PthFile {
    /// The state of an optimizer, as PyTorch's `optimizer.state_dict()` returns it, in the form that
    /// [`load_state_dict`](kiln_nn::optim::Optimizer::load_state_dict) of Kiln's optimizer of the same kind takes: the
    /// run continues as it would in PyTorch. LBFGS and SparseAdam are not supported. The optimizer must have the same
    /// parameters in the same order and the same groups.
    ///
    /// The state is found under the keys that the options [name](LoadOptions::key), else under the first of the usual
    /// keys that exists (`optimizer_state_dict`, `optimizer`, …), else it is the object itself. State tensors are
    /// loaded to the options' device; `load_state_dict` moves them to the device of the parameters.
    ///
    /// ```no_run
    /// # use kiln_nn::{Linear, ModuleTree, optim::{Adam, Optimizer}};
    /// # use kiln_tensor::Device;
    /// # let model = Linear::new(4, 1)?;
    /// let file = kiln_io::PthFile::open("checkpoint.pth")?;
    /// model.load_state_dict(&file.state_dict(Device::Cpu)?, true)?;
    /// let mut optimizer = Adam::new(model.named_parameters(), 1e-3)?;
    /// optimizer.load_state_dict(&file.optimizer_state(Device::Cpu)?)?;
    /// # Ok::<(), kiln_tensor::Error>(())
    /// ```
    ///
    /// # Errors
    /// If there is no such state, or it is that of an unsupported optimizer such as LBFGS; or those of
    /// [`state_dict`](PthFile::state_dict).
    pub fn optimizer_state(&self, options: impl Into<LoadOptions>) -> Result<StateDict> {
        let options = options.into();
        let at = self.under(options.keys())?;
        let is_state = |value: &&PthValue| value.get("param_groups").is_some() && value.get("state").is_some();
        let usual = USUAL_KEYS.iter().filter_map(|key| at.get(key)).find(is_state);
        let state = Some(at).filter(is_state).or(usual.filter(|_| options.keys().is_empty()));
        let state = state.ok_or_else(|| {
            self.wrong("it has no state of an optimizer (a dict with `state` and `param_groups`)".into())
        })?;
        let (Some(PthValue::List(groups)), Some(states)) = (state.get("param_groups"), state.get("state")) else {
            return Err(self.wrong("the groups of its optimizer are not a list".into()));
        };
        let mut out = StateDict::new();
        let mut reading = self.reading(&options);
        for (i, group) in groups.iter().enumerate() {
            self.hyper_parameters(i, group, &mut reading, &mut out)?;
        }
        // PyTorch's AdamW is an Adam with `decoupled_weight_decay`; NAdam and RAdam have this setting too, but no
        // `amsgrad`.
        let adam = groups.first().filter(|group| group.get("amsgrad").is_some());
        if let Some(PthValue::Bool(decoupled)) = adam.and_then(|group| group.get("decoupled_weight_decay")) {
            let name: &[u8] = if *decoupled { b"AdamW" } else { b"Adam" };
            out.insert("name".into(), Tensor::from_slice(name, name.len(), Device::Cpu)?);
        }
        let params = groups.iter().filter_map(|group| group.get("params"));
        let params = params.flat_map(|params| if let PthValue::List(list) = params { &list[..] } else { &[] });
        for (position, param) in params.enumerate() {
            let found = states.pairs().iter().find(|(key, _)| same_number(key, param));
            if let Some((_, state)) = found {
                self.parameter_state(position, state, &mut reading, &mut out)?;
            }
        }
        self.source.check_unchanged()?;
        Ok(out)
    }

    fn hyper_parameters(
        &self,
        i: usize,
        group: &PthValue,
        reading: &mut Reading<'_>,
        out: &mut StateDict,
    ) -> Result<()> {
        let mut number = |name: &str, value: &PthValue| match value {
            // A learning rate may be a tensor.
            PthValue::Tensor(tensor) => one_value(reading, name, tensor),
            other => {
                other.number().ok_or_else(|| self.wrong(format!("{name} of its optimizer is not a number: {other:?}")))
            }
        };
        // For Adam this setting chooses between Adam and AdamW, so it is not a hyperparameter.
        let is_adam = group.get("amsgrad").is_some();
        for (name, value) in group.entries() {
            let tensor = match value {
                PthValue::Tuple(parts) if NUMBERS.contains(&name) && matches!(parts.len(), 2 | 3) => {
                    let part = |part: &PthValue| match part {
                        // The optimizer uses its default.
                        PthValue::None => Ok(f64::NAN),
                        part => number(name, part),
                    };
                    let values = parts.iter().map(part).collect::<Result<Vec<f64>>>()?;
                    Tensor::from_vec(values, parts.len(), Device::Cpu)?
                }
                PthValue::Int(count) if COUNTS.contains(&name) => Tensor::from_vec(vec![*count], (), Device::Cpu)?,
                value if CHOICES.iter().any(|(known, _)| *known == name) => {
                    let default = CHOICES.iter().find(|(known, _)| *known == name).map_or("", |(_, default)| default);
                    let choice = if let PthValue::Str(choice) = value { choice } else { default };
                    Tensor::from_slice(choice.as_bytes(), choice.len(), Device::Cpu)?
                }
                value if NUMBERS.contains(&name) => Tensor::from_vec(vec![number(name, value)?], (), Device::Cpu)?,
                PthValue::Bool(flag) if FLAGS.contains(&name) => Tensor::from_vec(vec![*flag], (), Device::Cpu)?,
                _ => continue,
            };
            if name == "decoupled_weight_decay" && is_adam {
                continue;
            }
            insert(out, format!("param_groups.{i}.{name}"), tensor, self.path())?;
        }
        // Older versions of PyTorch (before about 1.12) did not store it for all optimizers; Muon does not have it.
        let maximize = format!("param_groups.{i}.maximize");
        if !out.contains_key(&maximize) && group.get("ns_steps").is_none() {
            insert(out, maximize, Tensor::from_vec(vec![false], (), Device::Cpu)?, self.path())?;
        }
        Ok(())
    }

    fn parameter_state(
        &self,
        position: usize,
        state: &PthValue,
        reading: &mut Reading<'_>,
        out: &mut StateDict,
    ) -> Result<()> {
        // SGD counts no steps, but a momentum buffer means that there has been one.
        let mut step = 1;
        let mut has_tensors = false;
        for (name, value) in state.entries() {
            match (name, value) {
                ("step", PthValue::Tensor(tensor)) => step = one_value(reading, name, tensor)? as i64,
                ("step", value) => {
                    let steps =
                        value.number().ok_or_else(|| self.wrong("a step of its optimizer is not a number".into()))?;
                    step = steps as i64;
                }
                (_, PthValue::Tensor(tensor)) => {
                    let full = format!("state.{position}.{name}");
                    insert(out, full.clone(), reading.tensor(&full, tensor)?, self.path())?;
                    has_tensors = true;
                }
                // A momentum buffer that has not been initialized.
                (_, PthValue::None) => {}
                (name, other) => {
                    return Err(self.wrong(format!(
                        "its optimizer keeps {name:?}, which is {other:?}: Kiln cannot load this optimizer, e.g. LBFGS"
                    )));
                }
            }
        }
        if has_tensors {
            let step = Tensor::from_vec(vec![step], (), Device::Cpu)?;
            insert(out, format!("state.{position}.step"), step, self.path())?;
        }
        Ok(())
    }
}

fn one_value(reading: &mut Reading<'_>, name: &str, tensor: &PthTensor) -> Result<f64> {
    let tensor = reading.tensor(name, tensor)?;
    if tensor.numel() != 1 {
        return Err(Error::shape("optimizer_state", format!("one value for {name}"), tensor.shape()));
    }
    tensor.item::<f64>()
}

/// Whether a key of the states is the index of a parameter. In old files they are identities of Python objects.
fn same_number(key: &PthValue, param: &PthValue) -> bool {
    matches!((key, param), (PthValue::Int(a), PthValue::Int(b)) if a == b)
        || matches!((key, param), (PthValue::Str(a), PthValue::Str(b)) if a == b)
}
