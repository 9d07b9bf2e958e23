//! Element-wise losses, composed of tensor operations.

use std::f64::consts::PI;

use kiln_derive::located;
use kiln_tensor::{
    DType, Error, Reduction, Result, Tensor,
    autocast::cast_operands,
    autograd::{BackwardCtx, Function, FunctionCtx, apply},
    calc,
};

use super::composed::{composed, reduced, same_shape, x_log_y};
use crate::{module::Module, parameter::Buffer};

composed! {
    /// Binary cross-entropy of probabilities: `-(target * log(input) + (1 - target) * log(1 - input))`, with logarithms
    /// clamped to at least -100 (<https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html>). For logits,
    /// [`BCEWithLogitsLoss`](crate::BCEWithLogitsLoss) is more precise.
    BCELoss [weight "A factor for each element; broadcasts to the input's shape."] {}

    /// The absolute error where it is at least `beta`, half its square divided by `beta` below
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html>).
    SmoothL1Loss {
        beta: f64 = 1.0, "The error at which the loss becomes linear: 1 by default; 0 gives the absolute error.";
    }

    /// Half the squared error, linear where the error is above `delta`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.HuberLoss.html>).
    HuberLoss {
        delta: f64 = 1.0, "The error at which the loss becomes linear: 1 by default.";
    }

    /// The Kullback-Leibler divergence `target * (log(target) - input)`, for an input of log-probabilities
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html>).
    KLDivLoss {
        batch_mean: bool = false, "Whether the result is the sum divided by the number of samples, which is the true divergence: PyTorch's `reduction=\"batchmean\"`.";
        log_target: bool = false, "Whether the target holds log-probabilities as well.";
    }

    /// The negative log-likelihood of counts under a Poisson distribution
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.PoissonNLLLoss.html>).
    PoissonNLLLoss {
        log_input: bool = true, "Whether the input is the logarithm of the expected count: true by default.";
        full: bool = false, "Whether Stirling's approximation of the constant term is added.";
        eps: f64 = 1e-8, "Added to the argument of the logarithm: 1e-8 by default.";
    }

    /// The negative log-likelihood of values under a normal distribution
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.GaussianNLLLoss.html>).
    GaussianNLLLoss {
        full: bool = false, "Whether the constant term is added.";
        eps: f64 = 1e-6, "The smallest variance: 1e-6 by default.";
    }

    /// `log(1 + exp(-target * input))` for targets 1 and -1
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.SoftMarginLoss.html>).
    SoftMarginLoss {}

    /// The input where the target is 1, and the amount by which it is below the margin where the target is -1
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.HingeEmbeddingLoss.html>).
    HingeEmbeddingLoss {
        margin: f64 = 1.0, "The margin: 1 by default.";
    }
}

#[located(site)]
impl BCELoss {
    /// The loss for probabilities and targets in `[0, 1]`.
    ///
    /// # Errors
    /// If shapes, dtypes or devices differ.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("binary_cross_entropy", [input, target], [], |[input, target], []| {
            same_shape("BCELoss", input, target)?;
            let dtype = input.dtype();
            // Half precision has no number whose logarithm is -100.
            let half = dtype.is_half();
            let wide = |x: &Tensor| if half { x.to_dtype(DType::F32) } else { Ok(x.clone()) };
            let (x, target) = (wide(input)?, wide(target)?);
            let mut losses = apply(BinaryCrossEntropy, &[&x, &target])?;
            if let Some(weight) = &self.weight {
                losses = losses.mul(&wide(weight)?)?;
            }
            let loss = reduced(losses, self.reduction)?;
            if half { loss.to_dtype(dtype) } else { Ok(loss) }
        })
    }
}

/// The smallest product of the two probabilities that the gradient is divided by: PyTorch's, in `f32` for every dtype.
const SMALLEST: f32 = 1e-12;

/// Element-wise binary cross-entropy, whose gradient is finite at probabilities of 0 and 1, as PyTorch's is.
struct BinaryCrossEntropy;

fn one_minus(x: &Tensor) -> Result<Tensor> {
    x.neg()?.add(1.0)
}

impl Function for BinaryCrossEntropy {
    fn name(&self) -> &str {
        "BinaryCrossEntropy"
    }

    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        let [x, target] = inputs else { return Err(Error::argument("BCELoss", "two inputs are expected")) };
        ctx.save(x);
        ctx.save(target);
        let log = |x: &Tensor| x.log()?.clamp_min(-100.0);
        calc!(-(target * log(x) + one_minus(target) * log(&one_minus(x)?)))
    }

    fn backward(&self, ctx: &BackwardCtx<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (x, target) = (ctx.saved(0)?, ctx.saved(1)?);
        let of_x = || calc!((x - target) / (one_minus(&x) * x)?.clamp_min(f64::from(SMALLEST)) * grad);
        let of_target = || calc!((one_minus(&x)?.log() - x.log()) * grad);
        let wanted = [ctx.needs(0).then(of_x), ctx.needs(1).then(of_target)];
        wanted.into_iter().map(Option::transpose).collect()
    }
}

/// `error²/(2 * bend)` up to `bend`, and its tangent line above, for nonnegative errors.
fn bent(error: &Tensor, bend: f64) -> Result<Tensor> {
    let near = error.clamp_max(bend)?;
    calc!(near.square() * (0.5 / bend) + (error - near))
}

#[located(site)]
impl SmoothL1Loss {
    /// The loss; the target has the input's shape.
    ///
    /// # Errors
    /// If shapes, dtypes or devices differ, or `beta` is negative.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("smooth_l1_loss", [input, target], [], |[input, target], []| {
            same_shape("SmoothL1Loss", input, target)?;
            if self.beta < 0.0 || self.beta.is_nan() {
                return Err(Error::argument("SmoothL1Loss", format!("beta {} must not be negative", self.beta)));
            }
            let error = input.sub(target)?.abs()?;
            reduced(if self.beta == 0.0 { error } else { bent(&error, self.beta)? }, self.reduction)
        })
    }
}

#[located(site)]
impl HuberLoss {
    /// The loss; the target has the input's shape.
    ///
    /// # Errors
    /// If shapes, dtypes or devices differ, or `delta` is not positive.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("huber_loss", [input, target], [], |[input, target], []| {
            same_shape("HuberLoss", input, target)?;
            if self.delta <= 0.0 || self.delta.is_nan() {
                return Err(Error::argument("HuberLoss", format!("delta {} must be positive", self.delta)));
            }
            reduced(bent(&input.sub(target)?.abs()?, self.delta)?.mul(self.delta)?, self.reduction)
        })
    }
}

#[located(site)]
impl KLDivLoss {
    /// The loss for log-probabilities and target probabilities.
    ///
    /// # Errors
    /// If shapes, dtypes or devices differ.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("kl_div", [input, target], [], |[input, target], []| {
            same_shape("KLDivLoss", input, target)?;
            let losses = if self.log_target {
                target.exp()?.mul(&target.sub(input)?)?
            } else {
                x_log_y(target, target)?.sub(&target.mul(input)?)?
            };
            if self.batch_mean {
                let samples = input.dims().first().copied().unwrap_or(1);
                return losses.sum(())?.div(samples as f64);
            }
            reduced(losses, self.reduction)
        })
    }
}

#[located(site)]
impl PoissonNLLLoss {
    /// The loss for expected counts, or their logarithms, and counts.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("poisson_nll_loss", [input, target], [], |[input, target], []| {
            let mut losses = if self.log_input {
                input.exp()?.sub(&target.mul(input)?)?
            } else {
                input.sub(&target.mul(&input.add(self.eps)?.log()?)?)?
            };
            if self.full {
                let many = target.gt(1.0)?;
                let count = many.where_cond(target, 2.0)?;
                let term = calc!(count * count.log() - count + (count * (2.0 * PI))?.log() * 0.5)?;
                losses = losses.add(&many.where_cond(&term, 0.0)?)?;
            }
            reduced(losses, self.reduction)
        })
    }
}

#[located(site)]
impl GaussianNLLLoss {
    /// The loss for expected values, values, and variances (of the input's shape, or one for a whole dimension). Waits
    /// for the device, in order to refuse negative variances.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, or a variance is negative.
    pub fn forward(&self, input: &Tensor, target: &Tensor, var: &Tensor) -> Result<Tensor> {
        cast_operands("gaussian_nll_loss", [input, target, var], [], |[input, target, var], []| {
            const OP: &str = "GaussianNLLLoss";
            let (dims, own) = (input.dims(), var.dims());
            let without_last = dims.split_last().map(|(_, rest)| rest);
            // The last dimension may share one variance.
            let shared = || {
                own.len() == dims.len() && {
                    let mut other = dims.iter().zip(own).filter(|(dim, own)| dim != own);
                    other.next().is_some_and(|(_, own)| *own == 1) && other.next().is_none()
                }
            };
            let var = if own == dims || own.is_empty() || shared() {
                var.clone()
            } else if without_last == Some(own) {
                var.unsqueeze(-1)?
            } else {
                let expected = "variances of the input's shape, or one for a whole dimension";
                return Err(Error::shapes(OP, input.shape(), var.shape(), expected));
            };
            if var.lt(0.0)?.any(())?.item::<bool>()? {
                return Err(Error::argument(OP, "a variance is negative"));
            }
            // A variance that is too small gets the gradient of the smallest allowed one.
            let raised = var.detach().clamp_min(self.eps)?.sub(&var.detach())?;
            let var = var.add(&raised)?;
            let mut losses = calc!(((input - target)?.square() / var + var.log()) * 0.5)?;
            if self.full {
                losses = losses.add(0.5 * (2.0 * PI).ln())?;
            }
            reduced(losses, self.reduction)
        })
    }
}

#[located(site)]
impl SoftMarginLoss {
    /// The loss; the target has the input's shape.
    ///
    /// # Errors
    /// If shapes, dtypes or devices differ.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("soft_margin_loss", [input, target], [], |[input, target], []| {
            same_shape("SoftMarginLoss", input, target)?;
            reduced(target.mul(input)?.log_sigmoid()?.neg()?, self.reduction)
        })
    }
}

#[located(site)]
impl HingeEmbeddingLoss {
    /// The loss for distances and targets 1 (similar) and -1 (dissimilar).
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("hinge_embedding_loss", [input, target], [], |[input, target], []| {
            let below = input.neg()?.add(self.margin)?.clamp_min(0.0)?;
            let apart = target.ne(1.0)?.where_cond(&below, 0.0)?;
            let alike = target.ne(-1.0)?.where_cond(input, 0.0)?;
            reduced(apart.add(&alike)?, self.reduction)
        })
    }
}
