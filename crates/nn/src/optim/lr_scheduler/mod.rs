//! Learning-rate schedulers
//! (<https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate>).
//!
//! A rule ([`StepLR`], [`CosineAnnealingLR`], …) computes the rate of each step; an [`LrScheduler`] applies it to an
//! optimizer, once per epoch or per batch. Several schedulers can act on one optimizer: each multiplies the rate that
//! it finds.
//!
//! ```
//! use kiln_nn::{Linear, ModuleTree, optim::{Optimizer, SGD}};
//! use kiln_nn::optim::lr_scheduler::{CosineAnnealingLR, LrScheduler, SequentialLR};
//! # fn main() -> kiln_tensor::Result<()> {
//! let model = Linear::new(2, 1)?;
//! let mut optimizer = SGD::new(model.parameters(), 0.1)?;
//! let rule = SequentialLR::warmup(5, 0.1, CosineAnnealingLR::new(25)); // 5 steps up from 0.01, 25 down
//! let mut scheduler = LrScheduler::new(&mut optimizer, rule)?;
//! assert!((optimizer.lr() - 0.01).abs() < 1e-12);
//! for _epoch in 0..30 {
//!     // … train …
//!     scheduler.step(&mut optimizer)?;
//! }
//! assert!(optimizer.lr() < 1e-12);
//! # Ok(())
//! # }
//! ```

mod combined;
mod cyclic;
mod one_cycle;
mod plateau;
mod rules;
mod swa_lr;

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, StateDict, Tensor};

use super::{
    optimizer::{GroupRates, Optimizer},
    state::{Source, scalar},
};

pub use combined::{ChainedScheduler, SequentialLR};
pub use cyclic::{CosineAnnealingWarmRestarts, CyclicLR, CyclicMode};
pub use one_cycle::{Anneal, OneCycleLR};
pub use plateau::{PlateauMode, ReduceLROnPlateau, ThresholdMode};
pub use rules::{
    ConstantLR, CosineAnnealingLR, ExponentialLR, LambdaLR, LinearLR, MultiStepLR, MultiplicativeLR, PolynomialLR,
    StepLR,
};
pub use swa_lr::SWALR;

/// How a learning rate changes from step to step.
pub trait LrRule: Send + Sync {
    /// Checks the settings.
    ///
    /// # Errors
    /// If a setting is invalid; the message names it.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// The rate after `epoch` steps, from the rate `lr` before the last of them and the initial rate `base`. For
    /// `epoch` 0, the rate that replaces `lr` before the first step.
    ///
    /// # Errors
    /// If the schedule has ended.
    fn next(&self, epoch: u64, base: f64, lr: f64) -> Result<f64>;

    /// The rate after `epoch` steps, from the initial rate alone.
    ///
    /// # Errors
    /// If the schedule has ended.
    fn at(&self, epoch: u64, base: f64) -> Result<f64>;

    /// The momentum after `epoch` steps, for rules that change it as well.
    ///
    /// # Errors
    /// If the schedule has ended.
    fn momentum(&self, _epoch: u64) -> Result<Option<f64>> {
        Ok(None)
    }
}

/// Applies a rule to the learning rates of an optimizer's groups.
pub struct LrScheduler {
    rule: Box<dyn LrRule>,
    epoch: u64,
    base_lrs: Vec<f64>,
    last_lrs: Vec<f64>,
}

const OP: &str = "LrScheduler";

#[located(site)]
impl LrScheduler {
    /// A scheduler before its first step; it may change the optimizer's rate at once, for a warm-up. Load a saved
    /// optimizer's state afterwards.
    ///
    /// # Errors
    /// If a setting of the rule is invalid, or the rule changes the momentum and the optimizer has none.
    pub fn new(optimizer: &mut dyn Optimizer, rule: impl LrRule + 'static) -> Result<LrScheduler> {
        rule.validate()?;
        let base_lrs = optimizer.rates().iter().map(|group| group.initial_lr.unwrap_or(group.lr)).collect();
        let mut scheduler = LrScheduler { rule: Box::new(rule), epoch: 0, base_lrs, last_lrs: Vec::new() };
        scheduler.apply(optimizer)?;
        Ok(scheduler)
    }

    /// Advances by one step; call it after the optimizer's step.
    ///
    /// # Errors
    /// If the schedule has ended ([`OneCycleLR`]), or the optimizer has another number of groups than the one that the
    /// scheduler was created for.
    pub fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.epoch += 1;
        self.apply(optimizer).inspect_err(|_| self.epoch -= 1)
    }

    fn apply(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let mut rates = optimizer.rates();
        if rates.len() != self.base_lrs.len() {
            let message = format!("{} parameter groups, expected {}", rates.len(), self.base_lrs.len());
            return Err(Error::argument(OP, message));
        }
        let momentum = self.rule.momentum(self.epoch)?;
        for (group, &base) in rates.iter_mut().zip(&self.base_lrs) {
            *group = GroupRates {
                lr: self.rule.next(self.epoch, base, group.lr)?,
                initial_lr: Some(base),
                momentum: match (momentum, group.momentum) {
                    (Some(_), None) => return Err(Error::argument(OP, "the optimizer has no momentum to change")),
                    (new, old) => new.or(old),
                },
            };
        }
        optimizer.set_rates(&rates)?;
        self.last_lrs = rates.iter().map(|group| group.lr).collect();
        Ok(())
    }

    /// The rates that it set last, one per group.
    #[must_use]
    pub fn last_lr(&self) -> &[f64] {
        &self.last_lrs
    }

    /// The number of its steps so far.
    #[must_use]
    pub fn last_epoch(&self) -> u64 {
        self.epoch
    }

    /// Its state, as tensors by name. The rule's settings are not included.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn state_dict(&self) -> Result<StateDict> {
        let rates = |lrs: &[f64]| Tensor::from_slice(lrs, lrs.len(), Device::Cpu);
        Ok(StateDict::from([
            ("last_epoch".into(), scalar(self.epoch as i64)?),
            ("base_lrs".into(), rates(&self.base_lrs)?),
            ("last_lr".into(), rates(&self.last_lrs)?),
        ]))
    }

    /// Resumes from the point at which [`state_dict`](LrScheduler::state_dict) was called. The optimizer's own state
    /// holds the current rates: load that as well.
    ///
    /// # Errors
    /// If a name is missing or unexpected, or the number of groups differs.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let mut source = Source::new(OP, state);
        let epoch: Option<i64> = source.value("last_epoch")?;
        let groups = Some(self.base_lrs.len());
        let (base, last) = (source.vector("base_lrs", groups)?, source.vector("last_lr", groups)?);
        source.finish()?;
        if let (Some(epoch), Some(base), Some(last)) = (epoch, base, last) {
            let message = || Error::argument(OP, format!("last_epoch is {epoch}"));
            self.epoch = u64::try_from(epoch).map_err(|_| message())?;
            (self.base_lrs, self.last_lrs) = (base, last);
        }
        Ok(())
    }
}

impl std::fmt::Debug for LrScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct(OP).field("last_epoch", &self.epoch).field("last_lr", &self.last_lrs).finish_non_exhaustive()
    }
}

/// Returns an error about a setting unless `valid`.
fn require(valid: bool, rule: &'static str, message: impl Into<String>) -> Result<()> {
    if valid { Ok(()) } else { Err(Error::argument(rule, message)) }
}
