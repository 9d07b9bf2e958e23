//! The Rprop optimizer.

use kiln_tensor::{Error, Result};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative};

/// Resilient backpropagation (Riedmiller & Braun, 1993;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.Rprop.html>). The learning rate is the size of the first step.
pub type Rprop = Optim<RpropOptions>;

crate::hyperparameters! {
    "Rprop" RpropOptions, lr = 1e-2,
    {
        etas: pair = (0.5, 1.2), "The factors by which a step shrinks where the gradient changes sign, and grows elsewhere: `(0.5, 1.2)` by default.";
        step_sizes: pair = (1e-6, 50.0), "The smallest and largest step: `(1e-6, 50)` by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for RpropOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("prev"), State::full("step_size", self.lr)]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        let (minus, plus) = self.etas;
        if !(0.0 < minus && minus < 1.0 && 1.0 < plus && plus.is_finite()) {
            let message = format!("etas ({minus}, {plus}) are invalid: the first must be in (0, 1) and the second above 1");
            return Err(Error::argument(Self::NAME, message));
        }
        let (least, most) = self.step_sizes;
        if !(0.0 <= least && least <= most && most.is_finite()) {
            let message = format!("step sizes ({least}, {most}) are invalid: the first must be in [0, the second]");
            return Err(Error::argument(Self::NAME, message));
        }
        Ok(())
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(0.0, self.maximize)?;
        let [previous, sizes] = at.states else { return Ok(()) };
        let agreement = grad.mul(previous)?;
        let (turns, agrees) = (agreement.lt(0.0)?, agreement.gt(0.0)?);
        let grown = agrees.where_cond(&sizes.mul(self.etas.1)?, sizes)?;
        let changed = turns.where_cond(&sizes.mul(self.etas.0)?, &grown)?;
        sizes.copy_(&changed.clamp(self.step_sizes.0, self.step_sizes.1)?)?;
        // Where the gradient changes sign, this step does nothing.
        let grad = grad.masked_fill(&turns, 0.0)?;
        at.param.sub_(&grad.sign()?.mul(sizes)?)?;
        previous.copy_(&grad)
    }
}
