//! Optimizer steps over all parameters of a group.

use crate::{Result, View, ViewMut};

/// The update rule of an optimizer, as PyTorch's page of the same name defines it
/// (<https://docs.pytorch.org/docs/stable/optim.html>). `maximize` negates the gradient, and
/// `weight_decay` adds `weight_decay * param` to it unless it is decoupled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // hyper-parameters are named as in PyTorch
pub enum OptimRule {
    /// State: momentum buffer, if `momentum != 0`. In step 1 the buffer becomes the gradient.
    Sgd { momentum: f64, dampening: f64, nesterov: bool, weight_decay: f64, maximize: bool },
    /// State: first moment, second moment, and the largest second moment if `amsgrad`. `decoupled` makes it
    /// AdamW.
    Adam { beta1: f64, beta2: f64, eps: f64, weight_decay: f64, decoupled: bool, amsgrad: bool, maximize: bool },
    /// State: mean square, then the mean if `centered`, then the momentum buffer if `momentum != 0`.
    RmsProp { alpha: f64, eps: f64, weight_decay: f64, momentum: f64, centered: bool, maximize: bool },
    /// State: sum of squares (filled with the initial value by the caller).
    Adagrad { lr_decay: f64, weight_decay: f64, eps: f64, maximize: bool },
}

impl OptimRule {
    /// How many state tensors, each of the parameter's shape, the rule keeps for one parameter.
    #[must_use]
    pub fn states(&self) -> usize {
        match *self {
            OptimRule::Sgd { momentum, .. } => usize::from(momentum != 0.0),
            OptimRule::Adam { amsgrad, .. } => 2 + usize::from(amsgrad),
            OptimRule::RmsProp { momentum, centered, .. } => 1 + usize::from(centered) + usize::from(momentum != 0.0),
            OptimRule::Adagrad { .. } => 1,
        }
    }
}

/// One parameter in an optimizer step. All views but the last are contiguous and of one dtype and shape.
#[derive(Debug)]
pub struct OptimSlot<'a> {
    /// The parameter, updated in place.
    pub param: ViewMut<'a>,
    /// Its gradient.
    pub grad: View<'a>,
    /// [`OptimRule::states`] state tensors, updated in place.
    pub states: Vec<ViewMut<'a>>,
    /// How many steps this parameter has had: one `i64`, which the step raises by 1.
    pub count: ViewMut<'a>,
}

/// Fused optimizer steps.
pub trait OptimBackend {
    /// One step of all parameters of a group with learning rate `lr`.
    fn optimizer_step(&self, rule: &OptimRule, lr: View, slots: &mut [OptimSlot]) -> Result<()>;
}
