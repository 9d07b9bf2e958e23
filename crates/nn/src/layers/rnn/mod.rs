//! Recurrent layers: Elman's RNN, LSTM and GRU, and their cells.
//!
//! The products of all inputs are one product ahead of the steps; a step adds the product of its hidden state and applies the
//! gates.

mod cells;
mod layers;
mod options;
mod stack;
mod step;

pub use cells::{GRUCell, LSTMCell, RNNCell};
pub use layers::{GRU, LSTM, RNN};
pub use options::RNNOptions;
pub use step::RNNNonlinearity;
