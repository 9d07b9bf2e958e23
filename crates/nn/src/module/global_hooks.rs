//! Hooks of all modules at once (`torch.nn.modules.module.register_module_forward_hook` and its siblings).

use std::sync::Arc;

use kiln_tensor::Tensor;

use super::{
    hook::Hook,
    hooks::{HookResult, RemovableHandle, register_global},
    tree::ModuleTree,
};

/// [`register_forward_pre_hook`](crate::ModuleExt::register_forward_pre_hook) for every module of the process that runs hooks, now
/// or later
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.modules.module.register_module_forward_pre_hook.html>). Hooks of all
/// modules run before a module's own. A layer of a `Sequential` runs them once.
pub fn register_module_forward_pre_hook<R: HookResult>(
    hook: impl Fn(&dyn ModuleTree, &Tensor) -> R + Send + Sync + 'static,
) -> RemovableHandle {
    register_global(Hook::Before(Arc::new(move |module, x| hook(module, x).replacement())))
}

/// [`register_forward_hook`](crate::ModuleExt::register_forward_hook) for every module that runs hooks, before its own
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.modules.module.register_module_forward_hook.html>).
///
/// ```
/// use kiln_nn::{Linear, Module, ReLU, register_module_forward_hook, seq};
/// use kiln_tensor::{Device, Tensor};
///
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = seq![Linear::new(4, 8)?, ReLU::new()];
/// let handle = register_module_forward_hook(|module, x, y| println!("{} {} {}", module.type_name(), x.shape(), y.shape()));
/// model.forward(&Tensor::ones([3, 4], Device::Cpu)?)?; // prints three lines: of both layers, and of the chain
/// handle.remove();
/// # Ok(())
/// # }
/// ```
pub fn register_module_forward_hook<R: HookResult>(
    hook: impl Fn(&dyn ModuleTree, &Tensor, &Tensor) -> R + Send + Sync + 'static,
) -> RemovableHandle {
    register_global(Hook::After(Arc::new(move |module, x, y| hook(module, x, y).replacement())))
}

/// [`register_full_backward_pre_hook`](crate::ModuleExt::register_full_backward_pre_hook) for every module that runs hooks, before
/// its own; the first argument is the module's type
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.modules.module.register_module_full_backward_pre_hook.html>).
pub fn register_module_full_backward_pre_hook<R: HookResult>(
    hook: impl Fn(&str, &Tensor) -> R + Send + Sync + 'static,
) -> RemovableHandle {
    register_global(Hook::BackwardPre(Arc::new(move |name, grad| hook(name, grad).replacement())))
}

/// [`register_full_backward_hook`](crate::ModuleExt::register_full_backward_hook) for every module that runs hooks, before its own;
/// the first argument is the module's type
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.modules.module.register_module_full_backward_hook.html>).
pub fn register_module_full_backward_hook<R: HookResult>(
    hook: impl Fn(&str, Option<&Tensor>, &Tensor) -> R + Send + Sync + 'static,
) -> RemovableHandle {
    register_global(Hook::Backward(Arc::new(move |name, grad_input, grad_output| {
        hook(name, grad_input, grad_output).replacement()
    })))
}
