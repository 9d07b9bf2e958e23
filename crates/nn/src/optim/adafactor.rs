//! The Adafactor optimizer.

use kiln_tensor::{DType, Error, Result, Shape, Tensor};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative};

/// Adafactor, which stores second moments as outer products of two vectors (Shazeer & Stern, 2018;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adafactor.html>).
pub type Adafactor = Optim<AdafactorOptions>;

crate::hyperparameters! {
    "Adafactor" AdafactorOptions, lr = 1e-2,
    {
        beta2_decay: f64 = -0.8, "The weight of the new second moment is the step number to this power: -0.8 by default.";
        eps: optional_pair = (None, 1e-3), "The first number is the square root of the smallest second moment, by default the dtype's epsilon; the second one, 1e-3 by default, is the smallest scale of a parameter.";
        d: f64 = 1.0, "The largest root mean square of an update: 1 by default.";
        weight_decay: f64 = 0.0, "Decoupled weight decay, times the learning rate: 0 by default.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

/// The machine epsilon: the distance from 1 to the next number.
fn epsilon(dtype: DType) -> f64 {
    2f64.powi(1 - dtype.significand_bits() as i32)
}

/// The root mean square; 0 without elements.
fn root_mean_square(x: &Tensor) -> Result<Tensor> {
    x.norm(2.0, ())?.div((x.numel().max(1) as f64).sqrt())
}

/// `average + weight * (value - average)`.
fn lerp(average: &Tensor, value: &Tensor, weight: &Tensor) -> Result<()> {
    average.add_(&value.sub(average)?.mul(weight)?)
}

impl UpdateRule for AdafactorOptions {
    fn states(&self) -> Vec<State> {
        vec![State::zeros("variance")]
    }

    fn states_of(&self, param: &Shape) -> Vec<State> {
        if param.rank() > 1 {
            vec![State::reduced("row_var", 1), State::reduced("col_var", 2)]
        } else {
            self.states()
        }
    }

    fn validate(&self) -> Result<()> {
        non_negative(Self::NAME, "learning rate", self.lr)?;
        non_negative(Self::NAME, "eps", self.eps.0.unwrap_or(0.0))?;
        non_negative(Self::NAME, "eps", self.eps.1)?;
        non_negative(Self::NAME, "weight decay", self.weight_decay)?;
        if !(self.d >= 1.0 && self.d.is_finite()) {
            return Err(Error::argument(Self::NAME, format!("d {} is invalid: it must be at least 1", self.d)));
        }
        if !(self.beta2_decay <= 0.0 && self.beta2_decay.is_finite()) {
            let message = format!("beta2_decay {} is invalid: it must not be positive", self.beta2_decay);
            return Err(Error::argument(Self::NAME, message));
        }
        Ok(())
    }

    fn update(&self, at: &Update<'_>) -> Result<()> {
        let grad = at.gradient(0.0, self.maximize)?;
        let eps = self.eps.0.unwrap_or_else(|| epsilon(at.dtype));
        let new = at.number(&at.step.pow(self.beta2_decay)?)?;
        let relative = at.lr.minimum(&at.step.sqrt()?.reciprocal()?)?;
        let scale = root_mean_square(at.param)?.clamp_min(self.eps.1)?;
        let step_size = scale.mul(&at.number(&relative)?)?;
        at.decay(self.weight_decay)?;
        let second_moment = match at.states {
            [rows, columns] => {
                let square = grad.square()?;
                lerp(rows, &square.mean_keepdim(-1)?, &new)?;
                lerp(columns, &square.mean_keepdim(-2)?, &new)?;
                rows.matmul(columns)?.div(&rows.mean_keepdim(-2)?.clamp_min(eps)?)?
            }
            [moment] => {
                lerp(moment, &grad.square()?, &new)?;
                moment.clone()
            }
            _ => return Ok(()),
        };
        let update = second_moment.clamp_min(eps * eps)?.rsqrt()?.mul(&grad)?;
        let divisor = root_mean_square(&update)?.div(self.d)?.clamp_min(1.0)?;
        at.param.sub_(&update.mul(&step_size.div(&divisor)?)?)
    }
}
