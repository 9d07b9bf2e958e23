//! Recurrent layers: Elman's RNN, LSTM and GRU, and their cells.
//!
//! The products with all inputs are computed as one product before the first step; each step adds the product with its
//! hidden state and applies the gates.

mod cells;
mod layers;
mod options;
mod packed;
mod stack;
mod step;

pub use cells::{GRUCell, LSTMCell, RNNCell};
pub use layers::{GRU, LSTM, RNN};
pub use options::RNNOptions;
pub use packed::{
    PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence, unpack_sequence,
    unpad_sequence,
};
pub use step::RNNNonlinearity;
