//! The update rules of the optimizers for one element. The formulas follow PyTorch's single-tensor implementations
//! (`torch/optim/*.py`) operation by operation.

use crate::numeric::real::Real;

/// How a rule's gradient is made from the stored one: unscaled, negated to maximize, with weight decay added.
pub(super) struct Gradient<R> {
    factor: R,
    weight_decay: R,
    decays: bool,
}

impl<R: Real> Gradient<R> {
    /// `factor` is what stored gradients are multiplied by.
    pub(super) fn new(factor: f64, weight_decay: f64, maximize: bool) -> Gradient<R> {
        let factor = if maximize { -factor } else { factor };
        Gradient { factor: R::of(factor), weight_decay: R::of(weight_decay), decays: weight_decay != 0.0 }
    }

    #[inline(always)]
    pub(super) fn of(&self, param: R, grad: R) -> R {
        let grad = self.factor * grad;
        // Without decay an infinite parameter must not make the gradient NaN.
        if self.decays { grad + self.weight_decay * param } else { grad }
    }
}

/// A rule with its scalars, and `N` states per element.
pub(super) trait Update<R, const N: usize>: Sync {
    /// The new parameter; `states` are updated in place.
    fn update(&self, param: R, grad: R, states: &mut [R; N]) -> R;
}

/// `from + weight * (to - from)`, in the form that is exact at the nearer end (as `torch.lerp`).
#[inline(always)]
fn lerp<R: Real>(from: R, to: R, weight: R) -> R {
    let difference = to - from;
    if weight < R::of(0.5) { from + weight * difference } else { to - difference * (R::of(1.0) - weight) }
}

pub(super) struct Sgd<R> {
    lr: R,
    momentum: R,
    /// `1 - dampening`
    intake: R,
    nesterov: bool,
    first: bool,
}

impl<R: Real> Sgd<R> {
    pub(super) fn new(lr: f64, momentum: f64, dampening: f64, nesterov: bool, first: bool) -> Sgd<R> {
        Sgd { lr: R::of(lr), momentum: R::of(momentum), intake: R::of(1.0 - dampening), nesterov, first }
    }
}

impl<R: Real, const N: usize> Update<R, N> for Sgd<R> {
    #[inline(always)]
    fn update(&self, param: R, grad: R, states: &mut [R; N]) -> R {
        let mut step = grad;
        if let Some(buffer) = states.first_mut() {
            *buffer = if self.first { grad } else { self.momentum * *buffer + self.intake * grad };
            step = if self.nesterov { grad + self.momentum * *buffer } else { *buffer };
        }
        param - self.lr * step
    }
}

pub(super) struct Adam<R> {
    /// `1 - beta1`
    weight1: R,
    beta2: R,
    /// `1 - beta2`
    weight2: R,
    eps: R,
    /// The factor by which decoupled weight decay multiplies the parameter.
    shrink: R,
    /// The learning rate over the first bias correction.
    step_size: R,
    /// The square root of the second bias correction.
    correction: R,
}

impl<R: Real> Adam<R> {
    pub(super) fn new(lr: f64, beta1: f64, beta2: f64, eps: f64, shrink: f64, step: f64) -> Adam<R> {
        Adam {
            weight1: R::of(1.0 - beta1),
            beta2: R::of(beta2),
            weight2: R::of(1.0 - beta2),
            eps: R::of(eps),
            shrink: R::of(shrink),
            step_size: R::of(lr / (1.0 - beta1.powf(step))),
            correction: R::of((1.0 - beta2.powf(step)).sqrt()),
        }
    }
}

/// With a third state, AMSGrad.
impl<R: Real, const N: usize> Update<R, N> for Adam<R> {
    #[inline(always)]
    fn update(&self, param: R, grad: R, states: &mut [R; N]) -> R {
        states[0] = lerp(states[0], grad, self.weight1);
        states[1] = states[1] * self.beta2 + self.weight2 * grad * grad;
        if N == 3 {
            states[2] = states[2].maximum(states[1]);
        }
        let denominator = states[N - 1].sqrt() / self.correction + self.eps;
        self.shrink * param - self.step_size * states[0] / denominator
    }
}

pub(super) struct RmsProp<R> {
    lr: R,
    alpha: R,
    /// `1 - alpha`
    weight: R,
    eps: R,
    momentum: R,
    has_momentum: bool,
    centered: bool,
}

impl<R: Real> RmsProp<R> {
    pub(super) fn new(lr: f64, alpha: f64, eps: f64, momentum: f64, centered: bool) -> RmsProp<R> {
        RmsProp {
            lr: R::of(lr),
            alpha: R::of(alpha),
            weight: R::of(1.0 - alpha),
            eps: R::of(eps),
            momentum: R::of(momentum),
            has_momentum: momentum != 0.0,
            centered,
        }
    }
}

impl<R: Real, const N: usize> Update<R, N> for RmsProp<R> {
    #[inline(always)]
    fn update(&self, param: R, grad: R, states: &mut [R; N]) -> R {
        states[0] = states[0] * self.alpha + self.weight * grad * grad;
        let mut square = states[0];
        if self.centered {
            states[1] = lerp(states[1], grad, self.weight);
            square = square - states[1] * states[1];
        }
        let average = square.sqrt() + self.eps;
        if self.has_momentum {
            states[N - 1] = states[N - 1] * self.momentum + grad / average;
            param - self.lr * states[N - 1]
        } else {
            param - self.lr * grad / average
        }
    }
}

pub(super) struct Adagrad<R> {
    lr: R,
    eps: R,
}

impl<R: Real> Adagrad<R> {
    pub(super) fn new(lr: f64, lr_decay: f64, eps: f64, step: f64) -> Adagrad<R> {
        Adagrad { lr: R::of(lr / (1.0 + (step - 1.0) * lr_decay)), eps: R::of(eps) }
    }
}

impl<R: Real> Update<R, 1> for Adagrad<R> {
    #[inline(always)]
    fn update(&self, param: R, grad: R, states: &mut [R; 1]) -> R {
        states[0] = states[0] + grad * grad;
        param - self.lr * grad / (states[0].sqrt() + self.eps)
    }
}
