//! The Adagrad optimizer.

use kiln_tensor::{OptimRule, Result};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative};

/// Adagrad (Duchi et al., 2011; <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adagrad.html>).
pub type Adagrad = Optim<AdagradOptions>;

crate::hyperparameters! {
    "Adagrad" AdagradOptions, lr = 1e-2,
    {
        lr_decay: f64 = 0.0, "The learning rate is divided by `1 + (steps - 1) * lr_decay`: 0 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        initial_accumulator_value: f64 = 0.0, "The initial value of the sum of squares: 0 by default.";
        eps: f64 = 1e-10, "Added to the divisor: 1e-10 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for AdagradOptions {
    fn states(&self) -> Vec<State> {
        vec![State::full("sum", self.initial_accumulator_value)]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "learning-rate decay", self.lr_decay)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        non_negative(Self::NAME, "initial accumulator value", self.initial_accumulator_value)?;
        non_negative(Self::NAME, "eps", self.eps)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(self.weight_decay, self.maximize)?;
        let [sum] = at.states else { return Ok(()) };
        sum.add_(&grad.square()?)?;
        let lr = at.lr.div(&at.step.sub(1.0)?.mul(self.lr_decay)?.add(1.0)?)?;
        at.param.sub_(&grad.div(&sum.sqrt()?.add(self.eps)?)?.mul(&at.number(&lr)?)?)
    }

    fn fused(&self) -> Option<OptimRule> {
        let AdagradOptions { lr_decay, weight_decay, eps, maximize, .. } = *self;
        Some(OptimRule::Adagrad { lr_decay, weight_decay, eps, maximize })
    }
}
