//! Optimizer steps over all parameters of a group.

use crate::{
    contract::{Arguments, Checked, has_dtype, is_float, same_shape},
    dtype::DType,
    error::{Error, Result},
    layout::Layout,
    view::{View, ViewMut},
};

/// The update rule of an optimizer, as PyTorch's page of the same name defines it
/// (<https://docs.pytorch.org/docs/stable/optim.html>). `maximize` negates the gradient, and
/// `weight_decay` adds `weight_decay * param` to it unless it is decoupled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // hyperparameters are named as in PyTorch
pub enum OptimRule {
    /// State: momentum buffer, if `momentum != 0`. The first step sets the buffer to the gradient.
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
    /// How many state tensors, each of the parameter's shape, the rule keeps per parameter.
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

/// One parameter in an optimizer step. All views but `count` are contiguous and of the same shape; the states have the
/// parameter's dtype.
#[derive(Debug)]
pub struct OptimSlot<'a> {
    /// The parameter, updated in place.
    pub param: ViewMut<'a>,
    /// Its gradient, of its dtype; for a parameter in `f32` also in half precision.
    pub grad: View<'a>,
    /// [`OptimRule::states`] state tensors, updated in place.
    pub states: Vec<ViewMut<'a>>,
    /// How many steps this parameter has had: one `i64`, which the step increments.
    pub count: ViewMut<'a>,
    /// Receives the new parameter rounded to half precision, for a parameter in `f32`.
    pub low: Option<ViewMut<'a>>,
}

/// What a gradient scaler has to say about a step. Both are one `f32` on the device.
#[derive(Clone, Copy, Debug)]
pub struct OptimScaling<'a> {
    /// Unless it is 0, the step is skipped: nothing changes, not even counts.
    pub found_inf: View<'a>,
    /// Gradients are multiplied by its reciprocal, computed in `f64` and rounded to what steps are computed in.
    pub scale: Option<View<'a>>,
}

/// Arguments of [`optimizer_step`](OptimBackend::optimizer_step).
#[derive(Debug)]
pub struct OptimArgs<'a> {
    /// The update rule of the group.
    pub rule: OptimRule,
    /// The learning rate: one `f64`.
    pub lr: View<'a>,
    /// Whether gradients are scaled and the step may be skipped.
    pub scaling: Option<OptimScaling<'a>>,
    /// The parameters of the group.
    pub slots: Vec<OptimSlot<'a>>,
}

const OP: &str = "optimizer_step";

impl Arguments for OptimArgs<'_> {
    fn check(&self) -> Result<()> {
        is_number(DType::F64, self.lr)?;
        if let Some(OptimScaling { found_inf, scale }) = self.scaling {
            is_number(DType::F32, found_inf)?;
            scale.map_or(Ok(()), |scale| is_number(DType::F32, scale))?;
        }
        self.slots.iter().try_for_each(|slot| {
            let OptimSlot { param, grad, states, count, low } = slot;
            is_float(OP, param.dtype())?;
            is_number(DType::I64, count.as_view())?;
            if states.len() != self.rule.states() {
                let message = format!("{} state tensors are needed, {} were given", self.rule.states(), states.len());
                return Err(Error::argument(OP, message));
            }
            is_dense(param.layout)?;
            let is_of = |view: View, low: bool| {
                if !(low && param.dtype() == DType::F32 && view.dtype().is_half()) {
                    has_dtype(OP, param.dtype(), view.dtype())?;
                }
                same_shape(OP, &[param.layout, view.layout])?;
                is_dense(view.layout)
            };
            is_of(*grad, true)?;
            if let Some(low) = low {
                is_half(param.dtype(), low.dtype())?;
                is_of(low.as_view(), true)?;
            }
            states.iter().try_for_each(|state| is_of(state.as_view(), false))
        })
    }
}

/// Whether a copy is of lower precision than its parameter.
fn is_half(param: DType, low: DType) -> Result<()> {
    if param == DType::F32 && low.is_half() {
        return Ok(());
    }
    Err(Error::dtypes(OP, param, low))
}

fn is_number(dtype: DType, view: View) -> Result<()> {
    has_dtype(OP, dtype, view.dtype())?;
    if view.layout.numel() == 1 { Ok(()) } else { Err(Error::shape(OP, "one number", view.layout.shape())) }
}

fn is_dense(layout: &Layout) -> Result<()> {
    if layout.is_contiguous() {
        Ok(())
    } else {
        Err(Error::argument(OP, "parameters, gradients and states must be contiguous"))
    }
}

/// Fused optimizer steps.
pub trait OptimBackend {
    /// One step of all parameters of a group.
    fn optimizer_step(&self, args: Checked<OptimArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, layout};

    #[test]
    fn operands_are_checked() {
        let (single, double, long) = (Memory(DType::F32), Memory(DType::F64), Memory(DType::I64));
        let rule = OptimRule::Adagrad { lr_decay: 0.0, weight_decay: 0.0, eps: 0.0, maximize: false };
        let (matrix, one) = (layout(&[2, 3]), layout(&[1]));
        let turned = layout(&[3, 2]).transpose(0, 1);
        let check = |lr: View, grad: View, state: &[(DType, &Layout)], counter: DType| {
            let (mut param, mut count) = (single, Memory(counter));
            let mut memory: Vec<Memory> = state.iter().map(|&(dtype, _)| Memory(dtype)).collect();
            let states = memory.iter_mut().zip(state).map(|(memory, (_, layout))| memory.view_mut(layout)).collect();
            let (param, count) = (param.view_mut(&matrix), count.view_mut(&one));
            let slot = OptimSlot { param, grad, states, count, low: None };
            OptimArgs { rule, lr, scaling: None, slots: vec![slot] }.check().is_ok()
        };
        let (lr, grad, state) = (double.view(&one), single.view(&matrix), (DType::F32, &matrix));
        assert!(check(lr, grad, &[state], DType::I64));
        assert!(!check(single.view(&one), grad, &[state], DType::I64));
        assert!(!check(double.view(&matrix), grad, &[state], DType::I64));
        assert!(!check(lr, grad, &[], DType::I64) && !check(lr, grad, &[state, state], DType::I64));
        assert!(!check(lr, grad, &[(DType::F64, &matrix)], DType::I64));
        assert!(!check(lr, grad, &[(DType::F32, &one)], DType::I64));
        assert!(!check(lr, single.view(&turned), &[state], DType::I64));
        assert!(!check(lr, long.view(&matrix), &[state], DType::I64));
        assert!(!check(lr, grad, &[state], DType::I32));
        assert!(check(lr, Memory(DType::BF16).view(&matrix), &[state], DType::I64));
        assert!(!check(lr, double.view(&matrix), &[state], DType::I64));
        assert!(!check(lr, grad, &[(DType::F16, &matrix)], DType::I64));

        let scaled = |low: (DType, &Layout), scale: View, found_inf: View| {
            let (mut param, mut count, mut state, mut copy) = (single, long, single, Memory(low.0));
            let states = vec![state.view_mut(&matrix)];
            let (param, count) = (param.view_mut(&matrix), count.view_mut(&one));
            let slot = OptimSlot { param, grad, states, count, low: Some(copy.view_mut(low.1)) };
            let scaling = Some(OptimScaling { found_inf, scale: Some(scale) });
            OptimArgs { rule, lr, scaling, slots: vec![slot] }.check().is_ok()
        };
        let number = single.view(&one);
        assert!(scaled((DType::F16, &matrix), number, number) && scaled((DType::BF16, &matrix), number, number));
        assert!(!scaled((DType::F32, &matrix), number, number) && !scaled((DType::F16, &one), number, number));
        assert!(!scaled((DType::F16, &turned), number, number) && !scaled((DType::F16, &matrix), lr, number));
        assert!(!scaled((DType::F16, &matrix), number, grad) && !scaled((DType::F16, &matrix), number, lr));
    }
}
