//! Window functions of signal processing: Hann, Hamming, Kaiser, ….

use std::f64::consts::{PI, SQRT_2};

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::TensorOptions;
use crate::{autograd::no_grad, tensor::Tensor};

/// A window function, for [`Tensor::window`]; each has the name of PyTorch's
/// (<https://docs.pytorch.org/docs/stable/signal.html>).
#[derive(Clone, Debug, PartialEq)]
pub enum WindowFunction {
    /// A triangle that is 0 at the ends.
    Bartlett,
    /// [`GeneralCosine`](WindowFunction::GeneralCosine) of 0.42, 0.5 and 0.08.
    Blackman,
    /// Half a period of a sine.
    Cosine,
    /// An exponential that falls on both sides from the center, to 1/e in `tau` samples.
    Exponential {
        /// The rate of decay; PyTorch's default is 1.
        tau: f64,
    },
    /// A normal distribution of 1 in the center.
    Gaussian {
        /// The standard deviation in samples; PyTorch's default is 1.
        std: f64,
    },
    /// A sum of cosines of 0, 1, 2, … periods, with these factors, whose signs alternate.
    GeneralCosine(Vec<f64>),
    /// `alpha` less `1 - alpha` times the cosine of a period.
    GeneralHamming {
        /// The constant part; PyTorch's default is 0.54.
        alpha: f64,
    },
    /// [`GeneralHamming`](WindowFunction::GeneralHamming) of 0.54.
    Hamming,
    /// [`GeneralHamming`](WindowFunction::GeneralHamming) of 0.5.
    Hann,
    /// The window of Kaiser, from the modified Bessel function of order 0.
    Kaiser {
        /// How narrow it is; PyTorch's default is 12.
        beta: f64,
    },
    /// [`GeneralCosine`](WindowFunction::GeneralCosine) of Nuttall's four factors.
    Nuttall,
}

#[located]
impl Tensor {
    /// The `m` values of a window function: symmetric ones, for the design of filters, or (`sym` is false) the first `m` of `m + 1`, a
    /// period for spectral analysis. PyTorch's `torch.signal.windows` and, with `sym` false, `torch.hann_window` and its kin. They
    /// are computed in `f64`.
    ///
    /// # Errors
    /// If the dtype is not floating-point, `tau` or `std` is not above 0, `beta` is negative, there are no factors, or the device is
    /// not available.
    pub fn window(window: &WindowFunction, m: usize, sym: bool, options: impl Into<TensorOptions>) -> Result<Tensor> {
        const OP: &str = "window";
        let options: TensorOptions = options.into();
        let dtype = options.dtype_or(DType::F32);
        if !dtype.is_float() {
            return Err(Error::dtype(OP, dtype, "a window is of floats"));
        }
        let is_right = match window {
            WindowFunction::Exponential { tau: positive } | WindowFunction::Gaussian { std: positive } => {
                *positive > 0.0
            }
            WindowFunction::Kaiser { beta } => *beta >= 0.0,
            WindowFunction::GeneralCosine(factors) => !factors.is_empty(),
            _ => true,
        };
        if !is_right {
            return Err(Error::argument(OP, format!("{window:?} has an argument out of range")));
        }
        let wide = (DType::F64, options.device);
        let values = no_grad(|| match m {
            0 | 1 => Tensor::ones([m], wide),
            // The whole window is one longer than a period.
            _ => values(window, &Tensor::arange(0, m as i64, wide)?, if sym { m } else { m + 1 } as f64),
        });
        values?.to_dtype(dtype)?.requires_grad_(options.requires_grad)
    }
}

/// The values at places from 0 to `n - 1`, all of which the window has.
fn values(window: &WindowFunction, places: &Tensor, n: f64) -> Result<Tensor> {
    let from_center = || places.sub((n - 1.0) / 2.0);
    let cosines = |factors: &[f64]| {
        let turn = places.mul(2.0 * PI / (n - 1.0))?;
        let sum = Tensor::zeros(places.dims(), places.options())?;
        factors.iter().enumerate().try_fold(sum, |sum, (i, &factor)| {
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            sum.add(&turn.mul(i as f64)?.cos()?.mul(sign * factor)?)
        })
    };
    match window {
        WindowFunction::Bartlett => places.mul(2.0 / (n - 1.0))?.sub(1.0)?.abs()?.neg()?.add(1.0),
        WindowFunction::Cosine => places.add(0.5)?.mul(PI / n)?.sin(),
        WindowFunction::Exponential { tau } => from_center()?.abs()?.div(-tau)?.exp(),
        WindowFunction::Gaussian { std } => from_center()?.div(std * SQRT_2)?.square()?.neg()?.exp(),
        WindowFunction::GeneralCosine(factors) => cosines(factors),
        WindowFunction::GeneralHamming { alpha } => cosines(&[*alpha, 1.0 - alpha]),
        WindowFunction::Hamming => cosines(&[0.54, 0.46]),
        WindowFunction::Hann => cosines(&[0.5, 0.5]),
        WindowFunction::Blackman => cosines(&[0.42, 0.5, 0.08]),
        WindowFunction::Nuttall => cosines(&[0.363_581_9, 0.489_177_5, 0.136_599_5, 0.010_641_1]),
        WindowFunction::Kaiser { beta } => {
            let across = places.mul(2.0 / (n - 1.0))?.sub(1.0)?;
            let largest = Tensor::full((), *beta, places.options())?.i0()?;
            across.square()?.neg()?.add(1.0)?.clamp_min(0.0)?.sqrt()?.mul(*beta)?.i0()?.div(&largest)
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn a_periodic_window_lacks_the_last_value_of_a_symmetric_one() -> Result<()> {
        for window in [WindowFunction::Hann, WindowFunction::Kaiser { beta: 6.0 }, WindowFunction::Cosine] {
            let values = |m: usize, sym: bool| Tensor::window(&window, m, sym, Device::Cpu)?.to_vec::<f32>();
            assert_eq!(values(6, false)?, values(7, true)?[..6], "{window:?}");
            assert_eq!((values(0, true)?, values(1, false)?), (vec![], vec![1.0]));
        }
        Ok(())
    }

    #[test]
    fn arguments_out_of_range_are_errors() {
        for window in [
            WindowFunction::Gaussian { std: 0.0 },
            WindowFunction::Exponential { tau: f64::NAN },
            WindowFunction::Kaiser { beta: -1.0 },
            WindowFunction::GeneralCosine(Vec::new()),
        ] {
            assert!(Tensor::window(&window, 5, true, Device::Cpu).is_err(), "{window:?}");
        }
        assert!(Tensor::window(&WindowFunction::Hann, 5, true, (DType::I64, Device::Cpu)).is_err());
    }
}
