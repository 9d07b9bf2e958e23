//! Activation layers: element-wise functions, softmax, GLU.

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor, TensorOptions};

use super::sizes::python_float;
use crate::{
    module::{Hooks, Module},
    parameter::{Parameter, Training},
};

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

    /// A layer that prints `inplace=True`, as the layers of PyTorch's models do. It computes the same: the input is not
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

/// Layers without settings that apply one function.
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
    /// `min(max(x + 3, 0), 6) / 6`, element by element.
    Hardsigmoid hardsigmoid;
    /// `x * min(max(x + 3, 0), 6) / 6`, element by element (Howard et al., 2019).
    Hardswish hardswish;
    /// `log(sigmoid(x))`, element by element.
    LogSigmoid log_sigmoid;
    /// `x / (1 + |x|)`, element by element.
    Softsign softsign;
    /// `x - tanh(x)`, element by element.
    Tanhshrink tanhshrink;
}

/// The text of a layer that would overwrite its input in PyTorch.
fn inplace_repr(numbers: String, inplace: bool) -> String {
    match (numbers.is_empty(), inplace) {
        (_, false) => numbers,
        (true, true) => "inplace=True".into(),
        (false, true) => format!("{numbers}, inplace=True"),
    }
}

/// Layers with numeric settings, `label = default`, that apply one function. A label of `""` is not printed.
macro_rules! functions_of_numbers {
    ($(
        $(#[$doc:meta])*
        $name:ident($($number:ident $label:literal = $default:expr),*) |$x:ident, $layer:ident| $run:expr;
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Module)]
        #[module(save, extra_repr = "describe")]
        pub struct $name {
            $($number: f64,)*
            inplace: bool,
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($number: $default,)* inplace: false }
            }
        }

        impl $name {
            /// A layer with these settings; `default()` has PyTorch's.
            #[must_use]
            pub fn new($($number: f64),*) -> $name {
                $name { $($number,)* inplace: false }
            }

            /// Makes it print `inplace=True`. It computes the same: the input is not overwritten.
            #[must_use]
            pub fn inplace(mut self) -> $name {
                self.inplace = true;
                self
            }

            fn describe(&self) -> String {
                let numbers: &[(&str, f64)] = &[$(($label, self.$number)),*];
                let text = |&(label, number): &(&str, f64)| match label {
                    "" => python_float(number),
                    label => format!("{label}={}", python_float(number)),
                };
                inplace_repr(numbers.iter().map(text).collect::<Vec<_>>().join(", "), self.inplace)
            }
        }

        #[located(module)]
        impl Module for $name {
            fn forward(&self, $x: &Tensor) -> Result<Tensor> {
                let $layer = self;
                $run
            }
        }
    )*};
}
functions_of_numbers! {
    /// `min(max(x, 0), 6)`, element by element.
    ReLU6() |x, _layer| x.relu6();
    /// The scaled exponential linear unit, element by element (Klambauer et al., 2017).
    SELU() |x, _layer| x.selu();
    /// `x * sigmoid(x)`, element by element; also called swish.
    SiLU() |x, _layer| x.silu();
    /// `x * tanh(softplus(x))`, element by element (Misra, 2019).
    Mish() |x, _layer| x.mish();
    /// `x` where it is positive, else `negative_slope * x`, element by element.
    LeakyReLU(negative_slope "negative_slope" = 0.01) |x, layer| x.leaky_relu(layer.negative_slope);
    /// `x` where it is positive, else `alpha * (exp(x) - 1)`, element by element (Clevert et al., 2015).
    ELU(alpha "alpha" = 1.0) |x, layer| x.elu(layer.alpha);
    /// `x` where it is positive, else `alpha * (exp(x / alpha) - 1)`, element by element (Barron, 2017).
    CELU(alpha "alpha" = 1.0) |x, layer| x.celu(layer.alpha);
    /// `min(max(x, min_val), max_val)`, element by element.
    Hardtanh(min_val "min_val" = -1.0, max_val "max_val" = 1.0) |x, layer| x.hardtanh(layer.min_val, layer.max_val);
    /// `x` where it is above the threshold, else `value`, element by element.
    Threshold(threshold "threshold" = 0.0, value "value" = 0.0) |x, layer| x.threshold(layer.threshold, layer.value);
    /// `log(1 + exp(beta * x)) / beta`, and `x` where `beta * x` is above the threshold, element by element.
    Softplus(beta "beta" = 1.0, threshold "threshold" = 20.0) |x, layer| x.softplus_beta(layer.beta, layer.threshold);
    /// 0 where `|x|` is at most `lambda`, else `x`, element by element.
    Hardshrink(lambda "" = 0.5) |x, layer| x.hardshrink(layer.lambda);
    /// `x` moved toward 0 by `lambda`, element by element.
    Softshrink(lambda "" = 0.5) |x, layer| x.softshrink(layer.lambda);
}

/// `x` where it is positive, else `weight * x` with learned slopes, one for all elements or one for each channel of
/// `[N, C, …]` (He et al., 2015).
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct PReLU {
    /// The slopes, `[num_parameters]`; initially 0.25.
    pub weight: Parameter,
    hooks: Hooks,
}

#[located(site)]
impl PReLU {
    /// A layer with one slope (`num_parameters` is 1), or one per channel.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(num_parameters: usize) -> Result<PReLU> {
        PReLU::with_options(num_parameters, 0.25, TensorOptions::new())
    }

    /// A layer whose slopes have this initial value, dtype and device.
    ///
    /// # Errors
    /// If the dtype is not floating-point, the device is not available, or memory runs out.
    pub fn with_options(num_parameters: usize, init: f64, options: impl Into<TensorOptions>) -> Result<PReLU> {
        let weight = Parameter::new(Tensor::full(num_parameters, init, options.into())?)?;
        Ok(PReLU { weight, hooks: Hooks::default() })
    }

    fn describe(&self) -> String {
        format!("num_parameters={}", self.weight.numel())
    }
}

#[located(module)]
impl Module for PReLU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.prelu(&self.weight)
    }
}

/// While training, `x` where it is positive, else `x` times a number drawn between `lower` and `upper` for each element
/// (Xu et al., 2015); in evaluation mode, a [`LeakyReLU`] with their mean.
#[derive(Debug, Module)]
#[module(save, extra_repr = "describe")]
pub struct RReLU {
    lower: f64,
    upper: f64,
    training: Training,
}

impl Default for RReLU {
    fn default() -> RReLU {
        RReLU::new(0.125, 1.0 / 3.0)
    }
}

impl RReLU {
    /// A layer with these bounds; `default()` has PyTorch's, 1/8 and 1/3.
    #[must_use]
    pub fn new(lower: f64, upper: f64) -> RReLU {
        RReLU { lower, upper, training: Training::default() }
    }

    fn describe(&self) -> String {
        format!("lower={}, upper={}", python_float(self.lower), python_float(self.upper))
    }
}

#[located(module)]
impl Module for RReLU {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.rrelu(self.lower, self.upper, self.training.is_on())
    }
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

/// Layers that act along one dimension.
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
            /// A layer along dimension `dim`; -1 is the last.
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
    /// `exp(-x) / sum(exp(-x))` along a dimension.
    Softmin softmin;
    /// The first half along a dimension times the sigmoid of the second (Dauphin et al., 2016).
    GLU glu;
}

/// Softmax over the channels of `[N, C, H, W]` or `[C, H, W]`, for each pixel.
#[derive(Clone, Copy, Debug, Default, Module)]
#[module(save)]
pub struct Softmax2d;

impl Softmax2d {
    /// The layer.
    #[must_use]
    pub fn new() -> Softmax2d {
        Softmax2d
    }
}

#[located(module)]
impl Module for Softmax2d {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.rank() != 3 && x.rank() != 4 {
            return Err(Error::shape("Softmax2d", "[N, C, H, W] or [C, H, W]", x.shape()));
        }
        x.softmax(-3)
    }
}
