//! The layers, one file per family. Each prints as PyTorch's layer of the same name.

mod activation;
mod attention;
mod conv;
mod conv_norm;
mod dropout;
mod embedding;
mod linear;
mod norm;
mod pad;
mod pair;
mod pool;
mod rnn;
mod sequential;
mod shape;
mod transformer;

pub use activation::{
    CELU, ELU, GELU, GLU, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax, Mish, PReLU,
    RReLU, ReLU, ReLU6, SELU, SiLU, Sigmoid, Softmax, Softmax2d, Softmin, Softplus, Softshrink, Softsign, Tanh,
    Tanhshrink, Threshold,
};
pub use attention::{AttentionMasks, MultiheadAttention, MultiheadAttentionOptions};
pub use conv::{Conv2d, Conv2dOptions, ConvTranspose2d, Padding, PaddingMode};
pub use dropout::{Dropout, Dropout2d};
pub use embedding::Embedding;
pub use linear::{Linear, LinearOptions};
pub(crate) use norm::cumulative_statistics;
pub use norm::{BatchNorm1d, BatchNorm2d, BatchNormOptions, GroupNorm, LayerNorm};
pub use pad::{
    CircularPad1d, CircularPad2d, CircularPad3d, ConstantPad1d, ConstantPad2d, ConstantPad3d, PadAmounts,
    ReflectionPad1d, ReflectionPad2d, ReflectionPad3d, ReplicationPad1d, ReplicationPad2d, ReplicationPad3d, ZeroPad1d,
    ZeroPad2d, ZeroPad3d,
};
pub use pair::{AdaptiveSize, Pair};
pub use pool::{AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d};
pub use rnn::{GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell, RNNNonlinearity, RNNOptions};
pub use sequential::Sequential;
pub use shape::{Flatten, Identity};
pub use transformer::{
    Transformer, TransformerActivation, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer, TransformerMasks, TransformerOptions,
};
