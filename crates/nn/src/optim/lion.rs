//! Lion.

use kiln_tensor::Result;

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep, shares};

/// Lion: the sign of a momentum (Chen et al., 2023; <https://arxiv.org/abs/2302.06675>). PyTorch has none; names are those of
/// its Adam.
pub type Lion = Optim<LionOptions>;

crate::hyperparameters! {
    "Lion" LionOptions, lr = 1e-4,
    {
        betas: pair = (0.9, 0.99), "How much of the momentum enters the step, and how much of it is kept: `(0.9, 0.99)` by default.";
        weight_decay: f64 = 0.0, "The share of the parameter, times the learning rate, that is taken away in each step: 0 by default.";
        maximize: bool = false, "Whether to climb instead of descending.";
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
        let direction = average.mul(self.betas.0)?.add(&grad.mul(1.0 - self.betas.0)?)?.sign()?;
        at.param.sub_(&direction.mul(&at.number(at.lr)?)?)?;
        keep(average, self.betas.1, &grad)
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.betas.0)
    }
}
