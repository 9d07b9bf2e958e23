//! One step of a recurrent layer: gates and states.

use kiln_tensor::{Error, Result, Tensor, TensorOptions, autocast::cast_operand};

use crate::{init, parameter::Parameter, saved_choice};

/// The activation of an [`RNN`](crate::RNN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RNNNonlinearity {
    /// The hyperbolic tangent.
    #[default]
    Tanh,
    /// ReLU.
    ReLU,
}

saved_choice!(RNNNonlinearity { Tanh "tanh", ReLU "relu" });

/// The kind of recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recurrence {
    Rnn(RNNNonlinearity),
    Lstm,
    Gru,
}

impl Recurrence {
    /// The number of gates: its weights have this many times the hidden size rows.
    pub fn gates(self) -> usize {
        match self {
            Recurrence::Rnn(_) => 1,
            Recurrence::Lstm => 4,
            Recurrence::Gru => 3,
        }
    }

    /// An input or a state in the dtype that autocast gives it: all of a recurrent layer is computed in the low one, as
    /// by PyTorch's fused cells.
    pub fn cast(self, tensor: &Tensor) -> Result<Tensor> {
        let operation = match self {
            Recurrence::Rnn(RNNNonlinearity::Tanh) => "rnn_tanh_cell",
            Recurrence::Rnn(RNNNonlinearity::ReLU) => "rnn_relu_cell",
            Recurrence::Lstm => "lstm_cell",
            Recurrence::Gru => "gru_cell",
        };
        cast_operand(operation, tensor)
    }
}

/// The parameters of one layer in one direction, with PyTorch's names.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[gates * hidden, inputs]`.
    pub weight_ih: Parameter,
    /// `[gates * hidden, outputs]`.
    pub weight_hh: Parameter,
    /// `[gates * hidden]`, both or neither.
    pub bias: Option<[Parameter; 2]>,
    /// `[projection, hidden]`, for an LSTM that projects its hidden state.
    pub weight_hr: Option<Parameter>,
}

/// The extents of a [`Weights`].
#[derive(Clone, Copy)]
pub(super) struct Extents {
    /// The number of gates.
    pub gates: usize,
    pub inputs: usize,
    pub hidden: usize,
    /// The projection's size; 0 for none.
    pub projection: usize,
    pub bias: bool,
}

impl Weights {
    /// Parameters drawn uniformly from `± 1 / sqrt(hidden)`, as in PyTorch.
    pub fn new(e: Extents, options: TensorOptions) -> Result<Weights> {
        let bound = if e.hidden == 0 { 0.0 } else { 1.0 / (e.hidden as f64).sqrt() };
        let drawn = |dims: &[usize]| {
            let tensor = Tensor::empty(dims, options)?;
            init::uniform_(&tensor, -bound, bound)?;
            Parameter::new(tensor)
        };
        let rows = e.gates * e.hidden;
        let outputs = if e.projection > 0 { e.projection } else { e.hidden };
        Ok(Weights {
            weight_ih: drawn(&[rows, e.inputs])?,
            weight_hh: drawn(&[rows, outputs])?,
            bias: e.bias.then(|| Ok::<_, Error>([drawn(&[rows])?, drawn(&[rows])?])).transpose()?,
            weight_hr: (e.projection > 0).then(|| drawn(&[e.projection, e.hidden])).transpose()?,
        })
    }

    /// The inputs' contribution to the gates, `[…, inputs]` to `[…, gates * hidden]`, for all steps at once.
    pub fn of_inputs(&self, x: &Tensor) -> Result<Tensor> {
        x.linear(&self.weight_ih, self.bias.as_ref().map(|[ih, _]| &**ih))
    }

    /// The states after a step, from the inputs' contribution to the gates and the previous states.
    pub fn step(&self, recurrence: Recurrence, of_inputs: &Tensor, state: &State) -> Result<State> {
        let h = &state.h;
        let of_hidden = h.linear(&self.weight_hh, self.bias.as_ref().map(|[_, hh]| &**hh))?;
        match recurrence {
            Recurrence::Rnn(nonlinearity) => {
                let sum = of_inputs.add(&of_hidden)?;
                let h = match nonlinearity {
                    RNNNonlinearity::Tanh => sum.tanh()?,
                    RNNNonlinearity::ReLU => sum.relu()?,
                };
                Ok(State { h, c: None })
            }
            Recurrence::Lstm => {
                let (h, c) = of_inputs.lstm_cell(&of_hidden, state.cell()?)?;
                let h = self.weight_hr.as_ref().map_or(Ok(h.clone()), |weight| h.linear(weight, None))?;
                Ok(State { h, c: Some(c) })
            }
            Recurrence::Gru => Ok(State { h: of_inputs.gru_cell(&of_hidden, h)?, c: None }),
        }
    }

    /// Whether [`layer`](Weights::layer) runs all steps at once.
    pub fn is_fused(&self, recurrence: Recurrence) -> bool {
        recurrence != Recurrence::Lstm || self.weight_hr.is_none()
    }

    /// [`of_inputs`](Weights::of_inputs) for [`layer`](Weights::layer).
    pub fn of_layer_inputs(&self, recurrence: Recurrence, x: &Tensor) -> Result<Tensor> {
        match (recurrence, &self.bias) {
            // A GRU resets a part of the hidden state's product, with its bias.
            (Recurrence::Rnn(_) | Recurrence::Lstm, Some([ih, hh])) => x.linear(&self.weight_ih, Some(&ih.add(&**hh)?)),
            _ => self.of_inputs(x),
        }
    }

    /// All steps, from [`of_layer_inputs`](Weights::of_layer_inputs) as `[steps, N, gates * hidden]`: the hidden states in
    /// sequence order, and the final states.
    pub fn layer(
        &self,
        recurrence: Recurrence,
        of_inputs: &Tensor,
        state: &State,
        backward: bool,
    ) -> Result<(Tensor, State)> {
        let (h, weight) = (&state.h, &*self.weight_hh);
        let (y, h) = match recurrence {
            Recurrence::Rnn(RNNNonlinearity::Tanh) => of_inputs.rnn_tanh_layer(h, weight, backward)?,
            Recurrence::Rnn(RNNNonlinearity::ReLU) => of_inputs.rnn_relu_layer(h, weight, backward)?,
            Recurrence::Lstm => {
                let (y, h, c) = of_inputs.lstm_layer(h, state.cell()?, weight, backward)?;
                return Ok((y, State { h, c: Some(c) }));
            }
            Recurrence::Gru => of_inputs.gru_layer(h, weight, self.bias.as_ref().map(|[_, hh]| &**hh), backward)?,
        };
        Ok((y, State { h, c: None }))
    }
}

/// The hidden state and, for an LSTM, the cell state: `[N, features]` each.
#[derive(Clone)]
pub(super) struct State {
    pub h: Tensor,
    pub c: Option<Tensor>,
}

impl State {
    fn cell(&self) -> Result<&Tensor> {
        self.c.as_ref().ok_or_else(|| Error::argument("LSTM", "there is no cell state"))
    }

    /// The states of `len` sequences, from `start` on.
    pub fn rows(&self, start: usize, len: usize) -> Result<State> {
        let rows = |tensor: &Tensor| tensor.narrow(0, start, len);
        Ok(State { h: rows(&self.h)?, c: self.c.as_ref().map(rows).transpose()? })
    }

    /// The states of all sequences of these, in this order.
    pub fn joined(parts: &[State]) -> Result<State> {
        if let [only] = parts {
            return Ok(only.clone());
        }
        let h: Vec<&Tensor> = parts.iter().map(|part| &part.h).collect();
        let c: Vec<&Tensor> = parts.iter().filter_map(|part| part.c.as_ref()).collect();
        Ok(State { h: Tensor::cat(&h, 0)?, c: if c.is_empty() { None } else { Some(Tensor::cat(&c, 0)?) } })
    }
}
