//! The Lion optimizer.

use kiln_tensor::{Result, calc};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep, shares};

/// Lion: steps by the sign of a momentum (Chen et al., 2023; <https://arxiv.org/abs/2302.06675>). PyTorch does not have
/// it; names follow its Adam.
pub type Lion = Optim<LionOptions>;

crate::hyperparameters! {
    "Lion" LionOptions, lr = 1e-4,
    {
        betas: pair = (0.9, 0.99), "The weight of the momentum in the step, and its decay rate: `(0.9, 0.99)` by default.";
        weight_decay: f64 = 0.0, "Decoupled weight decay, times the learning rate: 0 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for LionOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("exp_avg")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        shares(Self::NAME, "betas", self.betas)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        at.decay(self.weight_decay)?;
        let grad = at.gradient(0.0, self.maximize)?;
        let [average] = at.states else { return Ok(()) };
        let direction = calc!(average * self.betas.0 + grad * (1.0 - self.betas.0))?.sign()?;
        at.param.sub_(&direction.mul(&at.number(at.lr)?)?)?;
        keep(average, self.betas.1, &grad)
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.betas.0)
    }
}
