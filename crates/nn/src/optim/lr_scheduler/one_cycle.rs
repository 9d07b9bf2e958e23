//! The 1cycle policy: the learning rate rises to a maximum and then falls, once per training.

use std::f64::consts::PI;

use kiln_tensor::{Error, Result};

use super::{LrRule, require};

/// The shape of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anneal {
    /// Half a cosine wave.
    #[default]
    Cos,
    /// A straight line.
    Linear,
}

/// One cycle over the whole training (Smith & Topin, 2018): the rate rises from `max_lr / div_factor` to `max_lr` and
/// then falls to a tiny one, while the momentum moves in the opposite direction. Meant to be stepped after every batch.
/// The optimizer's own rate is not used.
#[derive(Clone, Copy, Debug)]
pub struct OneCycleLR {
    max_lr: f64,
    total_steps: u64,
    pct_start: f64,
    anneal: Anneal,
    /// Minimum and maximum.
    momentum: Option<(f64, f64)>,
    div_factor: f64,
    final_div_factor: f64,
    three_phase: bool,
}

/// The start and end values of rate and momentum, and the step at which the phase ends.
struct Phase {
    end: f64,
    lr: (f64, f64),
    momentum: (f64, f64),
}

impl OneCycleLR {
    /// A cycle of `total_steps` (epochs × batches) with PyTorch's defaults: 30 % up, cosine, momentum between
    /// 0.85 and 0.95, from 1/25 of the rate to 1/250,000.
    #[must_use]
    pub fn new(max_lr: f64, total_steps: u64) -> OneCycleLR {
        OneCycleLR {
            max_lr,
            total_steps,
            pct_start: 0.3,
            anneal: Anneal::Cos,
            momentum: Some((0.85, 0.95)),
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        }
    }

    /// The fraction of the steps in which the rate rises.
    #[must_use]
    pub fn pct_start(self, pct_start: f64) -> OneCycleLR {
        OneCycleLR { pct_start, ..self }
    }

    /// The shape of the phases.
    #[must_use]
    pub fn anneal_strategy(self, anneal: Anneal) -> OneCycleLR {
        OneCycleLR { anneal, ..self }
    }

    /// The range of the momentum (Adam's `beta1`): `(base, max)`. `None` leaves it unchanged.
    #[must_use]
    pub fn momentum(self, momentum: Option<(f64, f64)>) -> OneCycleLR {
        OneCycleLR { momentum, ..self }
    }

    /// The first rate is `max_lr / div_factor`.
    #[must_use]
    pub fn div_factor(self, div_factor: f64) -> OneCycleLR {
        OneCycleLR { div_factor, ..self }
    }

    /// The last rate is the first one divided by this factor.
    #[must_use]
    pub fn final_div_factor(self, final_div_factor: f64) -> OneCycleLR {
        OneCycleLR { final_div_factor, ..self }
    }

    /// Whether the rate falls as fast as it rose, and then fades out in a third phase.
    #[must_use]
    pub fn three_phase(self, three_phase: bool) -> OneCycleLR {
        OneCycleLR { three_phase, ..self }
    }

    fn phases(&self) -> Vec<Phase> {
        let (first, max) = (self.max_lr / self.div_factor, self.max_lr);
        let last = first / self.final_div_factor;
        let (low, high) = self.momentum.unwrap_or_default();
        let (total, up) = (self.total_steps as f64, self.pct_start * self.total_steps as f64);
        let phase = |end, lr, momentum| Phase { end, lr, momentum };
        let rise = phase(up - 1.0, (first, max), (high, low));
        if self.three_phase {
            let fall = phase(2.0 * up - 2.0, (max, first), (low, high));
            vec![rise, fall, phase(total - 1.0, (first, last), (high, high))]
        } else {
            vec![rise, phase(total - 1.0, (max, last), (low, high))]
        }
    }

    /// The value, after `epoch` steps, between the two that `pick` selects from a phase.
    fn value(&self, epoch: u64, pick: impl Fn(&Phase) -> (f64, f64)) -> Result<f64> {
        if epoch > self.total_steps {
            let message = format!("step {epoch} is past the end of a cycle of {} steps", self.total_steps);
            return Err(Error::argument("OneCycleLR", message));
        }
        let (phases, step) = (self.phases(), epoch as f64);
        let mut begin = 0.0;
        for (i, phase) in phases.iter().enumerate() {
            if step <= phase.end || i + 1 == phases.len() {
                let ((from, to), share) = (pick(phase), (step - begin) / (phase.end - begin));
                return Ok(match self.anneal {
                    Anneal::Cos => to + (from - to) / 2.0 * ((PI * share).cos() + 1.0),
                    Anneal::Linear => (to - from) * share + from,
                });
            }
            begin = phase.end;
        }
        Ok(self.max_lr)
    }
}

impl LrRule for OneCycleLR {
    fn validate(&self) -> Result<()> {
        const RULE: &str = "OneCycleLR";
        require(self.total_steps > 1, RULE, "it must have at least two steps")?;
        require((0.0..=1.0).contains(&self.pct_start), RULE, "pct_start must be in [0, 1]")?;
        require(self.max_lr.is_finite() && self.max_lr >= 0.0, RULE, "max_lr must not be negative")?;
        require(self.div_factor > 0.0 && self.final_div_factor > 0.0, RULE, "the divisors must be positive")
    }
    fn next(&self, epoch: u64, base: f64, _: f64) -> Result<f64> {
        self.at(epoch, base)
    }
    fn at(&self, epoch: u64, _: f64) -> Result<f64> {
        self.value(epoch, |phase| phase.lr)
    }
    fn momentum(&self, epoch: u64) -> Result<Option<f64>> {
        self.momentum.map(|_| self.value(epoch, |phase| phase.momentum)).transpose()
    }
}
