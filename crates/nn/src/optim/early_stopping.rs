//! Early stopping: ends training when a metric no longer improves, and restores the best parameters.

use kiln_derive::located;
use kiln_tensor::{Error, Result, StateDict, Tensor, no_grad};

use super::{
    lr_scheduler::PlateauMode,
    state::{Source, scalar},
};
use crate::module::ModuleTree;

/// Counts epochs without improvement, and keeps the best parameters and buffers of a model, as Keras' `EarlyStopping` does
/// (<https://keras.io/api/callbacks/early_stopping/>).
///
/// ```
/// use kiln_nn::{Linear, ModuleTree, optim::EarlyStopping};
///
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = Linear::new(2, 1)?;
/// let mut stopping = EarlyStopping::new(2).min_delta(0.01); // lower is better
/// for valid_loss in [1.0, 0.5, 0.495, 0.6, 0.4] {
///     // … train for an epoch, and evaluate …
///     if stopping.step(valid_loss, &model)? {
///         break; // after 0.6, the second loss that is not below 0.49
///     }
/// }
/// assert_eq!((stopping.best(), stopping.best_epoch()), (Some(0.5), Some(1)));
/// stopping.restore(&model)?;
/// # Ok(())
/// # }
/// ```
///
/// In several processes, give every rank the same metric (`all_reduce_metric` of the feature `distributed`), so that all of
/// them stop together.
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    patience: u64,
    min_delta: f64,
    mode: PlateauMode,
    keeps_best: bool,
    state: State,
    kept: StateDict,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    best: Option<f64>,
    best_epoch: u64,
    bad: u64,
    epoch: u64,
}

const OP: &str = "EarlyStopping";
/// Before the names of the best parameters and buffers in a state dict.
const KEPT: &str = "best_state.";

#[located(site)]
impl EarlyStopping {
    /// Stops after this many steps in a row without improvement; 0 and 1 both stop at the first. Lower metrics are better,
    /// by any amount, and the best parameters are kept.
    #[must_use]
    pub fn new(patience: u64) -> EarlyStopping {
        let (state, kept) = (State::default(), StateDict::new());
        EarlyStopping { patience, min_delta: 0.0, mode: PlateauMode::Min, keeps_best: true, state, kept }
    }

    /// The smallest change that counts as an improvement, at least 0.
    #[must_use]
    pub fn min_delta(self, min_delta: f64) -> EarlyStopping {
        EarlyStopping { min_delta, ..self }
    }

    /// The direction in which the metric improves: [`PlateauMode::Max`] for an accuracy.
    #[must_use]
    pub fn mode(self, mode: PlateauMode) -> EarlyStopping {
        EarlyStopping { mode, ..self }
    }

    /// Whether a copy of the best parameters and buffers is kept, on their device, for [`restore`](EarlyStopping::restore).
    #[must_use]
    pub fn keep_best(self, keep_best: bool) -> EarlyStopping {
        EarlyStopping { keeps_best: keep_best, ..self }
    }

    /// Records the metric after an epoch; returns whether to stop. A metric that is NaN is no improvement.
    ///
    /// # Errors
    /// If `min_delta` is negative or NaN, or memory runs out for the copy.
    pub fn step(&mut self, metric: f64, model: &(impl ModuleTree + ?Sized)) -> Result<bool> {
        if self.min_delta.is_nan() || self.min_delta < 0.0 {
            return Err(Error::argument(OP, format!("min_delta {} is negative", self.min_delta)));
        }
        let is_better = match (self.mode, self.state.best) {
            (_, None) => !metric.is_nan(),
            (PlateauMode::Min, Some(best)) => metric < best - self.min_delta,
            (PlateauMode::Max, Some(best)) => metric > best + self.min_delta,
        };
        if is_better {
            if self.keeps_best {
                self.keep(&model.state_dict())?;
            }
            self.state = State { best: Some(metric), best_epoch: self.state.epoch, bad: 0, ..self.state };
        } else {
            self.state.bad += 1;
        }
        self.state.epoch += 1;
        Ok(!is_better && self.should_stop())
    }

    /// Whether the last steps brought no improvement for as long as the patience lasts.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        self.state.bad > 0 && self.state.bad >= self.patience
    }

    /// The best metric so far.
    #[must_use]
    pub fn best(&self) -> Option<f64> {
        self.state.best
    }

    /// The number of the step that had it, from 0.
    #[must_use]
    pub fn best_epoch(&self) -> Option<u64> {
        self.state.best.map(|_| self.state.best_epoch)
    }

    /// The parameters and buffers of the best step; empty before the first, or if none are kept.
    #[must_use]
    pub fn best_state(&self) -> &StateDict {
        &self.kept
    }

    /// Loads the best parameters and buffers into the model.
    ///
    /// # Errors
    /// If none are kept, or they are not the model's.
    pub fn restore(&self, model: &(impl ModuleTree + ?Sized)) -> Result<()> {
        if self.kept.is_empty() {
            let why = if self.keeps_best { "no step had a metric yet" } else { "`keep_best` is off" };
            return Err(Error::argument(OP, format!("there are no best parameters: {why}")));
        }
        model.load_state_dict(&self.kept, true).map(drop)
    }

    /// Copies into the copy of the last best step, if there is one.
    fn keep(&mut self, state: &StateDict) -> Result<()> {
        no_grad(|| {
            let mut kept = StateDict::new();
            for (name, tensor) in state {
                let old = self
                    .kept
                    .get(name)
                    .filter(|old| old.shape() == tensor.shape() && old.options() == tensor.options());
                let copy = match old {
                    Some(old) => {
                        old.copy_(tensor)?;
                        old.clone()
                    }
                    None => tensor.copy()?,
                };
                kept.insert(name.clone(), copy);
            }
            self.kept = kept;
            Ok(())
        })
    }

    /// Its state, as tensors by name, with the best parameters and buffers. The settings are not included.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn state_dict(&self) -> Result<StateDict> {
        let State { best, best_epoch, bad, epoch } = self.state;
        let mut out = StateDict::new();
        for (name, count) in [("best_epoch", best_epoch), ("num_bad_epochs", bad), ("epoch", epoch)] {
            out.insert(name.into(), scalar(count as i64)?);
        }
        if let Some(best) = best {
            out.insert("best".into(), scalar(best)?);
        }
        for (name, tensor) in &self.kept {
            out.insert(format!("{KEPT}{name}"), tensor.clone());
        }
        Ok(out)
    }

    /// Resumes from the point at which [`state_dict`](EarlyStopping::state_dict) was called. The best parameters are copied.
    ///
    /// # Errors
    /// If a name is missing or unexpected.
    pub fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let is_kept = |name: &str| name.starts_with(KEPT);
        let (kept, own): (StateDict, StateDict) =
            state.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).partition(|(name, _)| is_kept(name));
        let mut source = Source::new(OP, &own);
        let mut count = |name: &str| -> Result<u64> {
            let value = source.value::<i64>(name)?.unwrap_or(0);
            u64::try_from(value).map_err(|_| Error::argument(OP, format!("{name} is {value}")))
        };
        let (best_epoch, bad, epoch) = (count("best_epoch")?, count("num_bad_epochs")?, count("epoch")?);
        let best = if own.contains_key("best") { source.value("best")? } else { None };
        source.finish()?;
        let copied = |(name, tensor): (String, Tensor)| Ok((name[KEPT.len()..].to_owned(), tensor.detach().copy()?));
        self.kept = kept.into_iter().map(copied).collect::<Result<StateDict>>()?;
        self.state = State { best, best_epoch, bad, epoch };
        Ok(())
    }
}
