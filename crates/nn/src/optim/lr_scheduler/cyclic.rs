//! Cyclic rules: triangular cycles, and cosine annealing with restarts.

use std::{f64::consts::PI, fmt, sync::Arc};

use kiln_tensor::Result;

use super::{LrRule, require};

/// Cosine annealing from the initial rate to `eta_min` with warm restarts (Loshchilov & Hutter, 2017): the first cycle
/// takes `t_0` steps, each later one `t_mult` times as many as the previous one.
#[derive(Clone, Copy, Debug)]
pub struct CosineAnnealingWarmRestarts {
    t_0: u64,
    t_mult: u64,
    eta_min: f64,
}

impl CosineAnnealingWarmRestarts {
    /// Anneals to 0 in `t_0` steps, and restarts.
    #[must_use]
    pub fn new(t_0: u64) -> CosineAnnealingWarmRestarts {
        CosineAnnealingWarmRestarts { t_0, t_mult: 1, eta_min: 0.0 }
    }

    /// The factor by which each cycle is longer than the previous one.
    #[must_use]
    pub fn t_mult(self, t_mult: u64) -> CosineAnnealingWarmRestarts {
        CosineAnnealingWarmRestarts { t_mult, ..self }
    }

    /// Sets the lowest rate.
    #[must_use]
    pub fn eta_min(self, eta_min: f64) -> CosineAnnealingWarmRestarts {
        CosineAnnealingWarmRestarts { eta_min, ..self }
    }
}

impl LrRule for CosineAnnealingWarmRestarts {
    fn validate(&self) -> Result<()> {
        const RULE: &str = "CosineAnnealingWarmRestarts";
        require(self.t_0 > 0, RULE, "t_0 must be at least one step")?;
        require(self.t_mult > 0, RULE, "t_mult must be at least 1")?;
        require(self.eta_min.is_finite(), RULE, "eta_min must be finite")
    }
    fn next(&self, epoch: u64, base: f64, _: f64) -> Result<f64> {
        self.at(epoch, base)
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        let (mut step, mut length) = (epoch, self.t_0.max(1));
        if self.t_mult <= 1 {
            step %= length;
        }
        while step >= length {
            step -= length;
            length = length.saturating_mul(self.t_mult);
        }
        Ok(self.eta_min + (base - self.eta_min) * (1.0 + (PI * step as f64 / length as f64).cos()) / 2.0)
    }
}

/// How the peaks of a [`CyclicLR`] change from cycle to cycle.
#[derive(Clone)]
pub enum CyclicMode {
    /// They stay the same.
    Triangular,
    /// Each is half as high as the previous one.
    Triangular2,
    /// The height is multiplied by this factor in every step.
    ExpRange(f64),
    /// The height is this function of the cycle's number, from 1.
    PerCycle(Arc<dyn Fn(f64) -> f64 + Send + Sync>),
    /// The height is this function of the number of steps.
    PerStep(Arc<dyn Fn(f64) -> f64 + Send + Sync>),
}

impl fmt::Debug for CyclicMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CyclicMode::Triangular => f.write_str("Triangular"),
            CyclicMode::Triangular2 => f.write_str("Triangular2"),
            CyclicMode::ExpRange(gamma) => write!(f, "ExpRange({gamma})"),
            CyclicMode::PerCycle(_) => f.write_str("PerCycle(…)"),
            CyclicMode::PerStep(_) => f.write_str("PerStep(…)"),
        }
    }
}

/// Moves the rate linearly between `base_lr` and `max_lr`, up and down in cycles (Smith, 2017), and the momentum in the
/// opposite direction. Meant to be stepped after every batch. The optimizer's own rate is not used.
#[derive(Clone, Debug)]
pub struct CyclicLR {
    base_lr: f64,
    max_lr: f64,
    step_size_up: u64,
    step_size_down: Option<u64>,
    mode: CyclicMode,
    /// Minimum and maximum.
    momentum: Option<(f64, f64)>,
}

impl CyclicLR {
    /// With PyTorch's defaults: 2,000 steps up and as many down, constant peaks, momentum between 0.8 and 0.9.
    #[must_use]
    pub fn new(base_lr: f64, max_lr: f64) -> CyclicLR {
        let mode = CyclicMode::Triangular;
        CyclicLR { base_lr, max_lr, step_size_up: 2000, step_size_down: None, mode, momentum: Some((0.8, 0.9)) }
    }

    /// The number of steps up; also down, unless [`step_size_down`](CyclicLR::step_size_down) is set.
    #[must_use]
    pub fn step_size_up(self, step_size_up: u64) -> CyclicLR {
        CyclicLR { step_size_up, ..self }
    }

    /// The number of steps down.
    #[must_use]
    pub fn step_size_down(self, step_size_down: u64) -> CyclicLR {
        CyclicLR { step_size_down: Some(step_size_down), ..self }
    }

    /// How the peaks change: PyTorch's `mode`, `gamma`, `scale_fn` and `scale_mode`.
    #[must_use]
    pub fn mode(self, mode: CyclicMode) -> CyclicLR {
        CyclicLR { mode, ..self }
    }

    /// The range of the momentum (Adam's `beta1`): `(base, max)`. `None` leaves it unchanged.
    #[must_use]
    pub fn momentum(self, momentum: Option<(f64, f64)>) -> CyclicLR {
        CyclicLR { momentum, ..self }
    }

    /// The position in the cycle, from 0 at the bottom to 1 at the first cycle's peak.
    fn height(&self, epoch: u64) -> f64 {
        let up = self.step_size_up as f64;
        let total = up + self.step_size_down.map_or(up, |down| down as f64);
        let (epoch, ratio) = (epoch as f64, up / total);
        let cycle = (1.0 + epoch / total).floor();
        let x = 1.0 + epoch / total - cycle;
        let height = if x <= ratio { x / ratio } else { (x - 1.0) / (ratio - 1.0) };
        height
            * match &self.mode {
                CyclicMode::Triangular => 1.0,
                CyclicMode::Triangular2 => 1.0 / 2f64.powf(cycle - 1.0),
                CyclicMode::ExpRange(gamma) => gamma.powf(epoch),
                CyclicMode::PerCycle(scale) => scale(cycle),
                CyclicMode::PerStep(scale) => scale(epoch),
            }
    }
}

impl LrRule for CyclicLR {
    fn validate(&self) -> Result<()> {
        const RULE: &str = "CyclicLR";
        let rate = |lr: f64| lr.is_finite() && lr >= 0.0;
        require(rate(self.base_lr) && rate(self.max_lr), RULE, "the rates must not be negative")?;
        require(self.step_size_up > 0 && self.step_size_down != Some(0), RULE, "the steps up and down must not be 0")
    }
    fn next(&self, epoch: u64, base: f64, _: f64) -> Result<f64> {
        self.at(epoch, base)
    }
    fn at(&self, epoch: u64, _: f64) -> Result<f64> {
        Ok(self.base_lr + (self.max_lr - self.base_lr) * self.height(epoch))
    }
    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        Ok(self.momentum.map(|(base, max)| max - (max - base) * self.height(epoch)))
    }
}
