//! Stacked recurrent layers, in one or both directions, over whole sequences.

use kiln_tensor::{Error, Result, Tensor, TensorOptions};
use serde_json::Value;

use super::{
    options::RNNOptions,
    packed::PackedSequence,
    step::{Extents, RNNNonlinearity, Recurrence, State, Weights},
};

use crate::{
    module::{Hooks, Part, PartMut},
    parameter::{Parameter, Training},
    saved::{Describing, Restoring, Saved},
};

/// Runs one layer in one direction, backward or not: the hidden states of all steps, in sequence order, and the final state.
type Direction<'a> = dyn Fn(&Weights, &Tensor, State, bool) -> Result<(Tensor, State)> + 'a;

/// The final hidden and cell states of all layers and directions, `[layers * directions, N, features]`.
fn stacked(ends: &[State], single: bool) -> Result<(Tensor, Option<Tensor>)> {
    let stacked = |states: Vec<&Tensor>| {
        let stacked = Tensor::stack(&states, 0)?;
        if single { stacked.squeeze(1) } else { Ok(stacked) }
    };
    let h = stacked(ends.iter().map(|end| &end.h).collect())?;
    let c: Vec<&Tensor> = ends.iter().filter_map(|end| end.c.as_ref()).collect();
    Ok((h, if c.is_empty() { None } else { Some(stacked(c)?) }))
}

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

    pub fn hooks(&self) -> &Hooks {
        self.training.hooks()
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
    fn states(
        &self,
        given: Option<&Tensor>,
        x: &Tensor,
        n: usize,
        single: bool,
        features: usize,
    ) -> Result<Vec<Tensor>> {
        let count = self.weights.len();
        let Some(given) = given else {
            let zeros = Tensor::zeros([n, features], x.options())?;
            return Ok(vec![zeros; count]);
        };
        let given = if single && given.rank() == 2 { given.unsqueeze(1)? } else { given.clone() };
        self.check_state(&given, n, features, single)?;
        (0..count).map(|i| given.select(0, i as i64)).collect()
    }

    /// An error if a state is not `[layers * directions, n, features]`.
    fn check_state(&self, given: &Tensor, n: usize, features: usize, single: bool) -> Result<()> {
        let count = self.weights.len();
        if *given.shape() != [count, n, features] {
            let wanted = if single { format!("[{count}, {features}]") } else { format!("[{count}, {n}, {features}]") };
            return Err(Error::shape(self.name, format!("states of shape {wanted}"), given.shape()));
        }
        Ok(())
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
        let x = match (single, batch_first) {
            (true, _) => x.unsqueeze(1)?,
            (false, true) => x.transpose(0, 1)?,
            (false, false) => x,
        };
        if x.dims()[0] == 0 {
            return Err(Error::shape(self.name, "a sequence of at least one step", x.shape()));
        }
        let states = self.initial(h.as_ref(), c.as_ref(), &x, x.dims()[1], single)?;
        let (x, ends) =
            self.layers(x, states, &|weights, x, state, backward| self.direction(weights, x, state, backward))?;
        let (h, c) = stacked(&ends, single)?;
        let output = match (single, batch_first) {
            (true, _) => x.squeeze(1)?,
            (false, true) => x.transpose(0, 1)?,
            (false, false) => x,
        };
        Ok((output, h, c))
    }

    /// [`forward`](Stack::forward) for a packed sequence.
    pub fn forward_packed(
        &self,
        packed: &PackedSequence,
        h: Option<&Tensor>,
        c: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let x = packed.data();
        if x.rank() != 2 || x.dims()[1] != self.input_size {
            return Err(Error::shape(
                self.name,
                format!("packed elements [sum of lengths, {}]", self.input_size),
                x.shape(),
            ));
        }
        let state = |tensor: Option<&Tensor>| {
            tensor.map(|tensor| packed.sort_states(&self.recurrence.cast(tensor)?)).transpose()
        };
        let (x, n) = (self.recurrence.cast(x)?, packed.len());
        // Before they are sorted, which fails on other shapes.
        let check = |given: Option<&Tensor>, features: usize| {
            given.map_or(Ok(()), |given| self.check_state(given, n, features, false))
        };
        check(h, self.output_size())?;
        check(c.filter(|_| self.recurrence == Recurrence::Lstm), self.hidden_size)?;
        let states = self.initial(state(h)?.as_ref(), state(c)?.as_ref(), &x, n, false)?;
        let (x, ends) = self.layers(x, states, &|weights, x, state, backward| {
            self.packed_direction(weights, x, packed.batch_sizes(), state, backward)
        })?;
        let (h, c) = stacked(&ends, false)?;
        Ok((x, packed.unsort_states(&h)?, c.map(|c| packed.unsort_states(&c)).transpose()?))
    }

    /// The initial states of all layers and directions, for a batch of `n`.
    fn initial(
        &self,
        h: Option<&Tensor>,
        c: Option<&Tensor>,
        x: &Tensor,
        n: usize,
        single: bool,
    ) -> Result<Vec<State>> {
        let h = self.states(h, x, n, single, self.output_size())?;
        let c = match self.recurrence {
            Recurrence::Lstm => self.states(c, x, n, single, self.hidden_size)?.into_iter().map(Some).collect(),
            _ => vec![None; h.len()],
        };
        Ok(h.into_iter().zip(c).map(|(h, c)| State { h, c }).collect())
    }

    /// Runs all layers by `direction`, which runs one in one direction: the outputs of the last one, and the final states.
    fn layers(&self, x: Tensor, states: Vec<State>, direction: &Direction<'_>) -> Result<(Tensor, Vec<State>)> {
        let (mut x, mut states) = (x, states.into_iter());
        let mut ends = Vec::with_capacity(self.weights.len());
        for (layer, weights) in self.weights.chunks(self.directions()).enumerate() {
            if layer > 0 && self.options.dropout > 0.0 {
                x = x.dropout(self.options.dropout, self.training.is_on())?;
            }
            let mut outputs = Vec::with_capacity(weights.len());
            for (weights, state) in weights.iter().zip(states.by_ref()) {
                let (output, end) = direction(weights, &x, state, !outputs.is_empty())?;
                outputs.push(output);
                ends.push(end);
            }
            x = if outputs.len() == 1 {
                outputs.swap_remove(0)
            } else {
                Tensor::cat(&outputs.iter().collect::<Vec<_>>(), -1)?
            };
        }
        Ok((x, ends))
    }

    /// Runs one layer in one direction: the hidden states of all steps, in sequence order, and the final state.
    fn direction(&self, weights: &Weights, x: &Tensor, state: State, backward: bool) -> Result<(Tensor, State)> {
        if weights.is_fused(self.recurrence) {
            let of_inputs = weights.of_layer_inputs(self.recurrence, x)?;
            return weights.layer(self.recurrence, &of_inputs, &state, backward);
        }
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

    /// [`direction`](Stack::direction) for the elements of a packed sequence. Forward, the states of sequences that have
    /// ended are put aside; backward, sequences join as the steps reach their last elements.
    fn packed_direction(
        &self,
        weights: &Weights,
        x: &Tensor,
        batch_sizes: &[usize],
        initial: State,
        backward: bool,
    ) -> Result<(Tensor, State)> {
        let fused = weights.is_fused(self.recurrence);
        let of_inputs = if fused { weights.of_layer_inputs(self.recurrence, x)? } else { weights.of_inputs(x)? };
        let features = of_inputs.dims()[1];
        // Steps with equally many sequences; a layer runs as one what a cell does step by step.
        let mut parts: Vec<(Tensor, usize)> = Vec::new();
        let mut start = 0;
        for steps in batch_sizes.chunk_by(|a, b| fused && a == b) {
            let (count, size) = (steps.len(), steps[0]);
            let rows = of_inputs.narrow(0, start, count * size)?;
            parts.push((if fused { rows.reshape([count, size, features])? } else { rows }, size));
            start += count * size;
        }
        if backward {
            parts.reverse();
        }
        let mut outputs = Vec::with_capacity(parts.len());
        let mut ended: Vec<State> = Vec::new();
        let mut size = parts.first().map_or(0, |(_, size)| *size);
        let mut state = initial.rows(0, size)?;
        for (part, next) in &parts {
            let next = *next;
            if next < size {
                ended.push(state.rows(next, size - next)?);
                state = state.rows(0, next)?;
            } else if next > size {
                state = State::joined(&[state, initial.rows(size, next - size)?])?;
            }
            size = next;
            let output;
            (output, state) = if fused {
                let (output, state) = weights.layer(self.recurrence, part, &state, backward)?;
                (output.flatten(0, 1)?, state)
            } else {
                let state = weights.step(self.recurrence, part, &state)?;
                (state.h.clone(), state)
            };
            outputs.push(output);
        }
        if backward {
            outputs.reverse();
        }
        ended.push(state);
        // The longest sequences come first.
        ended.reverse();
        Ok((Tensor::cat(&outputs.iter().collect::<Vec<_>>(), 0)?, State::joined(&ended)?))
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
