//! The ASGD optimizer: averaged stochastic gradient descent.

use kiln_tensor::{Result, Tensor};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, finite, non_negative};

/// Averaged stochastic gradient descent (Polyak & Juditsky, 1992;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.ASGD.html>). The average is the state `ax`.
pub type ASGD = Optim<ASGDOptions>;

crate::hyperparameters! {
    "ASGD" ASGDOptions, lr = 1e-2,
    {
        lambd: f64 = 1e-4, "The decay of parameters and of the learning rate: 1e-4 by default.";
        alpha: f64 = 0.75, "The exponent of the learning rate's decay: 0.75 by default.";
        t0: f64 = 1e6, "The step after which parameters are averaged: 1e6 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for ASGDOptions {
    fn states(&self) -> Vec<State> {
        vec![State::scalar("eta", self.lr), State::scalar("mu", 1.0), State::zeros("ax")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "lambd", self.lambd)?;
        non_negative(Self::NAME, "alpha", self.alpha)?;
        finite(Self::NAME, "t0", self.t0)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(self.weight_decay, self.maximize)?;
        let [eta, mu, average] = at.states else { return Ok(()) };
        at.param.mul_(&at.number(&eta.mul(-self.lambd)?.add(1.0)?)?)?;
        at.param.sub_(&grad.mul(&at.number(eta)?)?)?;
        // Until averaging begins, the average equals the parameter, to the last bit.
        let moved = average.add(&at.param.sub(average)?.mul(&at.number(mu)?)?)?;
        average.copy_(&mu.eq(1.0)?.where_cond(at.param, &moved)?)?;
        let decay = |rate: &Tensor| rate.mul(self.lambd)?.mul(at.step)?.add(1.0)?.pow(self.alpha);
        eta.copy_(&at.lr.div(&decay(at.lr)?)?)?;
        mu.copy_(&at.step.sub(self.t0)?.clamp_min(1.0)?.reciprocal()?)
    }
}
