//! `SWALR`: the learning rate of stochastic weight averaging.

use std::f64::consts::PI;

use kiln_tensor::Result;

use super::{Anneal, LrRule, require};

/// Anneals from the optimizer's rate to `swa_lr` over some steps, and stays there (Izmailov et al., 2018): for runs
/// whose weights are averaged by an [`AveragedModel`](crate::optim::AveragedModel).
#[derive(Clone, Copy, Debug)]
pub struct SWALR {
    swa_lr: f64,
    anneal_epochs: u64,
    anneal: Anneal,
}

impl SWALR {
    /// Anneals over 10 steps, along half a cosine wave.
    #[must_use]
    pub fn new(swa_lr: f64) -> SWALR {
        SWALR { swa_lr, anneal_epochs: 10, anneal: Anneal::Cos }
    }

    /// The number of annealing steps; with 0 the first step sets `swa_lr`.
    #[must_use]
    pub fn anneal_epochs(self, anneal_epochs: u64) -> SWALR {
        SWALR { anneal_epochs, ..self }
    }

    /// The shape of the annealing.
    #[must_use]
    pub fn anneal_strategy(self, anneal: Anneal) -> SWALR {
        SWALR { anneal, ..self }
    }

    /// The fraction of the annealing that is done after `step` steps, from 0 to 1; 0 before the first step.
    fn share(&self, step: f64) -> f64 {
        let share = (step / self.anneal_epochs.max(1) as f64).clamp(0.0, 1.0);
        match self.anneal {
            Anneal::Cos => (1.0 - (PI * share).cos()) / 2.0,
            Anneal::Linear => share,
        }
    }

    /// PyTorch's step count: annealing over 0 steps is done at once.
    fn count(&self, epoch: u64) -> f64 {
        if self.anneal_epochs == 0 { epoch.max(1) as f64 } else { epoch as f64 }
    }
}

impl LrRule for SWALR {
    fn validate(&self) -> Result<()> {
        require(self.swa_lr.is_finite() && self.swa_lr >= 0.0, "SWALR", "swa_lr must not be negative")
    }
    fn next(&self, epoch: u64, _: f64, lr: f64) -> Result<f64> {
        let step = self.count(epoch);
        let (before, now) = (self.share(step - 1.0), self.share(step));
        // The rate at the start of the annealing, computed from that before this step.
        let start = if before == 1.0 { self.swa_lr } else { (lr - before * self.swa_lr) / (1.0 - before) };
        Ok(self.swa_lr * now + start * (1.0 - now))
    }
    fn at(&self, epoch: u64, base: f64) -> Result<f64> {
        let now = self.share(self.count(epoch));
        Ok(self.swa_lr * now + base * (1.0 - now))
    }
}
