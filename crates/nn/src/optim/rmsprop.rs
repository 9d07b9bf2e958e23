//! The RMSprop optimizer.

use kiln_tensor::{OptimRule, Result};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep};

/// RMSprop (Hinton, 2012; <https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html>).
pub type RMSprop = Optim<RMSpropOptions>;

crate::hyperparameters! {
    "RMSprop" RMSpropOptions, lr = 1e-2,
    {
        alpha: f64 = 0.99, "The decay rate of the mean square: 0.99 by default.";
        eps: f64 = 1e-8, "Added to the divisor: 1e-8 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        momentum: f64 = 0.0, "The momentum factor: 0 by default.";
        centered: bool = false, "Whether to divide by the standard deviation instead of the root mean square (Graves, 2013).";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for RMSpropOptions {
    fn states(&self) -> Vec<State> {
        let mut states = vec![State::zeros("square_avg")];
        states.extend(self.centered.then_some(State::zeros("grad_avg")));
        states.extend((self.momentum != 0.0).then_some(State::zeros("momentum_buffer")));
        states
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "alpha", self.alpha)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        non_negative(Self::NAME, "momentum", self.momentum)
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(self.weight_decay, self.maximize)?;
        let [square, rest @ ..] = at.states else { return Ok(()) };
        keep(square, self.alpha, &grad.square()?)?;
        let mut mean_square = square.clone();
        if let (true, Some(mean)) = (self.centered, rest.first()) {
            keep(mean, self.alpha, &grad)?;
            mean_square = mean_square.sub(&mean.square()?)?;
        }
        let mut change = grad.div(&mean_square.sqrt()?.add(self.eps)?)?;
        if let (true, Some(buffer)) = (self.momentum != 0.0, rest.last()) {
            buffer.mul_(self.momentum)?;
            buffer.add_(&change)?;
            change = buffer.clone();
        }
        at.param.sub_(&change.mul(&at.number(at.lr)?)?)
    }

    fn fused(&self) -> Option<OptimRule> {
        let RMSpropOptions { alpha, eps, weight_decay, momentum, centered, maximize, .. } = *self;
        Some(OptimRule::RmsProp { alpha, eps, weight_decay, momentum, centered, maximize })
    }

    fn momentum_mut(&mut self) -> Option<&mut f64> {
        Some(&mut self.momentum)
    }
}
