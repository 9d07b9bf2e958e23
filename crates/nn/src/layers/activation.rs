//! Activations: element-wise functions, and softmax.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use crate::Module;

/// `max(x, 0)`, element by element.
#[derive(Clone, Copy, Debug, Default, Module)]
#[module(save, extra_repr = "describe")]
pub struct ReLU {
    inplace: bool,
}

impl ReLU {
    /// The layer.
    #[must_use]
    pub fn new() -> ReLU {
        ReLU::default()
    }

    /// Prints `inplace=True`, as the layers of PyTorch's models do. It computes the same: the input is not
    /// overwritten.
    #[must_use]
    pub fn inplace() -> ReLU {
        ReLU { inplace: true }
    }

    fn describe(&self) -> String {
        if self.inplace { "inplace=True".into() } else { String::new() }
    }
}

#[located(module)]
impl Module for ReLU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.relu()
    }

    fn is_relu(&self) -> bool {
        true
    }
}

/// Layers without settings, each one function of its input.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Module)]
        #[module(save)]
        pub struct $name;

        #[located(site)]
        impl $name {
            /// The layer.
            #[must_use]
            pub fn new() -> $name {
                $name
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method()
            }
        }
    )*};
}
functions! {
    /// `1 / (1 + exp(-x))`, element by element.
    Sigmoid sigmoid;
    /// The hyperbolic tangent, element by element.
    Tanh tanh;
}

/// The Gaussian error linear unit `x * Φ(x)` (Hendrycks & Gimpel, 2016), element by element.
#[derive(Clone, Copy, Debug, Default, Module)]
#[module(save, extra_repr = "describe")]
pub struct GELU {
    tanh: bool,
}

impl GELU {
    /// The exact function.
    #[must_use]
    pub fn new() -> GELU {
        GELU::default()
    }

    /// Its approximation by a hyperbolic tangent, PyTorch's `approximate='tanh'`.
    #[must_use]
    pub fn tanh() -> GELU {
        GELU { tanh: true }
    }

    fn describe(&self) -> String {
        format!("approximate='{}'", if self.tanh { "tanh" } else { "none" })
    }
}

#[located(module)]
impl Module for GELU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.tanh { x.gelu_tanh() } else { x.gelu() }
    }
}

/// Layers along one dimension.
macro_rules! along_a_dimension {
    ($($(#[$doc:meta])* $name:ident $method:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            dim: i64,
        }

        #[located(site)]
        impl $name {
            /// The layer along dimension `dim`; -1 is the last.
            #[must_use]
            pub fn new(dim: i64) -> $name {
                $name { dim }
            }

            fn describe(&self) -> String {
                format!("dim={}", self.dim)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, x: &Tensor) -> Result<Tensor> {
                x.$method(self.dim)
            }
        }
    )*};
}
along_a_dimension! {
    /// `exp(x) / sum(exp(x))` along a dimension.
    Softmax softmax;
    /// The logarithm of softmax along a dimension.
    LogSoftmax log_softmax;
}
