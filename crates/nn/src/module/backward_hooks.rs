//! Backward hooks of modules: functions that see the gradients of a module's output and input, as
//! `Module.register_full_backward_hook` of PyTorch.

use std::sync::{Arc, Mutex, PoisonError};

use kiln_tensor::{Error, Result, Tensor};

use super::hook::{Backward, BackwardPre, Hook};

/// The backward hooks of one computation of a module. They belong to its history: hooks that are removed afterwards still run.
pub(super) struct BackwardHooks {
    type_name: Arc<str>,
    before: Vec<BackwardPre>,
    after: Vec<Backward>,
    /// The gradient of the output, from the hook there to that of the input.
    grad_output: Arc<Mutex<Option<Tensor>>>,
    /// Whether the input has a gradient.
    sees_input: bool,
}

impl BackwardHooks {
    /// Those among these hooks, if there are any.
    pub fn of(hooks: &[Hook], type_name: &str) -> Option<BackwardHooks> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for hook in hooks {
            match hook {
                Hook::BackwardPre(call) => before.push(call.clone()),
                Hook::Backward(call) => after.push(call.clone()),
                Hook::Before(_) | Hook::After(_) => {}
            }
        }
        let any = !before.is_empty() || !after.is_empty();
        any.then(|| BackwardHooks {
            type_name: type_name.into(),
            before,
            after,
            grad_output: Arc::default(),
            sees_input: false,
        })
    }

    /// The input, whose gradient the hooks will see. It is a node of its own, so that other uses of the same tensor add nothing to
    /// its gradient.
    pub fn watch_input(&mut self, x: &Tensor) -> Result<Tensor> {
        if !x.requires_grad() || self.after.is_empty() {
            return Ok(x.clone());
        }
        let alias = x.expand_as(x)?;
        // Nothing is recorded under `no_grad`.
        if alias.requires_grad() {
            let (name, hooks, grad_output) = (self.type_name.clone(), self.after.clone(), self.grad_output.clone());
            alias.register_hook(move |grad_input| {
                let taken = grad_output.lock().unwrap_or_else(PoisonError::into_inner).take();
                // Gradients may reach the input past the output, as in second derivatives.
                let Some(grad_output) = taken else { return Ok(None) };
                let mut changed = None;
                for hook in &hooks {
                    let grad_input = changed.as_ref().unwrap_or(grad_input);
                    changed = hook(&name, Some(grad_input), &grad_output)?.or(changed);
                }
                Ok(changed)
            })?;
            self.sees_input = true;
        }
        Ok(alias)
    }

    /// Makes the hooks see the gradient of the output.
    pub fn watch_output(self, y: &mut Tensor) -> Result<()> {
        if !y.requires_grad() {
            return Ok(());
        }
        let alias = y.expand_as(y)?;
        if alias.requires_grad() {
            alias.register_hook(move |grad_output| self.output_grad(grad_output))?;
        }
        *y = alias;
        Ok(())
    }

    fn output_grad(&self, grad_output: &Tensor) -> Result<Option<Tensor>> {
        let mut changed = None;
        for hook in &self.before {
            changed = hook(&self.type_name, changed.as_ref().unwrap_or(grad_output))?.or(changed);
        }
        let grad_output = changed.as_ref().unwrap_or(grad_output);
        if self.sees_input {
            *self.grad_output.lock().unwrap_or_else(PoisonError::into_inner) = Some(grad_output.clone());
            return Ok(changed);
        }
        for hook in &self.after {
            if hook(&self.type_name, None, grad_output)?.is_some() {
                let name = &self.type_name;
                let why = format!("a hook of {name} returned a gradient of the input, which requires none");
                return Err(Error::autograd("register_full_backward_hook", why));
            }
        }
        Ok(changed)
    }
}
