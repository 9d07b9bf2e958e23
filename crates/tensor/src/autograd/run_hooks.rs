//! Runs the hooks on gradients as they arrive, and keeps gradients for `retain_grad`.

use kiln_backend::{Error, Result};
use parking_lot::Mutex;

use super::{
    accumulation::accumulate,
    hook::{Action, Hook, OutputHook},
};
use crate::tensor::Tensor;

/// Runs hooks on a gradient, in the order of their registration.
pub(crate) fn run_hooks(hooks: &[Hook], mut grad: Tensor) -> Result<Tensor> {
    for hook in hooks {
        if let Some(replacement) = (hook.run)(&grad)? {
            if replacement.shape() != grad.shape() || replacement.dtype() != grad.dtype() {
                return Err(Error::autograd(
                    "register_hook",
                    format!("a hook replaced a gradient of shape {} by one of {}", grad.shape(), replacement.shape()),
                ));
            }
            grad = replacement;
        }
    }
    Ok(grad)
}

/// Runs the actions registered for output `output` of a node.
pub(crate) fn run_output_hooks(hooks: &Mutex<Vec<OutputHook>>, output: usize, mut grad: Tensor) -> Result<Tensor> {
    let actions: Vec<Action> = {
        let hooks = hooks.lock();
        if hooks.is_empty() {
            return Ok(grad);
        }
        hooks.iter().filter(|hook| hook.output == output).map(|hook| hook.action.clone()).collect()
    };
    for action in &actions {
        if let Action::Call(hook) = action {
            grad = run_hooks(std::slice::from_ref(hook), grad)?;
        }
    }
    // The retained gradient is that after all hooks, whenever `retain_grad` was called.
    for action in actions {
        if let Action::Keep(tensor) = action
            && let Some(tensor) = tensor.upgrade()
        {
            accumulate(&Tensor(tensor), grad.clone())?;
        }
    }
    Ok(grad)
}
