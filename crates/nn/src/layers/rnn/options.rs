//! The options of recurrent layers.

use kiln_tensor::TensorOptions;

use super::step::RNNNonlinearity;

/// Options of `RNN`, `LSTM` and `GRU`.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct RNNOptions {
    pub(super) num_layers: usize,
    pub(super) bias: bool,
    pub(super) batch_first: bool,
    pub(super) dropout: f64,
    pub(super) bidirectional: bool,
    pub(super) proj_size: usize,
    pub(super) nonlinearity: RNNNonlinearity,
    pub(super) tensor: TensorOptions,
}

impl Default for RNNOptions {
    fn default() -> Self {
        RNNOptions {
            num_layers: 1,
            bias: true,
            batch_first: false,
            dropout: 0.0,
            bidirectional: false,
            proj_size: 0,
            nonlinearity: RNNNonlinearity::Tanh,
            tensor: TensorOptions::new(),
        }
    }
}

impl RNNOptions {
    /// The number of stacked layers; 1 by default.
    pub fn num_layers(self, num_layers: usize) -> Self {
        RNNOptions { num_layers, ..self }
    }

    /// Whether to add biases.
    pub fn bias(self, bias: bool) -> Self {
        RNNOptions { bias, ..self }
    }

    /// Whether sequences are `[N, L, features]`; by default they are `[L, N, features]`. Does not apply to states.
    pub fn batch_first(self, batch_first: bool) -> Self {
        RNNOptions { batch_first, ..self }
    }

    /// The probability of dropout between layers while training; 0 by default.
    pub fn dropout(self, dropout: f64) -> Self {
        RNNOptions { dropout, ..self }
    }

    /// Whether each layer also reads the sequence backward; the outputs are concatenated.
    pub fn bidirectional(self, bidirectional: bool) -> Self {
        RNNOptions { bidirectional, ..self }
    }

    /// The size that an [`LSTM`](crate::LSTM) projects its hidden state to; 0 for no projection (Sak, Senior & Beaufays,
    /// 2014).
    pub fn proj_size(self, proj_size: usize) -> Self {
        RNNOptions { proj_size, ..self }
    }

    /// The activation of an [`RNN`](crate::RNN).
    pub fn nonlinearity(self, nonlinearity: RNNNonlinearity) -> Self {
        RNNOptions { nonlinearity, ..self }
    }

    /// Sets the dtype and device.
    pub fn tensor(self, options: impl Into<TensorOptions>) -> Self {
        RNNOptions { tensor: options.into(), ..self }
    }
}
