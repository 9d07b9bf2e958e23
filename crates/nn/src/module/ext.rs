//! `ModuleExt`: what is done with a module and the modules below it, by functions of the user's: hooks, `apply`, norms.

use std::{panic::Location, sync::Arc};

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};

use super::{
    hook::Hook,
    hooks::{HookResult, RemovableHandle},
    load::nearest,
    tree::{ModuleTree, Part, walk},
};
use crate::{
    parameter::Parameter,
    total_norm::{get_total_norm, gradients},
};

/// Methods of all modules, also of `dyn ModuleTree`, that take functions: hooks and [`apply`](ModuleExt::apply); finding
/// modules by path; norms.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use kiln_nn::{Linear, Module, ModuleExt, ModuleTree, ReLU, init, seq};
/// use kiln_tensor::{Device, Result, Tensor};
///
/// # fn main() -> Result<()> {
/// let model = seq![Linear::new(4, 8)?, ReLU::new(), Linear::new(8, 2)?];
/// model.apply(|module| match module.downcast_ref::<Linear>() {
///     Some(linear) => init::xavier_uniform_(&linear.weight, 1.0),
///     None => Ok(()),
/// })?;
///
/// // The features before the head.
/// let features = Arc::new(Mutex::new(None));
/// let kept = features.clone();
/// let handle = model.get_submodule("1")?.register_forward_hook(move |_, _, y| {
///     *kept.lock().unwrap() = Some(y.detach());
/// })?;
/// model.forward(&Tensor::ones([3, 4], Device::Cpu)?)?;
/// handle.remove();
/// assert_eq!(features.lock().unwrap().as_ref().map(|t| t.dims().to_vec()), Some(vec![3, 8]));
///
/// model.get_submodule("0")?.requires_grad_(false)?; // a part of it alone
/// # Ok(())
/// # }
/// ```
#[located(site)]
pub trait ModuleExt: ModuleTree {
    /// Calls `hook` with this module and its input before each of its computations. The tensor that it returns replaces the
    /// input, for the next hook and for the module; it may also return nothing, or a `Result`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_forward_pre_hook>).
    /// Hooks run in the order in which they were registered, on the thread that computes.
    ///
    /// Modules that run hooks are: Kiln's layers with parameters or a training mode, [`Sequential`](crate::Sequential) and
    /// each layer in it, of whatever type; and modules of one's own with a field of [`Hooks`](crate::Hooks). Layers with
    /// several inputs show the first one, and of several results the first. Layers that are otherwise computed together are
    /// computed one by one while one of them has a hook. Without hooks in the process, each layer makes one comparison.
    ///
    /// A [`CapturedStep`](kiln_tensor::CapturedStep) calls hooks during its capture; later launches repeat only what they
    /// computed on the device. When hooks are added or removed, the step is no longer launched but run.
    ///
    /// [`register_module_forward_pre_hook`](crate::register_module_forward_pre_hook) and its siblings are hooks of all modules.
    ///
    /// # Errors
    /// If this module does not run hooks. An error of the hook itself is an error of the computation.
    fn register_forward_pre_hook<R: HookResult>(
        &self,
        hook: impl Fn(&dyn ModuleTree, &Tensor) -> R + Send + Sync + 'static,
    ) -> Result<RemovableHandle> {
        let call = move |module: &dyn ModuleTree, x: &Tensor| hook(module, x).replacement();
        register(self.as_tree(), "register_forward_pre_hook", Hook::Before(Arc::new(call)))
    }

    /// Calls `hook` with this module, its input and its output after each of its computations. The tensor that it returns
    /// replaces the output; it may also return nothing, or a `Result`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_forward_hook>). See
    /// [`register_forward_pre_hook`](ModuleExt::register_forward_pre_hook) for which modules run hooks, and when.
    ///
    /// # Errors
    /// If this module does not run hooks. An error of the hook itself is an error of the computation.
    fn register_forward_hook<R: HookResult>(
        &self,
        hook: impl Fn(&dyn ModuleTree, &Tensor, &Tensor) -> R + Send + Sync + 'static,
    ) -> Result<RemovableHandle> {
        let call = move |module: &dyn ModuleTree, x: &Tensor, y: &Tensor| hook(module, x, y).replacement();
        register(self.as_tree(), "register_forward_hook", Hook::After(Arc::new(call)))
    }

    /// Calls `hook` with the gradients of this module's input and output, once both are computed in a backward pass. The tensor
    /// that it returns replaces the gradient of the input, for the next hook and for what is before the module; it may also
    /// return nothing, or a `Result`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_full_backward_hook>). If the
    /// input requires no gradients, its gradient is `None`, and cannot be replaced.
    ///
    /// The hooks of a computation are those registered when it began; hooks are not given the module, which may no longer be there.
    /// See [`register_forward_pre_hook`](ModuleExt::register_forward_pre_hook) for which modules run hooks. Gradients are those
    /// of the first input and of the first result, and of a computation whose first result was not used there are none.
    ///
    /// # Errors
    /// If this module does not run hooks. An error of the hook itself is an error of the backward pass.
    fn register_full_backward_hook<R: HookResult>(
        &self,
        hook: impl Fn(Option<&Tensor>, &Tensor) -> R + Send + Sync + 'static,
    ) -> Result<RemovableHandle> {
        let call = move |_: &str, grad_input: Option<&Tensor>, grad_output: &Tensor| {
            hook(grad_input, grad_output).replacement()
        };
        register(self.as_tree(), "register_full_backward_hook", Hook::Backward(Arc::new(call)))
    }

    /// Calls `hook` with the gradient of this module's output, before its own backward pass. The tensor that it returns replaces
    /// the gradient; it may also return nothing, or a `Result`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.register_full_backward_pre_hook>). See
    /// [`register_full_backward_hook`](ModuleExt::register_full_backward_hook).
    ///
    /// # Errors
    /// If this module does not run hooks. An error of the hook itself is an error of the backward pass.
    fn register_full_backward_pre_hook<R: HookResult>(
        &self,
        hook: impl Fn(&Tensor) -> R + Send + Sync + 'static,
    ) -> Result<RemovableHandle> {
        let call = move |_: &str, grad_output: &Tensor| hook(grad_output).replacement();
        register(self.as_tree(), "register_full_backward_pre_hook", Hook::BackwardPre(Arc::new(call)))
    }

    /// Calls `f` with every module below this one and then with this one, children before their parent, as to initialize
    /// parameters (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.apply>).
    /// `module.downcast_ref::<Linear>()` tells a module's type.
    ///
    /// # Errors
    /// The first of `f`, after which it is not called again.
    fn apply(&self, mut f: impl FnMut(&dyn ModuleTree) -> Result<()>) -> Result<()> {
        apply(self.as_tree(), &mut f)
    }

    /// The module with this path, such as `layer1.0.conv1`; this one for `""`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.get_submodule>).
    ///
    /// # Errors
    /// If there is none; the message names the closest path.
    #[track_caller]
    fn get_submodule(&self, path: &str) -> Result<&dyn ModuleTree> {
        let caller = Location::caller();
        get_submodule(self.as_tree(), path).map_err(|error| error.called_from(caller, file!(), None))
    }

    /// The parameter with this path, such as `layer1.0.conv1.weight`
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.get_parameter>).
    ///
    /// # Errors
    /// If there is none; the message names the closest path.
    #[track_caller]
    fn get_parameter(&self, path: &str) -> Result<&Parameter> {
        let caller = Location::caller();
        get_parameter(self.as_tree(), path).map_err(|error| error.called_from(caller, file!(), None))
    }

    /// The norm of all parameters as one vector, on their device: `norm_type` is 2 for the Euclidean norm, 1, any other
    /// `p > 0`, or `f64::INFINITY` for the largest absolute value. Half precision is summed in `f32`.
    ///
    /// # Errors
    /// If `norm_type` is not positive, or memory runs out.
    fn parameter_norm(&self, norm_type: f64) -> Result<Tensor> {
        get_total_norm(self.parameters(), norm_type)
    }

    /// The norm of all gradients as one vector, as [`clip_grad_norm_`](crate::optim::clip_grad_norm_) returns it, on their device;
    /// parameters without a gradient do not count.
    ///
    /// # Errors
    /// If `norm_type` is not positive, or memory runs out.
    fn grad_norm(&self, norm_type: f64) -> Result<Tensor> {
        get_total_norm(gradients(self.parameters(), Tensor::unconverted_grad), norm_type)
    }
}

impl<M: ModuleTree + ?Sized> ModuleExt for M {}

impl dyn ModuleTree + '_ {
    /// This module as a `T`, if it is one; for a box, or a layer of a [`Sequential`](crate::Sequential), the module inside.
    /// Types with generic parameters are never found.
    #[must_use]
    pub fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.as_any().and_then(|module| module.downcast_ref())
    }
}

fn register(module: &dyn ModuleTree, op: &'static str, hook: Hook) -> Result<RemovableHandle> {
    match module.hooks() {
        Some(hooks) => Ok(hooks.register(hook)),
        None => {
            let name = module.type_name();
            Err(Error::argument(
                op,
                format!(
                    "{name} does not run hooks: put it in a `Sequential`, which runs those of its layers, or give its struct a \
                     field of `Hooks`"
                ),
            ))
        }
    }
}

fn apply(module: &dyn ModuleTree, f: &mut dyn FnMut(&dyn ModuleTree) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    module.visit(&mut |_, part| {
        if let (Part::Module(child), Ok(())) = (part, &result) {
            result = apply(child, f);
        }
    });
    result.and_then(|()| f(module))
}

fn get_submodule<'a>(module: &'a dyn ModuleTree, path: &str) -> Result<&'a dyn ModuleTree> {
    if path.is_empty() {
        return Ok(module);
    }
    find(module.named_modules(), path, module, "get_submodule", "module")
}

fn get_parameter<'a>(module: &'a dyn ModuleTree, path: &str) -> Result<&'a Parameter> {
    let mut parameters: Vec<(String, &Parameter)> = Vec::new();
    walk(module, "", &mut |name, part| {
        if let Part::Parameter(parameter) = part {
            parameters.push((name.to_owned(), parameter));
        }
    });
    find(parameters, path, module, "get_parameter", "parameter")
}

/// The part with this path; `what` it is, for the error.
fn find<T>(parts: Vec<(String, T)>, path: &str, module: &dyn ModuleTree, op: &'static str, what: &str) -> Result<T> {
    let (names, mut parts): (Vec<String>, Vec<T>) = parts.into_iter().unzip();
    match names.iter().position(|name| name == path) {
        Some(at) => Ok(parts.swap_remove(at)),
        None => {
            let hint = nearest(path, &names).map(|name| format!(" ({name:?}?)")).unwrap_or_default();
            Err(Error::argument(op, format!("{} has no {what} {path:?}{hint}", module.type_name())))
        }
    }
}
