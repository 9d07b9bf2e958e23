//! The SGD optimizer: stochastic gradient descent, with optional momentum.

use kiln_tensor::{Error, OptimRule, Result};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, finite, non_negative};

/// Stochastic gradient descent, with optional momentum
/// (<https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html>).
pub type SGD = Optim<SGDOptions>;

crate::hyperparameters! {
    "SGD" SGDOptions, lr = 1e-3,
    {
        momentum: f64 = 0.0, "The momentum factor: 0 by default.";
        dampening: f64 = 0.0, "The fraction of the gradient that does not enter the momentum: 0 by default.";
        nesterov: bool = false, "Whether to use Nesterov momentum; off by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for SGDOptions {
    fn states(&self) -> Vec<State> {
        if self.momentum == 0.0 { vec![] } else { vec![State::zeros("momentum_buffer")] }
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "momentum", self.momentum)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        finite(Self::NAME, "dampening", self.dampening)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument(Self::NAME, "nesterov needs a momentum and no dampening"));
        }
        Ok(())
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let mut change = at.gradient(self.weight_decay, self.maximize)?;
        if let [buffer] = at.states {
            // The first gradient enters undampened.
            let kept = buffer.mul(self.momentum)?.add(&change.mul(1.0 - self.dampening)?)?;
            buffer.copy_(&at.step.eq(1.0)?.where_cond(&change, &kept)?)?;
            change = if self.nesterov { change.add(&buffer.mul(self.momentum)?)? } else { buffer.clone() };
        }
        at.param.sub_(&change.mul(&at.number(at.lr)?)?)
    }

    fn fused(&self) -> Option<OptimRule> {
        let SGDOptions { momentum, dampening, nesterov, weight_decay, maximize, .. } = *self;
        Some(OptimRule::Sgd { momentum, dampening, nesterov, weight_decay, maximize })
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }
}
