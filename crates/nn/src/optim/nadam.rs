//! The NAdam optimizer.

use kiln_tensor::{Result, Tensor, calc};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep, shares};

/// NAdam: Adam with Nesterov momentum (Dozat, 2016;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.NAdam.html>).
pub type NAdam = Optim<NAdamOptions>;

crate::hyperparameters! {
    "NAdam" NAdamOptions, lr = 2e-3,
    {
        betas: pair = (0.9, 0.999), "The decay rates of the first and second moments: `(0.9, 0.999)` by default.";
        eps: f64 = 1e-8, "Added to the divisor: 1e-8 by default.";
        weight_decay: f64 = 0.0, "L2 penalty, or the decoupled decay: 0 by default.";
        momentum_decay: f64 = 4e-3, "How fast the momentum approaches `betas.0`: 4e-3 by default.";
        decoupled_weight_decay: bool = false, "Whether weight decay is decoupled, as in AdamW, instead of an L2 penalty.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for NAdamOptions {
    fn states(&self) -> Vec<State> {
        vec![State::scalar("mu_product", 1.0), State::zeros("exp_avg"), State::zeros("exp_avg_sq")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        non_negative(Self::NAME, "momentum decay", self.momentum_decay)?;
        shares(Self::NAME, "betas", self.betas)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let NAdamOptions { betas: (beta1, beta2), eps, weight_decay, momentum_decay, .. } = *self;
        if self.decoupled_weight_decay {
            at.decay(weight_decay)?;
        }
        let grad = at.gradient(if self.decoupled_weight_decay { 0.0 } else { weight_decay }, self.maximize)?;
        let [product, mean, square] = at.states else { return Ok(()) };
        // The momentum of this step and of the next one.
        let momentum = |step: Tensor| {
            let decay = step.full_like(0.96)?.pow(&step.mul(momentum_decay)?)?;
            decay.mul(-0.5)?.add(1.0)?.mul(beta1)
        };
        let (now, next) = (momentum(at.step.clone())?, momentum(at.step.add(1.0)?)?);
        product.mul_(&now)?;
        keep(mean, beta1, &grad)?;
        keep(square, beta2, &grad.square()?)?;
        let correction = at.power_of_step(beta2)?.neg()?.add(1.0)?;
        let divisor = square.div(&at.number(&correction)?)?.sqrt()?.add(eps)?;
        let of_grad = calc!(at.lr * (1.0 - now) / (1.0 - product))?;
        let of_mean = calc!(at.lr * next / (1.0 - product * next))?;
        let change = calc!(grad * at.number(&of_grad) + mean * at.number(&of_mean))?;
        at.param.sub_(&change.div(&divisor)?)
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.betas.0)
    }
}
