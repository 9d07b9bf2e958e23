//! Modules: their parts ([`ModuleTree`]) and their computation ([`Module`]).

mod backward_hooks;
mod containers;
mod ext;
mod failure;
mod field;
mod global_hooks;
mod hook;
mod hooks;
mod load;
mod repr;
mod tree;

pub use ext::ModuleExt;
pub(crate) use failure::{failed_in, failed_in_container};
pub use field::{Field, FieldKind};
pub use global_hooks::{
    register_module_forward_hook, register_module_forward_pre_hook, register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
};
pub use hooks::{HookResult, HookedOutput, Hooks, RemovableHandle};
pub(crate) use hooks::{hooked, hooks_may_exist, is_hooked};
pub use kiln_derive::Module;
pub use load::LoadReport;
pub(crate) use tree::walk;
pub use tree::{ModuleTree, Part, PartMut};

use kiln_tensor::{Result, Tensor};

/// A layer or model: computes a tensor from a tensor.
///
/// Write a struct of layers, derive the bookkeeping, and write `forward`:
///
/// ```
/// use kiln_nn::{Linear, Module, ModuleTree, ReLU, Sequential, seq};
/// use kiln_tensor::{Device, Result, Tensor};
///
/// #[derive(Module)]
/// struct NeuralNetwork {
///     scale: f64, // plain numbers, strings and the like are not part of the state
///     linear_relu_stack: Sequential,
///     head: Linear,
/// }
///
/// impl Module for NeuralNetwork {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         let x = self.linear_relu_stack.forward(&x.flatten(1, -1)?)?;
///         self.head.forward(&x)?.mul(self.scale)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let stack = seq![Linear::new(784, 512)?, ReLU::new()];
/// let model = NeuralNetwork { scale: 1.0, linear_relu_stack: stack, head: Linear::new(512, 10)? };
/// assert_eq!(model.named_parameters()[0].0, "linear_relu_stack.0.weight");
/// println!("{model}"); // as PyTorch prints it
/// # Ok(())
/// # }
/// ```
///
/// # What `#[derive(Module)]` does
///
/// It implements [`ModuleTree`] (parameters, state dict, `train`, `to`, …), [`Field`] (so that the struct can
/// be a field of another module) and `Display`. A field may be a [`Parameter`](crate::Parameter), a
/// [`Buffer`](crate::Buffer), another module, [`Training`](crate::Training), [`Hooks`], an `Option`, `Vec`, array, tuple
/// or `BTreeMap<String, _>` of these, `Box<dyn Module>`, or plain configuration (numbers, `bool`, `char`,
/// strings, `PhantomData`), which is left alone. A name in the state dict is PyTorch's: the path of field
/// names and positions, with dots.
///
/// | attribute | on | effect |
/// | --- | --- | --- |
/// | `#[module(skip)]` | a field | it is left alone, whatever its type |
/// | `#[module(skip, save)]` | a field | it is left alone, and [saved](crate::saved) with the module |
/// | `#[module(name = "fc")]` | a field | its name in the state dict |
/// | `#[module(name = "Net")]` | the struct | the name that is printed |
/// | `#[module(extra_repr = "method")]` | the struct | a method `fn(&self) -> String` gives the text between the parentheses |
/// | `#[module(save)]`, `#[module(save = "Net")]` | the struct | it can be [saved](crate::saved) as a whole, under its own name or this one |
/// | `#[module(no_display)]` | the struct | `Display` is not implemented |
/// | `#[module(crate = "path")]` | the struct | where `kiln_nn` is, if it is not a dependency under its own name or as `kiln::nn` |
///
/// Anything else is a compile error, a bare [`Tensor`] for one:
///
/// ```compile_fail
/// #[derive(kiln_nn::Module)]
/// struct Net {
///     weight: kiln_tensor::Tensor, // trained or not? `Parameter` or `Buffer`
/// }
/// ```
///
/// A module with several inputs derives the same and has its own `forward` method instead of this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a module",
    label = "it has no `forward`",
    note = "write `#[derive(Module)]` before the struct, and `impl Module for …` with its `forward`"
)]
pub trait Module: ModuleTree {
    /// Computes the output for a batch.
    ///
    /// # Errors
    /// If the module does not accept the input's shape, dtype or device.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;

    /// [`forward`](Module::forward) followed by ReLU. Layers that can do both in one primitive override it;
    /// [`Sequential`](crate::Sequential) calls it.
    ///
    /// # Errors
    /// Those of [`forward`](Module::forward).
    fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)?.relu()
    }

    /// Whether this module is a ReLU and nothing else.
    fn is_relu(&self) -> bool {
        false
    }
}

impl<M: Module + ?Sized> Module for Box<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        (**self).forward(x)
    }

    fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        (**self).forward_relu(x)
    }

    fn is_relu(&self) -> bool {
        (**self).is_relu()
    }
}
