//! The RAdam optimizer.

use kiln_tensor::{Result, calc};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep, shares};

/// Rectified Adam (Liu et al., 2020; <https://docs.pytorch.org/docs/stable/generated/torch.optim.RAdam.html>).
pub type RAdam = Optim<RAdamOptions>;

crate::hyperparameters! {
    "RAdam" RAdamOptions, lr = 1e-3,
    {
        betas: pair = (0.9, 0.999), "The decay rates of the first and second moments: `(0.9, 0.999)` by default.";
        eps: f64 = 1e-8, "Added to the divisor: 1e-8 by default.";
        weight_decay: f64 = 0.0, "L2 penalty, or the decoupled decay: 0 by default.";
        decoupled_weight_decay: bool = false, "Whether weight decay is decoupled, as in AdamW, instead of an L2 penalty.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for RAdamOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("exp_avg"), State::zeros("exp_avg_sq")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        shares(Self::NAME, "betas", self.betas)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let RAdamOptions { betas: (beta1, beta2), eps, weight_decay, .. } = *self;
        if self.decoupled_weight_decay {
            at.decay(weight_decay)?;
        }
        let grad = at.gradient(if self.decoupled_weight_decay { 0.0 } else { weight_decay }, self.maximize)?;
        let [mean, square] = at.states else { return Ok(()) };
        keep(mean, beta1, &grad)?;
        keep(square, beta2, &grad.square()?)?;
        let correction1 = at.power_of_step(beta1)?.neg()?.add(1.0)?;
        let power = at.power_of_step(beta2)?;
        let correction2 = power.neg()?.add(1.0)?;
        // The length of the simple moving average that the second moment approximates: while it is short, the variance
        // of the second moment is too large to divide by it.
        let longest = 2.0 / (1.0 - beta2) - 1.0;
        let length = calc!(at.step * power * -2.0 / correction2 + longest)?;
        let rectified = calc!((length - 4.0) * (length - 2.0) * longest)?;
        let rectified = calc!(rectified / (length * ((longest - 4.0) * (longest - 2.0))) * correction2)?.sqrt()?;
        let step_size = at.lr.div(&correction1)?;
        let adapted = calc!(mean / (square.sqrt() + eps) * at.number(&calc!(step_size * rectified)?))?;
        let plain = mean.mul(&at.number(&step_size)?)?;
        at.param.sub_(&length.gt(5.0)?.where_cond(&adapted, &plain)?)
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.betas.0)
    }
}
