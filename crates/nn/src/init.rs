//! Initialization: fills tensors before training, in place and unrecorded
//! (<https://docs.pytorch.org/docs/stable/nn.init.html>).
//!
//! ```
//! use kiln_nn::{Linear, init::{self, FanMode, Nonlinearity}};
//! # fn main() -> kiln_tensor::Result<()> {
//! let layer = Linear::new(784, 512)?;
//! init::kaiming_normal_(&layer.weight, FanMode::FanIn, Nonlinearity::ReLU)?;
//! # Ok(())
//! # }
//! ```

use kiln_derive::located;
use kiln_tensor::{DType, Error, Result, Tensor, no_grad};

/// Fills with numbers drawn uniformly from `[low, high)`.
///
/// # Errors
/// If the tensor is not floating-point.
#[located(site)]
pub fn uniform_(tensor: &Tensor, low: f64, high: f64) -> Result<()> {
    no_grad(|| tensor.uniform_(low, high))
}

/// Fills with numbers drawn from a normal distribution.
///
/// # Errors
/// If the tensor is not floating-point.
#[located(site)]
pub fn normal_(tensor: &Tensor, mean: f64, std: f64) -> Result<()> {
    no_grad(|| tensor.normal_(mean, std))
}

/// Fills with numbers drawn from a normal distribution; numbers outside `[low, high]` are redrawn.
///
/// # Errors
/// If the tensor is not floating-point, or fewer than about a tenth of the numbers would be inside.
#[located(site)]
pub fn trunc_normal_(tensor: &Tensor, mean: f64, std: f64, low: f64, high: f64) -> Result<()> {
    /// With a tenth of the numbers inside, the chance that any of 10^9 numbers is still outside after this many rounds
    /// is one in a million.
    const ROUNDS: usize = 330;
    no_grad(|| {
        tensor.normal_(mean, std)?;
        for _ in 0..ROUNDS {
            let inside = tensor.ge(low)?.to_dtype(DType::U8)?.mul(&tensor.le(high)?.to_dtype(DType::U8)?)?;
            if inside.all(())?.item::<bool>()? {
                return Ok(());
            }
            let again = tensor.randn_like()?.mul(std)?.add(mean)?;
            tensor.copy_(&inside.to_dtype(DType::Bool)?.where_cond(tensor, &again)?)?;
        }
        let message = format!("too few numbers with mean {mean} and standard deviation {std} are in [{low}, {high}]");
        Err(Error::argument("trunc_normal_", message))
    })
}

/// Fills with one value.
///
/// # Errors
/// If the tensor is a broadcast view.
#[located(site)]
pub fn constant_(tensor: &Tensor, value: f64) -> Result<()> {
    no_grad(|| tensor.fill_(value))
}

/// Fills with zeros.
///
/// # Errors
/// If the tensor is a broadcast view.
#[located(site)]
pub fn zeros_(tensor: &Tensor) -> Result<()> {
    constant_(tensor, 0.0)
}

/// Fills with ones.
///
/// # Errors
/// If the tensor is a broadcast view.
#[located(site)]
pub fn ones_(tensor: &Tensor) -> Result<()> {
    constant_(tensor, 1.0)
}

/// Fills with the identity matrix: ones on the diagonal, zeros elsewhere.
///
/// # Errors
/// If the tensor is not a matrix.
#[located(site)]
pub fn eye_(tensor: &Tensor) -> Result<()> {
    let (rows, columns) = tensor.dims2()?;
    no_grad(|| {
        let square = Tensor::eye(rows.max(columns), tensor.options())?;
        tensor.copy_(&square.narrow(0, 0, rows)?.narrow(1, 0, columns)?)
    })
}

/// Whether a layer preserves the variance of activations or of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FanMode {
    /// The activations, in the forward pass.
    #[default]
    FanIn,
    /// The gradients, in the backward pass.
    FanOut,
}

/// The nonlinearity after a layer, for [`calculate_gain`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Nonlinearity {
    /// None, or a convolution.
    Linear,
    /// The logistic function.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    ReLU,
    /// `max(x, 0) + slope * min(x, 0)`; PyTorch's default slope is 0.01.
    LeakyReLU(f64),
    /// The scaled exponential linear unit.
    SELU,
}

/// The factor that compensates for a nonlinearity's effect on the standard deviation.
#[must_use]
pub fn calculate_gain(nonlinearity: Nonlinearity) -> f64 {
    match nonlinearity {
        Nonlinearity::Linear | Nonlinearity::Sigmoid => 1.0,
        Nonlinearity::Tanh => 5.0 / 3.0,
        Nonlinearity::ReLU => 2f64.sqrt(),
        Nonlinearity::LeakyReLU(slope) => (2.0 / (1.0 + slope * slope)).sqrt(),
        Nonlinearity::SELU => 0.75,
    }
}

/// The number of inputs per output and of outputs per input, for a weight `[out, in, …]`; further dimensions are a
/// convolution's kernel.
///
/// # Errors
/// If the tensor has fewer than 2 dimensions.
#[located(site)]
pub fn calculate_fan_in_and_fan_out(tensor: &Tensor) -> Result<(usize, usize)> {
    match tensor.dims() {
        [out, input, kernel @ ..] => {
            let size: usize = kernel.iter().product();
            Ok((input * size, out * size))
        }
        _ => Err(Error::shape("init", "a weight [out, in, …] with at least 2 dimensions", tensor.shape())),
    }
}

/// Fills with uniform numbers such that a layer preserves the variance of activations and gradients (Glorot & Bengio,
/// 2010).
///
/// # Errors
/// If the tensor has fewer than 2 dimensions or is not floating-point.
#[located(site)]
pub fn xavier_uniform_(tensor: &Tensor, gain: f64) -> Result<()> {
    let bound = 3f64.sqrt() * xavier_std(tensor, gain)?;
    uniform_(tensor, -bound, bound)
}

/// [`xavier_uniform_`] with a normal distribution.
///
/// # Errors
/// If the tensor has fewer than 2 dimensions or is not floating-point.
#[located(site)]
pub fn xavier_normal_(tensor: &Tensor, gain: f64) -> Result<()> {
    normal_(tensor, 0.0, xavier_std(tensor, gain)?)
}

/// Fills with uniform numbers such that a layer before a rectifier preserves the variance (He et al., 2015).
///
/// # Errors
/// If the tensor has fewer than 2 dimensions or is not floating-point.
#[located(site)]
pub fn kaiming_uniform_(tensor: &Tensor, mode: FanMode, nonlinearity: Nonlinearity) -> Result<()> {
    let bound = 3f64.sqrt() * kaiming_std(tensor, mode, nonlinearity)?;
    uniform_(tensor, -bound, bound)
}

/// [`kaiming_uniform_`] with a normal distribution.
///
/// # Errors
/// If the tensor has fewer than 2 dimensions or is not floating-point.
#[located(site)]
pub fn kaiming_normal_(tensor: &Tensor, mode: FanMode, nonlinearity: Nonlinearity) -> Result<()> {
    normal_(tensor, 0.0, kaiming_std(tensor, mode, nonlinearity)?)
}

fn xavier_std(tensor: &Tensor, gain: f64) -> Result<f64> {
    let (fan_in, fan_out) = calculate_fan_in_and_fan_out(tensor)?;
    Ok(gain * (2.0 / (fan_in + fan_out).max(1) as f64).sqrt())
}

fn kaiming_std(tensor: &Tensor, mode: FanMode, nonlinearity: Nonlinearity) -> Result<f64> {
    let (fan_in, fan_out) = calculate_fan_in_and_fan_out(tensor)?;
    let fan = match mode {
        FanMode::FanIn => fan_in,
        FanMode::FanOut => fan_out,
    };
    Ok(calculate_gain(nonlinearity) / (fan.max(1) as f64).sqrt())
}
