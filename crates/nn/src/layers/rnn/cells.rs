//! Recurrent cells: one step of a recurrent layer as a module.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, TensorOptions};

use super::step::{Extents, RNNNonlinearity, Recurrence, State, Weights};
use crate::{
    module::{Hooks, Module},
    parameter::Parameter,
};

/// Turns `x` and the states of a single sample into a batch of one; returns whether it was a single sample.
fn batched(op: &'static str, x: &Tensor, inputs: usize, states: &mut [Tensor]) -> Result<(Tensor, bool)> {
    if !matches!(x.rank(), 1 | 2) || x.dims().last() != Some(&inputs) {
        return Err(Error::shape(op, format!("[N, {inputs}] or [{inputs}]"), x.shape()));
    }
    let single = x.rank() == 1;
    for state in states {
        if state.rank() != x.rank() {
            return Err(Error::shape(op, "a state for each sample", state.shape()));
        }
        if single {
            *state = state.unsqueeze(0)?;
        }
    }
    Ok((if single { x.unsqueeze(0)? } else { x.clone() }, single))
}

macro_rules! cells {
    ($(
        $(#[$doc:meta])*
        $name:ident $({ $extra:ident: $ty:ty })? |$cell:ident| $recurrence:expr;
    )*) => {$(
        $(#[$doc])*
        ///
        #[doc = concat!("(<https://docs.pytorch.org/docs/stable/generated/torch.nn.", stringify!($name), ".html>)")]
        #[derive(Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            /// The weight of the input, with a block of rows per gate.
            pub weight_ih: Parameter,
            /// The weight of the hidden state.
            pub weight_hh: Parameter,
            /// The bias added to the input's product.
            pub bias_ih: Option<Parameter>,
            /// The bias added to the hidden state's product.
            pub bias_hh: Option<Parameter>,
            input_size: usize,
            hidden_size: usize,
            hooks: Hooks,
            $($extra: $ty,)?
        }

        #[located(site)]
        impl $name {
            /// A cell with biases.
            ///
            /// # Errors
            /// If memory runs out.
            pub fn new(input_size: usize, hidden_size: usize) -> Result<$name> {
                $name::with_options(input_size, hidden_size, true, TensorOptions::new())
            }

            /// A cell with or without biases, of this dtype and on this device.
            ///
            /// # Errors
            /// If the dtype is not floating-point, the device is not available, or memory runs out.
            pub fn with_options(
                input_size: usize,
                hidden_size: usize,
                bias: bool,
                options: impl Into<TensorOptions>,
            ) -> Result<$name> {
                $(let $extra = <$ty>::default();)?
                let gates = $name::GATES;
                let extents = Extents { gates, inputs: input_size, hidden: hidden_size, projection: 0, bias };
                let Weights { weight_ih, weight_hh, bias, .. } = Weights::new(extents, options.into())?;
                let (bias_ih, bias_hh) = bias.map_or((None, None), |[ih, hh]| (Some(ih), Some(hh)));
                Ok($name { weight_ih, weight_hh, bias_ih, bias_hh, input_size, hidden_size, hooks: Hooks::default(), $($extra)? })
            }

            fn recurrence(&self) -> Recurrence {
                let $cell = self;
                $recurrence
            }

            fn weights(&self) -> Weights {
                Weights {
                    weight_ih: self.weight_ih.clone(),
                    weight_hh: self.weight_hh.clone(),
                    bias: self.bias_ih.clone().zip(self.bias_hh.clone()).map(|(ih, hh)| [ih, hh]),
                    weight_hr: None,
                }
            }

            fn describe(&self) -> String {
                let bias = if self.bias_ih.is_some() { "" } else { ", bias=False" };
                let relu = self.recurrence() == Recurrence::Rnn(RNNNonlinearity::ReLU);
                let nonlinearity = if relu { ", nonlinearity=relu" } else { "" };
                format!("{}, {}{bias}{nonlinearity}", self.input_size, self.hidden_size)
            }

            fn advance(&self, x: &Tensor, mut states: Vec<Tensor>) -> Result<Vec<Tensor>> {
                const OP: &str = stringify!($name);
                let (x, single) = batched(OP, x, self.input_size, &mut states)?;
                let x = self.recurrence().cast(&x)?;
                for state in &mut states {
                    *state = self.recurrence().cast(state)?;
                }
                let [n, h] = [x.dims()[0], self.hidden_size];
                for state in &states {
                    if *state.shape() != [n, h] {
                        return Err(Error::shape(OP, format!("states of shape [{n}, {h}]"), state.shape()));
                    }
                }
                let mut states = states.into_iter();
                let zeros = || Tensor::zeros([n, h], x.options());
                let mut next = || states.next().map_or_else(zeros, Ok);
                let recurrence = self.recurrence();
                let state = State { h: next()?, c: Some(next()?).filter(|_| recurrence == Recurrence::Lstm) };
                let weights = self.weights();
                let state = weights.step(recurrence, &weights.of_inputs(&x)?, &state)?;
                let squeezed = |t: Tensor| if single { t.squeeze(0) } else { Ok(t) };
                [Some(state.h), state.c].into_iter().flatten().map(squeezed).collect()
            }
        }
    )*};
}
cells! {
    /// One step of an Elman network: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`, or with ReLU instead of tanh.
    RNNCell { nonlinearity: RNNNonlinearity } |cell| Recurrence::Rnn(cell.nonlinearity);
    /// One step of a long short-term memory (Hochreiter & Schmidhuber, 1997).
    LSTMCell |_cell| Recurrence::Lstm;
    /// One step of a gated recurrent unit (Cho et al., 2014).
    GRUCell |_cell| Recurrence::Gru;
}

impl RNNCell {
    const GATES: usize = 1;
}
impl LSTMCell {
    const GATES: usize = 4;
}
impl GRUCell {
    const GATES: usize = 3;
}

#[located(site)]
impl RNNCell {
    /// The activation.
    #[must_use]
    pub fn nonlinearity(self, nonlinearity: RNNNonlinearity) -> RNNCell {
        RNNCell { nonlinearity, ..self }
    }
}

macro_rules! hidden_only {
    ($($name:ident)*) => {$(
        #[located(site)]
        impl $name {
            /// The hidden state after the step, from `[N, inputs]` and the previous state `[N, hidden]` (zeros, if not
            /// given); or from one sample, without `N`.
            ///
            /// # Errors
            /// If shapes, dtypes or devices do not fit.
            pub fn forward_with_state(&self, x: &Tensor, h: Option<&Tensor>) -> Result<Tensor> {
                self.hooks.run(self, x, |x| self.next(x, h))
            }

            fn next(&self, x: &Tensor, h: Option<&Tensor>) -> Result<Tensor> {
                Ok(self.advance(x, h.into_iter().cloned().collect())?.swap_remove(0))
            }
        }

        #[located(module)]
        impl Module for $name {
            /// Starts from a hidden state of zeros.
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                self.next(x, None)
            }
        }
    )*};
}
hidden_only!(RNNCell GRUCell);

#[located(site)]
impl LSTMCell {
    /// The hidden and cell states after the step, from `[N, inputs]` and the previous states, `[N, hidden]` each
    /// (zeros, if not given); or from one sample, without `N`.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_with_state(&self, x: &Tensor, states: Option<(&Tensor, &Tensor)>) -> Result<(Tensor, Tensor)> {
        self.hooks.run(self, x, |x| self.next(x, states))
    }

    fn next(&self, x: &Tensor, states: Option<(&Tensor, &Tensor)>) -> Result<(Tensor, Tensor)> {
        let states = states.map_or_else(Vec::new, |(h, c)| vec![h.clone(), c.clone()]);
        let mut states = self.advance(x, states)?;
        let c = states.swap_remove(1);
        Ok((states.swap_remove(0), c))
    }
}

#[located(module)]
impl Module for LSTMCell {
    /// The hidden state, starting from states of zeros.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.next(x, None)?.0)
    }
}
