//! Rules that depend on the step number alone. `next` is PyTorch's recursive form (so that rates match to the last bit
//! and schedulers can be chained), `at` its closed form.

use std::f64::consts::PI;

use kiln_tensor::Result;

use super::{LrRule, require};

/// Multiplies the rate by `gamma` every `step_size` steps.
#[derive(Clone, Copy, Debug)]
pub struct StepLR {
    step_size: u64,
    gamma: f64,
}

impl StepLR {
    /// Starts with `gamma` 0.1.
    #[must_use]
    pub fn new(step_size: u64) -> StepLR {
        StepLR { step_size, gamma: 0.1 }
    }

    /// Sets the factor.
    #[must_use]
    pub fn gamma(self, gamma: f64) -> StepLR {
        StepLR { gamma, ..self }
    }
}

impl LrRule for StepLR {
    fn validate(&self) -> Result<()> {
        require(self.step_size > 0, "StepLR", "the step size must not be 0")
    }
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        Ok(if epoch > 0 && epoch.is_multiple_of(self.step_size) { lr * self.gamma } else { lr })
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok(base * power(self.gamma, epoch / self.step_size))
    }
}

/// Multiplies the rate by `gamma` at each milestone.
#[derive(Clone, Debug)]
pub struct MultiStepLR {
    milestones: Vec<u64>,
    gamma: f64,
}

impl MultiStepLR {
    /// Starts with `gamma` 0.1. A milestone that is listed twice counts twice.
    #[must_use]
    pub fn new(milestones: impl Into<Vec<u64>>) -> MultiStepLR {
        MultiStepLR { milestones: milestones.into(), gamma: 0.1 }
    }

    /// Sets the factor.
    #[must_use]
    pub fn gamma(self, gamma: f64) -> MultiStepLR {
        MultiStepLR { gamma, ..self }
    }

    fn count(&self, at: impl Fn(u64) -> bool) -> u64 {
        self.milestones.iter().filter(|&&m| at(m)).count() as u64
    }
}

impl LrRule for MultiStepLR {
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        Ok(lr * power(self.gamma, self.count(|m| m == epoch)))
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok(base * power(self.gamma, self.count(|m| m <= epoch)))
    }
}

/// Multiplies the rate by `gamma` in every step.
#[derive(Clone, Copy, Debug)]
pub struct ExponentialLR {
    gamma: f64,
}

impl ExponentialLR {
    /// With this factor.
    #[must_use]
    pub fn new(gamma: f64) -> ExponentialLR {
        ExponentialLR { gamma }
    }
}

impl LrRule for ExponentialLR {
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        Ok(if epoch > 0 { lr * self.gamma } else { lr })
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok(base * power(self.gamma, epoch))
    }
}

/// Multiplies the rate by a constant factor for the first `total_iters` steps.
#[derive(Clone, Copy, Debug)]
pub struct ConstantLR {
    factor: f64,
    total_iters: u64,
}

impl ConstantLR {
    /// The factor, and the number of steps for which it applies.
    #[must_use]
    pub fn new(factor: f64, total_iters: u64) -> ConstantLR {
        ConstantLR { factor, total_iters }
    }
}

impl LrRule for ConstantLR {
    fn validate(&self) -> Result<()> {
        require(self.factor > 0.0 && self.factor <= 1.0, "ConstantLR", "the factor must be in (0, 1]")
    }
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        Ok(match epoch {
            0 => lr * self.factor,
            e if e == self.total_iters => lr * (1.0 / self.factor),
            _ => lr,
        })
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok(if epoch >= self.total_iters { base } else { base * self.factor })
    }
}

/// A factor that changes linearly from `start_factor` to `end_factor` over `total_iters` steps: a warm-up.
#[derive(Clone, Copy, Debug)]
pub struct LinearLR {
    start_factor: f64,
    end_factor: f64,
    total_iters: u64,
}

impl LinearLR {
    /// From 1/3 to 1.
    #[must_use]
    pub fn new(total_iters: u64) -> LinearLR {
        LinearLR { start_factor: 1.0 / 3.0, end_factor: 1.0, total_iters }
    }

    /// Sets the first factor.
    #[must_use]
    pub fn start_factor(self, start_factor: f64) -> LinearLR {
        LinearLR { start_factor, ..self }
    }

    /// Sets the last factor.
    #[must_use]
    pub fn end_factor(self, end_factor: f64) -> LinearLR {
        LinearLR { end_factor, ..self }
    }
}

impl LrRule for LinearLR {
    fn validate(&self) -> Result<()> {
        let start = self.start_factor > 0.0 && self.start_factor <= 1.0;
        require(start, "LinearLR", "the start factor must be in (0, 1]")?;
        require((0.0..=1.0).contains(&self.end_factor), "LinearLR", "the end factor must be in [0, 1]")?;
        require(self.total_iters > 0, "LinearLR", "it must have at least one step")
    }
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        if epoch == 0 {
            return Ok(lr * self.start_factor);
        }
        if epoch > self.total_iters {
            return Ok(lr);
        }
        let change = self.end_factor - self.start_factor;
        let before = self.total_iters as f64 * self.start_factor + (epoch - 1) as f64 * change;
        Ok(lr * (1.0 + change / before))
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        let share = self.total_iters.min(epoch) as f64 / self.total_iters as f64;
        Ok(base * (self.start_factor + (self.end_factor - self.start_factor) * share))
    }
}

/// Cosine annealing from the initial rate to `eta_min` over `t_max` steps (Loshchilov & Hutter, 2017), then up again.
#[derive(Clone, Copy, Debug)]
pub struct CosineAnnealingLR {
    t_max: u64,
    eta_min: f64,
}

impl CosineAnnealingLR {
    /// Anneals to 0 in `t_max` steps.
    #[must_use]
    pub fn new(t_max: u64) -> CosineAnnealingLR {
        CosineAnnealingLR { t_max, eta_min: 0.0 }
    }

    /// Sets the lowest rate.
    #[must_use]
    pub fn eta_min(self, eta_min: f64) -> CosineAnnealingLR {
        CosineAnnealingLR { eta_min, ..self }
    }

    fn height(&self, epoch: u64) -> f64 {
        1.0 + (PI * epoch as f64 / self.t_max as f64).cos()
    }
}

impl LrRule for CosineAnnealingLR {
    fn validate(&self) -> Result<()> {
        require(self.t_max > 0, "CosineAnnealingLR", "it must have at least one step")
    }
    fn next(&self, epoch: u64, base: f64, lr: f64) -> Result<f64> {
        if epoch == 0 {
            return Ok(lr);
        }
        // Just past a low point, where the previous height was 0.
        if epoch > self.t_max && (epoch - 1 - self.t_max).is_multiple_of(2 * self.t_max) {
            return Ok(lr + (base - self.eta_min) * (1.0 - (PI / self.t_max as f64).cos()) / 2.0);
        }
        Ok(self.height(epoch) / self.height(epoch - 1) * (lr - self.eta_min) + self.eta_min)
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok(self.eta_min + (base - self.eta_min) * self.height(epoch) / 2.0)
    }
}

/// The initial rate times a function of the step number.
pub struct LambdaLR<F>(F);

impl<F: Fn(u64) -> f64 + Send + Sync> LambdaLR<F> {
    /// With this function: `LambdaLR::new(|epoch| 0.95f64.powf(epoch as f64))`.
    pub fn new(factor: F) -> LambdaLR<F> {
        LambdaLR(factor)
    }
}

impl<F: Fn(u64) -> f64 + Send + Sync> LrRule for LambdaLR<F> {
    fn next(&self, epoch: u64, base: f64, _: f64) -> Result<f64> {
        self.at(epoch, base)
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok(base * self.0(epoch))
    }
}

/// The previous rate times a function of the step number.
pub struct MultiplicativeLR<F>(F);

impl<F: Fn(u64) -> f64 + Send + Sync> MultiplicativeLR<F> {
    /// With this function: `MultiplicativeLR::new(|_epoch| 0.95)`.
    pub fn new(factor: F) -> MultiplicativeLR<F> {
        MultiplicativeLR(factor)
    }
}

impl<F: Fn(u64) -> f64 + Send + Sync> LrRule for MultiplicativeLR<F> {
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        Ok(if epoch > 0 { lr * self.0(epoch) } else { lr })
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        Ok((1..=epoch).fold(base, |lr, epoch| lr * self.0(epoch)))
    }
}

/// Decays to 0 over `total_iters` steps, as a power of the fraction of steps that is left.
#[derive(Clone, Copy, Debug)]
pub struct PolynomialLR {
    total_iters: u64,
    power: f64,
}

impl PolynomialLR {
    /// Linear decay: the power is 1.
    #[must_use]
    pub fn new(total_iters: u64) -> PolynomialLR {
        PolynomialLR { total_iters, power: 1.0 }
    }

    /// Sets the power.
    #[must_use]
    pub fn power(self, power: f64) -> PolynomialLR {
        PolynomialLR { power, ..self }
    }
}

impl LrRule for PolynomialLR {
    fn validate(&self) -> Result<()> {
        require(self.total_iters > 0, "PolynomialLR", "it must have at least one step")?;
        require(self.power.is_finite(), "PolynomialLR", "the power must be finite")
    }
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        if epoch == 0 || epoch > self.total_iters {
            return Ok(lr);
        }
        let left = |epoch: u64| 1.0 - epoch as f64 / self.total_iters as f64;
        Ok(lr * (left(epoch) / left(epoch - 1)).powf(self.power))
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        let done = self.total_iters.min(epoch) as f64 / self.total_iters as f64;
        Ok(base * (1.0 - done).powf(self.power))
    }
}

/// `base^exponent`.
fn power(base: f64, exponent: u64) -> f64 {
    i32::try_from(exponent).map_or_else(|_| base.powf(exponent as f64), |e| base.powi(e))
}
