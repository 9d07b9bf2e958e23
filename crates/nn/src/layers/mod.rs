//! The layers, one file per family. Each prints as PyTorch's layer of the same name.

mod activation;
mod attention;
mod bilinear;
mod channel_norm;
mod conv;
mod conv_norm;
mod conv_options;
mod conv_transpose;
mod distance;
mod dropout;
mod embedding;
mod fold;
mod fold_cache;
mod fractional_pool;
mod instance_norm;
mod linear;
mod norm;
mod pad;
mod pixel_shuffle;
mod pool;
mod rms_norm;
mod rnn;
mod sequential;
mod shape;
mod sizes;
mod transformer;
mod unpool;
mod upsample;

pub use activation::{
    CELU, ELU, GELU, GLU, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax, Mish, PReLU,
    RReLU, ReLU, ReLU6, SELU, SiLU, Sigmoid, Softmax, Softmax2d, Softmin, Softplus, Softshrink, Softsign, Tanh,
    Tanhshrink, Threshold,
};
pub use attention::{AttentionMasks, MultiheadAttention, MultiheadAttentionOptions};
pub use bilinear::Bilinear;
pub use conv::{Conv1d, Conv2d, Conv3d};
pub use conv_options::{Conv1dOptions, Conv2dOptions, Conv3dOptions, ConvOptions, Padding, PaddingMode};
pub use conv_transpose::{ConvTranspose1d, ConvTranspose2d, ConvTranspose3d};
pub use distance::{CosineSimilarity, PairwiseDistance};
pub use dropout::{AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout};
pub use embedding::{Embedding, EmbeddingBag, EmbeddingBagOptions, EmbeddingOptions};
pub use fold::{Fold, Unfold};
pub use fractional_pool::{FractionalMaxPool2d, FractionalMaxPool3d};
pub use instance_norm::{InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, InstanceNormOptions};
pub use linear::{Linear, LinearOptions};
pub(crate) use norm::cumulative_statistics;
pub use norm::{BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormOptions, GroupNorm, LayerNorm};
pub use pad::{
    CircularPad1d, CircularPad2d, CircularPad3d, ConstantPad1d, ConstantPad2d, ConstantPad3d, PadAmounts,
    ReflectionPad1d, ReflectionPad2d, ReflectionPad3d, ReplicationPad1d, ReplicationPad2d, ReplicationPad3d, ZeroPad1d,
    ZeroPad2d, ZeroPad3d,
};
pub use pixel_shuffle::{ChannelShuffle, PixelShuffle, PixelUnshuffle};
pub use pool::{
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d,
    AvgPool1d, AvgPool2d, AvgPool3d, LPPool1d, LPPool2d, LPPool3d, MaxPool1d, MaxPool2d, MaxPool3d,
};
pub use rms_norm::{LocalResponseNorm, RMSNorm};
pub use rnn::{
    GRU, GRUCell, LSTM, LSTMCell, PackedSequence, RNN, RNNCell, RNNNonlinearity, RNNOptions, pack_padded_sequence,
    pack_sequence, pad_packed_sequence, pad_sequence, unpack_sequence, unpad_sequence,
};
pub use sequential::Sequential;
pub use shape::{Flatten, Identity, Unflatten};
pub use sizes::{AdaptiveSize, Pair, PerDim, Sizes};
pub use transformer::{
    Transformer, TransformerActivation, TransformerDecoder, TransformerDecoderLayer, TransformerEncoder,
    TransformerEncoderLayer, TransformerMasks, TransformerOptions,
};
pub use unpool::{MaxUnpool1d, MaxUnpool2d, MaxUnpool3d};
pub use upsample::{Upsample, UpsampleMode, UpsamplingBilinear2d, UpsamplingNearest2d};
