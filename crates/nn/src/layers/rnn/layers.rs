//! The recurrent layers `RNN`, `LSTM` and `GRU`.

use std::{any::Any, fmt};

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};
use serde_json::Value;

use super::{options::RNNOptions, packed::PackedSequence, stack::Stack, step::Recurrence};

use crate::{
    module::{Field, FieldKind, Hooks, Module, ModuleTree, Part, PartMut},
    saved::{Describing, Restoring, Saved, SavedName},
};

macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident |$nonlinearity:pat_param| $recurrence:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// Sequences are `[L, N, input_size]`, or `[N, L, input_size]` with [`RNNOptions::batch_first`], or `[L, input_size]`
        /// without a batch; states `[layers * directions, N, hidden_size]`. Parameters have PyTorch's names, `weight_ih_l0`,
        /// `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, …, `_reverse` for the second direction.
        #[doc = concat!("(<https://docs.pytorch.org/docs/stable/generated/torch.nn.", stringify!($name), ".html>)")]
        #[derive(Debug)]
        pub struct $name {
            stack: Stack,
        }

        #[located(site)]
        impl $name {
            /// A single forward layer with biases.
            ///
            /// # Errors
            /// If the hidden size is 0, or memory runs out.
            pub fn new(input_size: usize, hidden_size: usize) -> Result<$name> {
                $name::with_options(input_size, hidden_size, RNNOptions::default())
            }

            /// Layers with options.
            ///
            /// # Errors
            /// If a size or the number of layers is 0, the dropout is not a probability, a projection is requested of a
            /// layer other than an LSTM or is not smaller than the hidden size, the dtype is not floating-point, the
            /// device is not available, or memory runs out.
            pub fn with_options(input_size: usize, hidden_size: usize, options: RNNOptions) -> Result<$name> {
                let $nonlinearity = options.nonlinearity;
                Ok($name { stack: Stack::new(stringify!($name), $recurrence, input_size, hidden_size, options)? })
            }
        }

        #[located(module)]
        impl Module for $name {
            /// The outputs of the last layer, `[L, N, directions * hidden_size]`, starting from states of zeros.
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                Ok(self.stack.forward(x, None, None)?.0)
            }
        }

        impl ModuleTree for $name {
            fn type_name(&self) -> &str {
                stringify!($name)
            }
            fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
                self.stack.visit(each);
            }
            fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
                self.stack.visit_mut(each);
            }
            fn extra_repr(&self) -> String {
                self.stack.describe()
            }
            fn architecture(&self, at: &mut Describing) -> Result<Value> {
                self.save(at)
            }
            fn hooks(&self) -> Option<&Hooks> {
                Some(self.stack.hooks())
            }
            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }

        impl Field for $name {
            const KIND: FieldKind = FieldKind::Module;
            fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>)) {
                each(name, Part::Module(self));
            }
            fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>)) {
                each(name, PartMut::Module(self));
            }
        }

        impl Saved for $name {
            fn save(&self, at: &mut Describing) -> Result<Value> {
                self.stack.save(at)
            }
            fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<$name> {
                Ok($name { stack: Stack::restore(stringify!($name), |$nonlinearity| $recurrence, value, at)? })
            }
        }

        impl SavedName for $name {
            const TYPE: &'static str = stringify!($name);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.repr())
            }
        }
    )*};
}
layers! {
    /// An Elman network: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)`, or with ReLU.
    RNN |nonlinearity| Recurrence::Rnn(nonlinearity);
    /// Long short-term memory (Hochreiter & Schmidhuber, 1997).
    LSTM |_| Recurrence::Lstm;
    /// Gated recurrent units (Cho et al., 2014).
    GRU |_| Recurrence::Gru;
}

macro_rules! hidden_only {
    ($($name:ident)*) => {$(
        #[located(site)]
        impl $name {
            /// The outputs of the last layer and the final hidden states, from initial hidden states (zeros, if not
            /// given).
            ///
            /// # Errors
            /// If shapes, dtypes or devices do not fit, or the sequence is empty.
            pub fn forward_with_state(&self, x: &Tensor, h: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
                self.stack.hooks().run(self, x, |x| {
                    let (output, h, _) = self.stack.forward(x, h, None)?;
                    Ok((output, h))
                })
            }

            /// [`forward_with_state`](Self::forward_with_state) for sequences of different lengths: their outputs, and
            /// the hidden state after the last element of each, in the order of the batch.
            ///
            /// # Errors
            /// If shapes, dtypes or devices do not fit.
            pub fn forward_packed(&self, x: &PackedSequence, h: Option<&Tensor>) -> Result<(PackedSequence, Tensor)> {
                let run = |data: &Tensor| {
                    let (output, h, _) = self.stack.forward_packed(&x.with_data(data.clone()), h, None)?;
                    Ok((output, h))
                };
                let (output, h) = self.stack.hooks().run(self, x.data(), run)?;
                Ok((x.with_data(output), h))
            }
        }
    )*};
}
hidden_only!(RNN GRU);

#[located(site)]
impl LSTM {
    /// The outputs of the last layer, and the final hidden and cell states, from initial ones (zeros, if not given).
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, or the sequence is empty.
    pub fn forward_with_state(
        &self,
        x: &Tensor,
        states: Option<(&Tensor, &Tensor)>,
    ) -> Result<(Tensor, (Tensor, Tensor))> {
        let (h, c) = states.unzip();
        self.stack.hooks().run(self, x, |x| {
            let (output, h, c) = self.stack.forward(x, h, c)?;
            let c = c.ok_or_else(|| Error::argument("LSTM", "there is no cell state"))?;
            Ok((output, (h, c)))
        })
    }

    /// [`forward_with_state`](LSTM::forward_with_state) for sequences of different lengths: their outputs, and the states
    /// after the last element of each, in the order of the batch.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward_packed(
        &self,
        x: &PackedSequence,
        states: Option<(&Tensor, &Tensor)>,
    ) -> Result<(PackedSequence, (Tensor, Tensor))> {
        let (h, c) = states.unzip();
        let run = |data: &Tensor| {
            let (output, h, c) = self.stack.forward_packed(&x.with_data(data.clone()), h, c)?;
            let c = c.ok_or_else(|| Error::argument("LSTM", "there is no cell state"))?;
            Ok((output, (h, c)))
        };
        let (output, states) = self.stack.hooks().run(self, x.data(), run)?;
        Ok((x.with_data(output), states))
    }
}
