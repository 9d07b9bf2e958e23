//! Stacked recurrent layers, in one or both directions, over whole sequences.

use kiln_tensor::{Error, Result, Tensor, TensorOptions};
use serde_json::Value;

use super::{
    options::RNNOptions,
    step::{Extents, RNNNonlinearity, Recurrence, State, Weights},
};

use crate::{
    module::{Part, PartMut},
    parameter::{Parameter, Training},
    saved::{Describing, Restoring, Saved},
};

/// The common part of the three layers.
#[derive(Debug)]
pub(super) struct Stack {
    name: &'static str,
    recurrence: Recurrence,
    input_size: usize,
    hidden_size: usize,
    options: RNNOptions,
    /// The directions of a layer are consecutive.
    weights: Vec<Weights>,
    training: Training,
}

impl Stack {
    pub fn new(
        name: &'static str,
        recurrence: Recurrence,
        input_size: usize,
        hidden_size: usize,
        options: RNNOptions,
    ) -> Result<Stack> {
        let wrong = |why: String| Err(Error::argument(name, why));
        if !(0.0..=1.0).contains(&options.dropout) {
            return wrong(format!("the dropout {} is outside [0, 1]", options.dropout));
        }
        if hidden_size == 0 || options.num_layers == 0 {
            return wrong(format!("{} layers of hidden size {hidden_size}: neither may be 0", options.num_layers));
        }
        if options.proj_size > 0 && (recurrence != Recurrence::Lstm || options.proj_size >= hidden_size) {
            let size = options.proj_size;
            return wrong(format!(
                "a projection to {size} needs an LSTM and must be below the hidden size {hidden_size}"
            ));
        }
        let mut stack = Stack {
            name,
            recurrence,
            input_size,
            hidden_size,
            options,
            weights: Vec::new(),
            training: Training::default(),
        };
        for layer in 0..options.num_layers {
            let inputs = if layer == 0 { input_size } else { stack.output_size() * stack.directions() };
            let (hidden, projection) = (hidden_size, options.proj_size);
            let extents = Extents { gates: recurrence.gates(), inputs, hidden, projection, bias: options.bias };
            for _ in 0..stack.directions() {
                stack.weights.push(Weights::new(extents, options.tensor)?);
            }
        }
        Ok(stack)
    }

    fn directions(&self) -> usize {
        1 + usize::from(self.options.bidirectional)
    }

    /// Number of output features per direction.
    fn output_size(&self) -> usize {
        if self.options.proj_size > 0 { self.options.proj_size } else { self.hidden_size }
    }

    pub fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
        for (i, weights) in self.weights.iter().enumerate() {
            let suffix = self.suffix(i);
            let Weights { weight_ih, weight_hh, bias, weight_hr } = weights;
            each(&format!("weight_ih{suffix}"), Part::Parameter(weight_ih));
            each(&format!("weight_hh{suffix}"), Part::Parameter(weight_hh));
            if let Some([bias_ih, bias_hh]) = bias {
                each(&format!("bias_ih{suffix}"), Part::Parameter(bias_ih));
                each(&format!("bias_hh{suffix}"), Part::Parameter(bias_hh));
            }
            if let Some(weight_hr) = weight_hr {
                each(&format!("weight_hr{suffix}"), Part::Parameter(weight_hr));
            }
        }
        each("training", Part::Training(&self.training));
    }

    pub fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        let suffixes: Vec<String> = (0..self.weights.len()).map(|i| self.suffix(i)).collect();
        for (weights, suffix) in self.weights.iter_mut().zip(suffixes) {
            let Weights { weight_ih, weight_hh, bias, weight_hr } = weights;
            each(&format!("weight_ih{suffix}"), PartMut::Parameter(weight_ih));
            each(&format!("weight_hh{suffix}"), PartMut::Parameter(weight_hh));
            if let Some([bias_ih, bias_hh]) = bias {
                each(&format!("bias_ih{suffix}"), PartMut::Parameter(bias_ih));
                each(&format!("bias_hh{suffix}"), PartMut::Parameter(bias_hh));
            }
            if let Some(weight_hr) = weight_hr {
                each(&format!("weight_hr{suffix}"), PartMut::Parameter(weight_hr));
            }
        }
        each("training", PartMut::Training(&mut self.training));
    }

    /// The suffix of parameter names: `_l1_reverse` for the second direction of the second layer.
    fn suffix(&self, i: usize) -> String {
        let reverse = if i % self.directions() == 1 { "_reverse" } else { "" };
        format!("_l{}{reverse}", i / self.directions())
    }

    pub fn describe(&self) -> String {
        let o = &self.options;
        let mut text = format!("{}, {}", self.input_size, self.hidden_size);
        if o.proj_size > 0 {
            text += &format!(", proj_size={}", o.proj_size);
        }
        if o.num_layers != 1 {
            text += &format!(", num_layers={}", o.num_layers);
        }
        let dropout = if o.dropout == 0.0 { String::new() } else { format!(", dropout={}", o.dropout) };
        text += if o.bias { "" } else { ", bias=False" };
        text += if o.batch_first { ", batch_first=True" } else { "" };
        text += &dropout;
        text += if o.bidirectional { ", bidirectional=True" } else { "" };
        text
    }

    /// A state `[layers * directions, N, features]`, checked and split into one per layer and direction; zeros, if not
    /// given.
    fn states(&self, given: Option<&Tensor>, x: &Tensor, single: bool, features: usize) -> Result<Vec<Tensor>> {
        let (count, n) = (self.weights.len(), x.dims()[1]);
        let Some(given) = given else {
            let zeros = Tensor::zeros([n, features], x.options())?;
            return Ok(vec![zeros; count]);
        };
        let given = if single && given.rank() == 2 { given.unsqueeze(1)? } else { given.clone() };
        if *given.shape() != [count, n, features] {
            let wanted = if single { format!("[{count}, {features}]") } else { format!("[{count}, {n}, {features}]") };
            return Err(Error::shape(self.name, format!("states of shape {wanted}"), given.shape()));
        }
        (0..count).map(|i| given.select(0, i as i64)).collect()
    }

    /// The outputs of the last layer, and the final states of all layers.
    pub fn forward(
        &self,
        x: &Tensor,
        h: Option<&Tensor>,
        c: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        if !matches!(x.rank(), 2 | 3) || x.dims().last() != Some(&self.input_size) {
            let size = self.input_size;
            let batch = if self.options.batch_first { "[N, L," } else { "[L, N," };
            return Err(Error::shape(self.name, format!("{batch} {size}] or [L, {size}]"), x.shape()));
        }
        let (single, batch_first) = (x.rank() == 2, self.options.batch_first);
        let cast = |tensor: Option<&Tensor>| tensor.map(|tensor| self.recurrence.cast(tensor)).transpose();
        let (x, h, c) = (self.recurrence.cast(x)?, cast(h)?, cast(c)?);
        let mut x = match (single, batch_first) {
            (true, _) => x.unsqueeze(1)?,
            (false, true) => x.transpose(0, 1)?,
            (false, false) => x,
        };
        if x.dims()[0] == 0 {
            return Err(Error::shape(self.name, "a sequence of at least one step", x.shape()));
        }
        let h = self.states(h.as_ref(), &x, single, self.output_size())?;
        let c = match self.recurrence {
            Recurrence::Lstm => self.states(c.as_ref(), &x, single, self.hidden_size)?.into_iter().map(Some).collect(),
            _ => vec![None; h.len()],
        };
        let mut ends = Vec::with_capacity(h.len());
        let mut states = h.into_iter().zip(c).map(|(h, c)| State { h, c });
        for (layer, weights) in self.weights.chunks(self.directions()).enumerate() {
            if layer > 0 && self.options.dropout > 0.0 {
                x = x.dropout(self.options.dropout, self.training.is_on())?;
            }
            let mut outputs = Vec::with_capacity(weights.len());
            for (weights, state) in weights.iter().zip(states.by_ref()) {
                let (output, end) = self.direction(weights, &x, state, !outputs.is_empty())?;
                outputs.push(output);
                ends.push(end);
            }
            x = if outputs.len() == 1 {
                outputs.swap_remove(0)
            } else {
                Tensor::cat(&outputs.iter().collect::<Vec<_>>(), -1)?
            };
        }
        let stacked = |states: Vec<&Tensor>| {
            let stacked = Tensor::stack(&states, 0)?;
            if single { stacked.squeeze(1) } else { Ok(stacked) }
        };
        let h = stacked(ends.iter().map(|end| &end.h).collect())?;
        let c: Vec<&Tensor> = ends.iter().filter_map(|end| end.c.as_ref()).collect();
        let c = if c.is_empty() { None } else { Some(stacked(c)?) };
        let output = match (single, batch_first) {
            (true, _) => x.squeeze(1)?,
            (false, true) => x.transpose(0, 1)?,
            (false, false) => x,
        };
        Ok((output, h, c))
    }

    /// Runs one layer in one direction: the hidden states of all steps, in sequence order, and the final state.
    fn direction(&self, weights: &Weights, x: &Tensor, state: State, backward: bool) -> Result<(Tensor, State)> {
        let steps = x.dims()[0];
        let of_inputs = weights.of_inputs(x)?.unbind(0)?;
        let mut outputs = Vec::with_capacity(steps);
        let mut state = state;
        for i in 0..steps {
            let at = if backward { steps - 1 - i } else { i };
            state = weights.step(self.recurrence, &of_inputs[at], &state)?;
            outputs.push(state.h.clone());
        }
        if backward {
            outputs.reverse();
        }
        Ok((Tensor::stack(&outputs.iter().collect::<Vec<_>>(), 0)?, state))
    }

    pub fn save(&self, at: &mut Describing) -> Result<Value> {
        let o = &self.options;
        let mut fields = vec![
            ("input_size", self.input_size.save(at)?),
            ("hidden_size", self.hidden_size.save(at)?),
            ("num_layers", o.num_layers.save(at)?),
            ("bias", o.bias.save(at)?),
            ("batch_first", o.batch_first.save(at)?),
            ("dropout", o.dropout.save(at)?),
            ("bidirectional", o.bidirectional.save(at)?),
            ("proj_size", o.proj_size.save(at)?),
            ("nonlinearity", o.nonlinearity.save(at)?),
            ("training", at.inside("training", |at| self.training.save(at))?),
        ];
        let mut parameters = Vec::new();
        self.visit(&mut |name, part| {
            if let Part::Parameter(parameter) = part {
                parameters.push((name.to_owned(), parameter));
            }
        });
        let parameters = parameters.into_iter().map(|(name, p)| Ok((name.clone(), at.inside(&name, |at| p.save(at))?)));
        let parameters = parameters.collect::<Result<Vec<_>>>()?;
        let fields = fields.drain(..).map(|(name, value)| (name.to_owned(), value)).chain(parameters).collect();
        Ok(at.module(self.name, fields))
    }

    pub fn restore(
        name: &'static str,
        gates: fn(RNNNonlinearity) -> Recurrence,
        value: &Value,
        at: &mut Restoring<'_>,
    ) -> Result<Stack> {
        let mut fields = at.module(name, value)?;
        let (input_size, hidden_size) = (fields.take("input_size", at)?, fields.take("hidden_size", at)?);
        let options = RNNOptions {
            num_layers: fields.take("num_layers", at)?,
            bias: fields.take("bias", at)?,
            batch_first: fields.take("batch_first", at)?,
            dropout: fields.take("dropout", at)?,
            bidirectional: fields.take("bidirectional", at)?,
            proj_size: fields.take("proj_size", at)?,
            nonlinearity: fields.take("nonlinearity", at)?,
            tensor: TensorOptions::new(),
        };
        let training = fields.take("training", at)?;
        let recurrence = gates(options.nonlinearity);
        let mut stack = Stack { name, recurrence, input_size, hidden_size, options, weights: Vec::new(), training };
        for i in 0..options.num_layers.saturating_mul(stack.directions()) {
            let suffix = stack.suffix(i);
            let mut parameter = |name: &str| fields.take::<Parameter>(&format!("{name}{suffix}"), at);
            let weights = Weights {
                weight_ih: parameter("weight_ih")?,
                weight_hh: parameter("weight_hh")?,
                bias: if options.bias { Some([parameter("bias_ih")?, parameter("bias_hh")?]) } else { None },
                weight_hr: if options.proj_size > 0 { Some(parameter("weight_hr")?) } else { None },
            };
            stack.weights.push(weights);
        }
        fields.finish(at)?;
        Ok(stack)
    }
}
