//! `Registry`: the types of modules that a file may name.

use std::collections::BTreeMap;

use kiln_tensor::Result;

use super::{Restoring, SavedName, Value};
use crate::{
    layers::{
        AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, CELU, CircularPad1d, CircularPad2d,
        CircularPad3d, ConstantPad1d, ConstantPad2d, ConstantPad3d, Conv2d, ConvTranspose2d, Dropout, Dropout2d, ELU,
        Embedding, Flatten, GELU, GLU, GRU, GRUCell, GroupNorm, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, Identity,
        LSTM, LSTMCell, LayerNorm, LeakyReLU, Linear, LogSigmoid, LogSoftmax, MaxPool2d, Mish, MultiheadAttention,
        PReLU, RNN, RNNCell, RReLU, ReLU, ReLU6, ReflectionPad1d, ReflectionPad2d, ReflectionPad3d, ReplicationPad1d,
        ReplicationPad2d, ReplicationPad3d, SELU, Sequential, SiLU, Sigmoid, Softmax, Softmax2d, Softmin, Softplus,
        Softshrink, Softsign, Tanh, Tanhshrink, Threshold, TransformerEncoder, TransformerEncoderLayer, ZeroPad1d,
        ZeroPad2d, ZeroPad3d,
    },
    module::Module,
};

/// The types of modules that a file may name, each with its constructor.
///
/// ```
/// use kiln_nn::{Linear, Module, saved::Registry};
/// use kiln_tensor::{Result, Tensor};
///
/// #[derive(Module)]
/// #[module(save)]
/// struct Net {
///     fc: Linear,
/// }
///
/// impl Module for Net {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         self.fc.forward(x)
///     }
/// }
///
/// let registry = Registry::new().with::<Net>();
/// ```
#[derive(Clone)]
pub struct Registry {
    makers: BTreeMap<&'static str, Maker>,
}

type Maker = fn(&Value, &mut Restoring<'_>) -> Result<Box<dyn Module>>;

fn make<M: SavedName + Module + 'static>(value: &Value, at: &mut Restoring<'_>) -> Result<Box<dyn Module>> {
    Ok(Box::new(M::restore(value, at)?))
}

macro_rules! layers {
    ($registry:expr; $($layer:ty)*) => { $registry$(.with::<$layer>())* };
}

impl Registry {
    /// The layers of this crate.
    #[must_use]
    pub fn new() -> Registry {
        layers! {
            Registry { makers: BTreeMap::new() };
            AdaptiveAvgPool2d AdaptiveMaxPool2d AvgPool2d BatchNorm1d BatchNorm2d CELU CircularPad1d CircularPad2d
            CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Conv2d ConvTranspose2d Dropout Dropout2d ELU
            Embedding Flatten GELU GLU GRU GRUCell GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh Identity LSTM
            LSTMCell LayerNorm LeakyReLU Linear LogSigmoid LogSoftmax MaxPool2d Mish MultiheadAttention PReLU RNN
            RNNCell RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d
            ReplicationPad2d ReplicationPad3d SELU Sequential SiLU Sigmoid Softmax Softmax2d Softmin Softplus
            Softshrink Softsign Tanh Tanhshrink Threshold TransformerEncoder TransformerEncoderLayer ZeroPad1d
            ZeroPad2d ZeroPad3d
        }
    }

    /// Adds a type. If two types have the same name, the last one counts.
    #[must_use]
    pub fn with<M: SavedName + Module + 'static>(mut self) -> Registry {
        self.makers.insert(M::TYPE, make::<M>);
        self
    }

    /// The names of the types.
    pub fn types(&self) -> impl Iterator<Item = &'static str> {
        self.makers.keys().copied()
    }

    pub(super) fn maker(&self, name: &str) -> Option<Maker> {
        self.makers.get(name).copied()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.types()).finish()
    }
}
