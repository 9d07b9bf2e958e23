//! The optimizers Adam and AdamW, which differ in how they apply weight decay.

use kiln_tensor::{OptimRule, Result};

use super::{Hyperparameters, Optim, State, Update, UpdateRule, non_negative, rule::keep, shares};

/// Adam (Kingma & Ba, 2015; <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html>).
pub type Adam = Optim<AdamOptions>;

/// Adam with decoupled weight decay (Loshchilov & Hutter, 2019;
/// <https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html>).
pub type AdamW = Optim<AdamWOptions>;

macro_rules! adam {
    ($optimizer:literal $name:ident decoupled: $decoupled:literal, $decay:literal $decay_doc:literal) => {
        crate::hyperparameters! {
            $optimizer $name, lr = 1e-3,
            {
                betas: pair = (0.9, 0.999), "The decay rates of the first and second moments: `(0.9, 0.999)` by default.";
                eps: f64 = 1e-8, "Added to the divisor: 1e-8 by default.";
                weight_decay: f64 = $decay, $decay_doc;
                amsgrad: bool = false, "Whether to divide by the largest second moment so far (Reddi et al., 2018); off by default.";
                maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
            }
        }

        impl UpdateRule for $name {
            fn states(&self) -> Vec<State> {
                let mut states = vec![State::zeros("exp_avg"), State::zeros("exp_avg_sq")];
                states.extend(self.amsgrad.then_some(State::zeros("max_exp_avg_sq")));
                states
            }

            fn validate(&self) -> Result<()> {
                non_negative(Self::NAME, "learning rate", self.lr)?;
                non_negative(Self::NAME, "eps", self.eps)?;
                non_negative(Self::NAME, "weight decay", self.weight_decay)?;
                shares(Self::NAME, "betas", self.betas)
            }

            fn update(&self, at: &Update<'_>) -> Result<()> {
                let $name { betas: (beta1, beta2), eps, weight_decay, maximize, .. } = *self;
                if $decoupled {
                    at.param.mul_(&at.number(&at.lr.mul(-weight_decay)?.add(1.0)?)?)?;
                }
                let grad = at.gradient(if $decoupled { 0.0 } else { weight_decay }, maximize)?;
                let [mean, square, rest @ ..] = at.states else { return Ok(()) };
                keep(mean, beta1, &grad)?;
                keep(square, beta2, &grad.square()?)?;
                let largest = match rest {
                    [largest] => {
                        largest.copy_(&largest.maximum(square)?)?;
                        largest
                    }
                    _ => square,
                };
                let correction1 = at.power_of_step(beta1)?.neg()?.add(1.0)?;
                let correction2 = at.power_of_step(beta2)?.neg()?.add(1.0)?.sqrt()?;
                let step_size = at.number(&at.lr.div(&correction1)?)?;
                let divisor = largest.sqrt()?.div(&at.number(&correction2)?)?.add(eps)?;
                at.param.sub_(&mean.div(&divisor)?.mul(&step_size)?)
            }

            fn fused(&self) -> Option<OptimRule> {
                let $name { betas: (beta1, beta2), eps, weight_decay, amsgrad, maximize, .. } = *self;
                Some(OptimRule::Adam { beta1, beta2, eps, weight_decay, decoupled: $decoupled, amsgrad, maximize })
            }

            fn momentum_mut(&mut self) -> Option<&mut f64> {
                Some(&mut self.betas.0)
            }
        }
    };
}
adam!("Adam" AdamOptions decoupled: false, 0.0 "L2 penalty: 0 by default.");
adam!("AdamW" AdamWOptions decoupled: true, 1e-2 "Decoupled weight decay, times the learning rate: 0.01 by default.");
