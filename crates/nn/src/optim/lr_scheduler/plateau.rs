//! `ReduceLROnPlateau`: lowers the rate when a metric stops improving.

use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict};

use super::{require, scalar};
use crate::optim::{optimizer::Optimizer, state::Source};

/// The direction in which a metric improves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlateauMode {
    /// Lower is better, as for a loss.
    #[default]
    Min,
    /// Higher is better, as for an accuracy.
    Max,
}

/// How the threshold of an improvement is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThresholdMode {
    /// Relative to the best value.
    #[default]
    Rel,
    /// As an absolute difference.
    Abs,
}

/// Multiplies the learning rates by `factor` when a metric has not improved for more than `patience` steps
/// (<https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html>).
///
/// ```
/// # use kiln_nn::{Linear, ModuleTree, optim::{Optimizer, SGD, lr_scheduler::ReduceLROnPlateau}};
/// # fn main() -> kiln_tensor::Result<()> {
/// # let mut optimizer = SGD::new(Linear::new(2, 1)?.parameters(), 0.1)?;
/// let mut scheduler = ReduceLROnPlateau::new().patience(0);
/// scheduler.step(1.0, &mut optimizer)?;
/// scheduler.step(1.0, &mut optimizer)?; // no better
/// assert_eq!(optimizer.lr(), 0.1 * 0.1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReduceLROnPlateau {
    mode: PlateauMode,
    factor: f64,
    patience: u64,
    threshold: f64,
    threshold_mode: ThresholdMode,
    cooldown: u64,
    min_lr: f64,
    eps: f64,
    state: State,
}

#[derive(Clone, Copy, Debug)]
struct State {
    best: Option<f64>,
    bad: u64,
    cooling: u64,
    epoch: u64,
}

impl Default for ReduceLROnPlateau {
    fn default() -> Self {
        ReduceLROnPlateau {
            mode: PlateauMode::Min,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            threshold_mode: ThresholdMode::Rel,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
            state: State { best: None, bad: 0, cooling: 0, epoch: 0 },
        }
    }
}

macro_rules! setters {
    ($($name:ident: $ty:ty, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[must_use]
        pub fn $name(self, $name: $ty) -> ReduceLROnPlateau {
            ReduceLROnPlateau { $name, ..self }
        }
    )*};
}

const OP: &str = "ReduceLROnPlateau";

#[located(site)]
impl ReduceLROnPlateau {
    /// With PyTorch's defaults.
    #[must_use]
    pub fn new() -> ReduceLROnPlateau {
        ReduceLROnPlateau::default()
    }

    setters! {
        mode: PlateauMode, "The direction in which the metric improves: [`PlateauMode::Min`] by default.";
        factor: f64, "The factor of a reduction: 0.1 by default.";
        patience: u64, "How many steps without improvement are tolerated: 10 by default.";
        threshold: f64, "The smallest change that counts as an improvement: 1e-4 by default.";
        threshold_mode: ThresholdMode, "How the threshold is measured: [`ThresholdMode::Rel`] by default.";
        cooldown: u64, "How many steps after a reduction are not counted: 0 by default.";
        min_lr: f64, "The lowest rate: 0 by default.";
        eps: f64, "Smaller reductions are not made: 1e-8 by default.";
    }

    /// Records the metric, and reduces the rates if it is time.
    ///
    /// # Errors
    /// If a setting is invalid.
    pub fn step(&mut self, metric: f64, optimizer: &mut dyn Optimizer) -> Result<()> {
        require(self.factor < 1.0, OP, "the factor must be below 1")?;
        let worst = if self.mode == PlateauMode::Min { f64::INFINITY } else { f64::NEG_INFINITY };
        let mut state = State { epoch: self.state.epoch + 1, ..self.state };
        if self.is_better(metric, state.best.unwrap_or(worst)) {
            (state.best, state.bad) = (Some(metric), 0);
        } else {
            state.bad += 1;
        }
        if state.cooling > 0 {
            (state.cooling, state.bad) = (state.cooling - 1, 0);
        }
        if state.bad > self.patience {
            let mut rates = optimizer.rates();
            for group in &mut rates {
                let lower = (group.lr * self.factor).max(self.min_lr);
                if group.lr - lower > self.eps {
                    group.lr = lower;
                }
            }
            optimizer.set_rates(&rates)?;
            (state.cooling, state.bad) = (self.cooldown, 0);
        }
        self.state = state;
        Ok(())
    }

    fn is_better(&self, metric: f64, best: f64) -> bool {
        match (self.mode, self.threshold_mode) {
            (PlateauMode::Min, ThresholdMode::Rel) => metric < best * (1.0 - self.threshold),
            (PlateauMode::Min, ThresholdMode::Abs) => metric < best - self.threshold,
            (PlateauMode::Max, ThresholdMode::Rel) => metric > best * (1.0 + self.threshold),
            (PlateauMode::Max, ThresholdMode::Abs) => metric > best + self.threshold,
        }
    }

    /// The best metric so far.
    #[must_use]
    pub fn best(&self) -> Option<f64> {
        self.state.best
    }

    /// Its state, as tensors by name. The settings are not included.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn state_dict(&self) -> Result<StateDict> {
        let State { best, bad, cooling, epoch } = self.state;
        let mut out = StateDict::new();
        for (name, count) in [("num_bad_epochs", bad), ("cooldown_counter", cooling), ("last_epoch", epoch)] {
            out.insert(name.into(), scalar(count as i64)?);
        }
        if let Some(best) = best {
            out.insert("best".into(), scalar(best)?);
        }
        Ok(out)
    }

    /// Resumes from the point at which [`state_dict`](ReduceLROnPlateau::state_dict) was called.
    ///
    /// # Errors
    /// If a name is missing or unexpected.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let mut source = Source::new(OP, state);
        let mut count = |name: &str| -> Result<u64> {
            let value = source.value::<i64>(name)?.unwrap_or(0);
            u64::try_from(value).map_err(|_| Error::argument(OP, format!("{name} is {value}")))
        };
        let (bad, cooling, epoch) = (count("num_bad_epochs")?, count("cooldown_counter")?, count("last_epoch")?);
        let best = if state.contains_key("best") { source.value("best")? } else { None };
        source.finish()?;
        self.state = State { best, bad, cooling, epoch };
        Ok(())
    }
}
