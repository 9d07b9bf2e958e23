//! The Adamax optimizer.

use kiln_tensor::Result;

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep, shares};

/// Adamax: Adam with the infinity norm (Kingma & Ba, 2015;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adamax.html>).
pub type Adamax = Optim<AdamaxOptions>;

crate::hyperparameters! {
    "Adamax" AdamaxOptions, lr = 2e-3,
    {
        betas: pair = (0.9, 0.999), "The decay rates of the first moment and of the largest gradient: `(0.9, 0.999)` by default.";
        eps: f64 = 1e-8, "Added to the magnitude of the gradient: 1e-8 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for AdamaxOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("exp_avg"), State::zeros("exp_inf")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        shares(Self::NAME, "betas", self.betas)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(self.weight_decay, self.maximize)?;
        let [mean, largest] = at.states else { return Ok(()) };
        keep(mean, self.betas.0, &grad)?;
        largest.copy_(&largest.mul(self.betas.1)?.maximum(&grad.abs()?.add(self.eps)?)?)?;
        let correction = at.power_of_step(self.betas.0)?.neg()?.add(1.0)?;
        at.param.sub_(&mean.div(largest)?.mul(&at.number(&at.lr.div(&correction)?)?)?)
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.betas.0)
    }
}
