//! `ModuleTree`: the parts of a module, and the operations on them (state dict, training mode, moving between devices).

use std::{any::Any, ops::Deref};

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, StateDict, Tensor, no_grad};
use serde_json::Value;

use super::{
    hooks::Hooks,
    load::{self, LoadReport},
};

use crate::{
    parameter::{Buffer, Parameter, Training},
    saved::Describing,
};

/// A part of a module.
#[derive(Clone, Copy)]
#[allow(missing_docs)] // each is what its type says
pub enum Part<'a> {
    Parameter(&'a Parameter),
    Buffer(&'a Buffer),
    Training(&'a Training),
    Module(&'a dyn ModuleTree),
}

/// A part of a module, with mutable access.
#[allow(missing_docs)]
pub enum PartMut<'a> {
    Parameter(&'a mut Parameter),
    Buffer(&'a mut Buffer),
    Training(&'a mut Training),
    Module(&'a mut dyn ModuleTree),
}

/// The parts of a module, which `#[derive(Module)]` lists, and the operations on them.
///
/// Names are paths as in PyTorch: `linear_relu_stack.0.weight`. A module's own parameters come before those
/// of its children, and both in the order of the fields.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a module: `#[derive(Module)]` is missing",
    label = "write `#[derive(Module)]` before this type",
    note = "`kiln::nn::Module` is both the derive macro, which finds parameters and layers among the fields, and the trait of `forward`"
)]
#[located(site)]
pub trait ModuleTree: AsTree + Send + Sync {
    /// The type name to print.
    fn type_name(&self) -> &str;

    /// Calls `each` with the name and value of every field that is part of the module's state.
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>));

    /// [`visit`](ModuleTree::visit) with mutable access.
    fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>));

    /// The text to print between the parentheses, before the children.
    fn extra_repr(&self) -> String {
        String::new()
    }

    /// Its architecture as data for a file; its tensors are passed to `at`. See [`saved`](crate::saved).
    ///
    /// # Errors
    /// If it cannot be saved because `#[module(save)]` is missing, here or in a layer below.
    #[doc(hidden)]
    fn architecture(&self, at: &mut Describing) -> Result<Value> {
        Err(at
            .wrong(format!("a layer of type {} cannot be saved; its struct needs `#[module(save)]`", self.type_name())))
    }

    /// Whether it prints as a list, with equal neighbors merged into one line.
    #[doc(hidden)]
    fn folds_equal_children(&self) -> bool {
        false
    }

    /// The module as PyTorch prints it; `Display` gives the same.
    fn repr(&self) -> String {
        self.as_tree().to_string()
    }

    /// All parameters with their names. A shared parameter appears once, under its first name.
    fn named_parameters(&self) -> Vec<(String, Tensor)> {
        distinct(self.as_tree(), |part| if let Part::Parameter(p) = part { Some(p) } else { None })
    }

    /// All parameters, each once, as an optimizer takes them.
    fn parameters(&self) -> Vec<Tensor> {
        without_names(self.named_parameters())
    }

    /// All buffers with their names, each once.
    fn named_buffers(&self) -> Vec<(String, Tensor)> {
        distinct(self.as_tree(), |part| if let Part::Buffer(b) = part { Some(b) } else { None })
    }

    /// All buffers, each once.
    fn buffers(&self) -> Vec<Tensor> {
        without_names(self.named_buffers())
    }

    /// The modules that are fields of this one, with their names.
    fn named_children(&self) -> Vec<(String, &dyn ModuleTree)> {
        named_children(self.as_tree())
    }

    /// All modules below this one with their paths, parents before children.
    fn named_modules(&self) -> Vec<(String, &dyn ModuleTree)> {
        named_modules(self.as_tree())
    }

    /// Parameters and persistent buffers by name, without history. They share memory with the module:
    /// [`copy`](Tensor::copy) those that must not change with it.
    fn state_dict(&self) -> StateDict {
        state_dict(self.as_tree())
    }

    /// Copies values from `state` into the parameters and buffers of the same names, converting dtype and device. If it
    /// fails, nothing is changed.
    ///
    /// # Errors
    /// If a shape differs; or, if `strict`, a name is missing or unexpected. The message lists all of them, each with
    /// the closest name on the other side.
    fn load_state_dict(&self, state: &StateDict, strict: bool) -> Result<LoadReport> {
        load::load(self.type_name(), &self.state_dict(), state, strict)
    }

    /// Puts this module and all below it into training mode, which is the initial mode.
    fn train(&self) {
        self.set_training(true);
    }

    /// Puts this module and all below it into evaluation mode: dropout passes everything, batch norm uses its running
    /// statistics.
    fn eval(&self) {
        self.set_training(false);
    }

    /// [`train`](ModuleTree::train) or [`eval`](ModuleTree::eval).
    fn set_training(&self, training: bool) {
        set_training(self.as_tree(), training);
    }

    /// The mode of this module, or of the first one below it that has a switch. (Built-in layers with parameters,
    /// containers, and layers that differ between the modes have one.)
    fn is_training(&self) -> bool {
        is_training(self.as_tree())
    }

    /// The number of trainable values: of all parameters, each counted once.
    fn num_parameters(&self) -> usize {
        num_parameters(self.as_tree())
    }

    /// Clears the gradients of all parameters.
    fn zero_grad(&self) {
        zero_grad(self.as_tree());
    }

    /// Freezes all parameters (`false`) or trains them (`true`). Operations on frozen parameters alone record nothing
    /// and save nothing for a backward pass.
    ///
    /// # Errors
    /// None, for parameters made by [`Parameter::new`](crate::Parameter::new).
    fn requires_grad_(&self, requires_grad: bool) -> Result<()> {
        set_requires_grad(self.as_tree(), requires_grad)
    }

    /// Moves parameters, their gradients and buffers to a device. Create optimizers afterwards: an existing optimizer
    /// holds the old tensors, and fails in its next step.
    ///
    /// # Errors
    /// If the device is not available, or memory runs out. Some tensors may have been moved then.
    fn to_device_(&mut self, device: Device) -> Result<()> {
        to_device(self.as_tree_mut(), device)
    }

    /// Converts floating-point parameters, their gradients and buffers to another floating-point type; other buffers
    /// keep theirs. Create optimizers afterwards.
    ///
    /// # Errors
    /// If `dtype` is not floating-point, or memory runs out.
    fn to_dtype_(&mut self, dtype: DType) -> Result<()> {
        to_dtype(self.as_tree_mut(), dtype)
    }

    /// [`to_device_`](ModuleTree::to_device_) for a module that was just made: `let model = Net::new()?.to(device)?;`.
    ///
    /// # Errors
    /// Those of [`to_device_`](ModuleTree::to_device_).
    fn to(mut self, device: impl Into<Device>) -> Result<Self>
    where
        Self: Sized,
    {
        self.to_device_(device.into())?;
        Ok(self)
    }

    /// [`to_dtype_`](ModuleTree::to_dtype_) for a module that was just made.
    ///
    /// # Errors
    /// Those of [`to_dtype_`](ModuleTree::to_dtype_).
    fn to_dtype(mut self, dtype: DType) -> Result<Self>
    where
        Self: Sized,
    {
        self.to_dtype_(dtype)?;
        Ok(self)
    }

    /// Stores filters of convolutions (all 4-D parameters and buffers, and their gradients) in channels-last memory, as cuDNN
    /// takes them for channels-last images: a GPU then copies none of them in a step. PyTorch's
    /// `to(memory_format=torch.channels_last)`. It comes last: a conversion to another dtype makes tensors row-major
    /// again, and optimizers are created afterwards. Shapes, names and saved files stay the same.
    ///
    /// # Errors
    /// If memory runs out.
    fn channels_last_(&mut self) -> Result<()> {
        channels_last(self.as_tree_mut())
    }

    /// [`channels_last_`](ModuleTree::channels_last_) for a module that was just made.
    ///
    /// # Errors
    /// Those of [`channels_last_`](ModuleTree::channels_last_).
    fn channels_last(mut self) -> Result<Self>
    where
        Self: Sized,
    {
        self.channels_last_()?;
        Ok(self)
    }

    /// The hooks that it runs.
    #[doc(hidden)]
    fn hooks(&self) -> Option<&Hooks> {
        None
    }

    /// This module with its type, unless that has generic parameters.
    #[doc(hidden)]
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Its address in memory; for a box, that of the module inside.
    #[doc(hidden)]
    fn address(&self) -> usize {
        std::ptr::from_ref(self).cast::<()>() as usize
    }

    /// Replaces every parameter and buffer by the result of `f`. Shared ones stay shared.
    #[doc(hidden)]
    fn map_tensors(&mut self, f: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        map_parts(self.as_tree_mut(), f, &mut Vec::new())
    }
}

/// A module as an object, whatever its type: the methods of [`ModuleTree`] are one line each, so that their code is
/// compiled once, here, rather than for every module type in every program.
#[doc(hidden)]
pub trait AsTree {
    fn as_tree(&self) -> &dyn ModuleTree;
    fn as_tree_mut(&mut self) -> &mut dyn ModuleTree;
}

impl<M: ModuleTree> AsTree for M {
    fn as_tree(&self) -> &dyn ModuleTree {
        self
    }

    fn as_tree_mut(&mut self) -> &mut dyn ModuleTree {
        self
    }
}

/// The tensors that `choose` accepts, each under the first of its names.
fn distinct<'a, T: Deref<Target = Tensor> + 'a>(
    module: &'a dyn ModuleTree,
    choose: fn(Part<'a>) -> Option<&'a T>,
) -> Vec<(String, Tensor)> {
    let mut out: Vec<(String, Tensor)> = Vec::new();
    walk(module, "", &mut |path, part| {
        if let Some(tensor) = choose(part)
            && !out.iter().any(|(_, seen)| seen.is_same(tensor))
        {
            out.push((path.to_owned(), (**tensor).clone()));
        }
    });
    out
}

fn without_names(named: Vec<(String, Tensor)>) -> Vec<Tensor> {
    named.into_iter().map(|(_, tensor)| tensor).collect()
}

fn named_children(module: &dyn ModuleTree) -> Vec<(String, &dyn ModuleTree)> {
    let mut out = Vec::new();
    module.visit(&mut |name, part| {
        if let Part::Module(module) = part {
            out.push((name.to_owned(), module));
        }
    });
    out
}

fn named_modules(module: &dyn ModuleTree) -> Vec<(String, &dyn ModuleTree)> {
    let mut out = Vec::new();
    walk(module, "", &mut |path, part| {
        if let Part::Module(module) = part {
            out.push((path.to_owned(), module));
        }
    });
    out
}

fn state_dict(module: &dyn ModuleTree) -> StateDict {
    let mut out = StateDict::new();
    walk(module, "", &mut |path, part| {
        let tensor: &Tensor = match part {
            Part::Parameter(parameter) => parameter,
            Part::Buffer(buffer) if buffer.is_persistent() => buffer,
            _ => return,
        };
        out.insert(path.to_owned(), tensor.detach());
    });
    out
}

fn set_training(module: &dyn ModuleTree, training: bool) {
    walk(module, "", &mut |_, part| {
        if let Part::Training(switch) = part {
            switch.set(training);
        }
    });
}

fn is_training(module: &dyn ModuleTree) -> bool {
    let mut found = None;
    walk(module, "", &mut |_, part| {
        if let (Part::Training(switch), None) = (part, found) {
            found = Some(switch.is_on());
        }
    });
    found.unwrap_or(true)
}

fn num_parameters(module: &dyn ModuleTree) -> usize {
    module.parameters().iter().map(Tensor::numel).sum()
}

fn zero_grad(module: &dyn ModuleTree) {
    walk(module, "", &mut |_, part| {
        if let Part::Parameter(p) = part {
            p.zero_grad();
        }
    });
}

fn set_requires_grad(module: &dyn ModuleTree, requires_grad: bool) -> Result<()> {
    module.parameters().iter().try_for_each(|p| p.set_requires_grad(requires_grad))
}

fn to_device(module: &mut dyn ModuleTree, device: Device) -> Result<()> {
    module.map_tensors(&|t| t.to_device(device))
}

fn to_dtype(module: &mut dyn ModuleTree, dtype: DType) -> Result<()> {
    if !dtype.is_float() {
        return Err(Error::dtype("to_dtype_", dtype, "parameters must be floating-point"));
    }
    module.map_tensors(&|t| if t.dtype().is_float() { t.to_dtype(dtype) } else { Ok(t.clone()) })
}

fn channels_last(module: &mut dyn ModuleTree) -> Result<()> {
    module.map_tensors(&|t| if t.rank() == 4 { Ok(t.channels_last()?.detach()) } else { Ok(t.clone()) })
}

/// Calls `see` with the path of every part below `module`: for each module its parameters, its buffers, its switch, and
/// then its children.
pub(crate) fn walk<'a>(module: &'a dyn ModuleTree, prefix: &str, see: &mut dyn FnMut(&str, Part<'a>)) {
    let mut parts: Vec<(String, Part<'a>)> = Vec::new();
    module.visit(&mut |name, part| parts.push((join(prefix, name), part)));
    parts.sort_by_key(|(_, part)| match part {
        Part::Parameter(_) => 0,
        Part::Buffer(_) => 1,
        Part::Training(_) => 2,
        Part::Module(_) => 3,
    });
    for (path, part) in parts {
        if let Part::Training(training) = part {
            training.note_module_path(prefix);
        }
        see(&path, part);
        if let Part::Module(child) = part {
            walk(child, &path, see);
        }
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

fn map_parts(
    module: &mut dyn ModuleTree,
    f: &dyn Fn(&Tensor) -> Result<Tensor>,
    done: &mut Vec<(Tensor, Tensor)>,
) -> Result<()> {
    let mut result = Ok(());
    module.visit_mut(&mut |_, part| {
        if result.is_ok() {
            result = match part {
                PartMut::Parameter(p) => mapped(p, f, done).map(|new| p.replace(new)),
                PartMut::Buffer(b) => mapped(b, f, done).map(|new| b.replace(new)),
                PartMut::Training(_) => Ok(()),
                PartMut::Module(child) => map_parts(child, f, done),
            };
        }
    });
    result
}

/// The replacement of `old`, with its `requires_grad` and its gradient. `done` remembers replacements, for shared
/// tensors.
fn mapped(old: &Tensor, f: &dyn Fn(&Tensor) -> Result<Tensor>, done: &mut Vec<(Tensor, Tensor)>) -> Result<Tensor> {
    if let Some((_, new)) = done.iter().find(|(seen, _)| seen.is_same(old)) {
        return Ok(new.clone());
    }
    let new = no_grad(|| f(old))?;
    if !new.is_same(old) {
        new.set_requires_grad(old.requires_grad())?;
        if let Some(grad) = old.grad() {
            new.set_grad(Some(no_grad(|| f(&grad))?))?;
            // The gradient moves: an optimizer that still holds the old tensor must find none there, and report it.
            old.set_grad(None)?;
        }
    }
    done.push((old.clone(), new.clone()));
    Ok(new)
}
