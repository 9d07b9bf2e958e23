//! The Adadelta optimizer.

use kiln_tensor::{Error, Result};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep};

/// Adadelta (Zeiler, 2012; <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html>).
pub type Adadelta = Optim<AdadeltaOptions>;

crate::hyperparameters! {
    "Adadelta" AdadeltaOptions, lr = 1.0,
    {
        rho: f64 = 0.9, "The decay rate of the mean squares: 0.9 by default.";
        eps: f64 = 1e-6, "Added to the mean squares before taking their roots: 1e-6 by default.";
        weight_decay: f64 = 0.0, "L2 penalty: 0 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

impl UpdateRule for AdadeltaOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("square_avg"), State::zeros("acc_delta")]
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "eps", self.eps)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        if !(0.0..=1.0).contains(&self.rho) {
            return Err(Error::argument(Self::NAME, format!("rho {} is invalid: it must be in [0, 1]", self.rho)));
        }
        Ok(())
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(self.weight_decay, self.maximize)?;
        let [square, change_square] = at.states else { return Ok(()) };
        keep(square, self.rho, &grad.square()?)?;
        let change = change_square.add(self.eps)?.sqrt()?.div(&square.add(self.eps)?.sqrt()?)?.mul(&grad)?;
        keep(change_square, self.rho, &change.square()?)?;
        at.param.sub_(&change.mul(&at.number(at.lr)?)?)
    }
}
