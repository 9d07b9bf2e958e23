//! [`Sequential`]: a chain of layers.

use std::{any::Any, collections::HashSet, fmt};

use kiln_derive::located;
use kiln_tensor::{Error, Result, Tensor};
use serde_json::{Value, json};

use super::{conv::Conv2d, norm::BatchNorm2d};
use crate::{
    module::{
        Field, FieldKind, Hooks, Module, ModuleTree, Part, PartMut, failed_in_container, hooked, hooks_may_exist,
        is_hooked,
    },
    parameter::Training,
    saved::{Describing, Restoring, Saved, SavedName},
    summary::is_observed,
};

/// A chain of layers, each applied to the output of the previous one. Layers are named by position (`0`, `1`, …) unless
/// they are given names.
///
/// ```
/// use kiln_nn::{Linear, Module, ReLU, Sequential, seq};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = seq![Linear::new(784, 512)?, ReLU::new(), Linear::new(512, 10)?];
/// // The same, and with names:
/// let model = Sequential::new().add(Linear::new(784, 512)?).add(ReLU::new()).add(Linear::new(512, 10)?);
/// let model = Sequential::new().add_named("fc", Linear::new(784, 10)?)?;
/// # Ok(())
/// # }
/// ```
///
/// A layer followed by [`ReLU`](crate::ReLU) is run by [`Module::forward_relu`], which is a single primitive for
/// [`Linear`](crate::Linear), [`Conv2d`](crate::Conv2d) and [`BatchNorm2d`](crate::BatchNorm2d). A convolution followed by
/// [`BatchNorm2d`](crate::BatchNorm2d), and perhaps ReLU, is run as by [`Conv2d::forward_norm`](crate::Conv2d::forward_norm).
#[derive(Default)]
pub struct Sequential {
    children: Vec<(String, Slot)>,
    training: Training,
}

/// A layer, with hooks if it has none of its own: any layer can have hooks here.
struct Slot {
    layer: Box<dyn Module>,
    hooks: Hooks,
}

/// Makes a [`Sequential`](crate::Sequential) of these layers.
#[macro_export]
macro_rules! seq {
    ($($module:expr),* $(,)?) => {
        $crate::Sequential::new()$(.add($module))*
    };
}

#[located(site)]
impl Sequential {
    /// An empty chain, which returns its input.
    #[must_use]
    pub fn new() -> Sequential {
        Sequential::default()
    }

    /// Appends a layer, named by its position, and returns the chain.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // not a sum
    pub fn add(mut self, module: impl Module + 'static) -> Sequential {
        self.push(module);
        self
    }

    /// Appends a layer with this name, and returns the chain.
    ///
    /// # Errors
    /// If the name is empty, contains a dot, or is taken.
    pub fn add_named(mut self, name: impl Into<String>, module: impl Module + 'static) -> Result<Sequential> {
        let name = name.into();
        if name.is_empty() || name.contains('.') {
            let message = format!("\"{name}\" is not a valid layer name: it must not be empty or contain a dot");
            return Err(Error::argument("Sequential::add_named", message));
        }
        if self.children.iter().any(|(taken, _)| *taken == name) {
            return Err(Error::argument("Sequential::add_named", format!("there is already a layer \"{name}\"")));
        }
        self.children.push((name, Slot::new(Box::new(module))));
        Ok(self)
    }

    /// Appends a layer, named by its position.
    pub fn push(&mut self, module: impl Module + 'static) {
        self.push_boxed(Box::new(module));
    }

    fn push_boxed(&mut self, module: Box<dyn Module>) {
        self.children.push((self.children.len().to_string(), Slot::new(module)));
    }

    /// Replaces the layer at `index`, e.g. by a new head, and returns the old one.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn replace(&mut self, index: usize, module: impl Module + 'static) -> Result<Box<dyn Module>> {
        let len = self.children.len();
        match self.children.get_mut(index) {
            Some((_, slot)) => Ok(std::mem::replace(slot, Slot::new(Box::new(module))).layer),
            None => Err(Error::index("Sequential::replace", index as i64, len, "the layers")),
        }
    }

    /// The number of layers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.children.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// The layer at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&dyn Module> {
        self.children.get(index).map(|(_, slot)| slot as &dyn Module)
    }

    /// The layers in order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Module> {
        self.children.iter().map(|(_, slot)| slot as &dyn Module)
    }
}

#[located(site)]
impl Module for Sequential {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        hooked(self, x, |x| {
            let mut x = x.clone();
            let mut rest = &self.children[..];
            while let Some((name, slot)) = rest.first() {
                let run = forward_first(rest, &x);
                let (y, ran) = run.map_err(|error| failed_in_container(self, name, &slot.layer, error))?;
                (x, rest) = (y, &rest[ran..]);
            }
            Ok(x)
        })
    }
}

impl Slot {
    fn new(layer: Box<dyn Module>) -> Slot {
        Slot { layer, hooks: Hooks::default() }
    }

    /// Whether the layer cannot be computed together with its neighbors.
    fn runs_alone(&self) -> bool {
        is_observed() || is_hooked(self)
    }
}

impl Module for Slot {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // A layer that has hooks of its own runs them.
        if !hooks_may_exist() || self.layer.hooks().is_some() {
            return self.layer.forward(x);
        }
        self.hooks.run(self, x, |x| self.layer.forward(x))
    }

    fn forward_relu(&self, x: &Tensor) -> Result<Tensor> {
        if is_hooked(self) { self.forward(x)?.relu() } else { self.layer.forward_relu(x) }
    }

    fn is_relu(&self) -> bool {
        self.layer.is_relu()
    }
}

/// Transparent but for the hooks.
impl ModuleTree for Slot {
    fn type_name(&self) -> &str {
        self.layer.type_name()
    }
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
        self.layer.visit(each);
    }
    fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        self.layer.visit_mut(each);
    }
    fn extra_repr(&self) -> String {
        self.layer.extra_repr()
    }
    fn folds_equal_children(&self) -> bool {
        self.layer.folds_equal_children()
    }
    fn address(&self) -> usize {
        self.layer.address()
    }
    fn architecture(&self, at: &mut Describing) -> Result<Value> {
        self.layer.architecture(at)
    }
    fn hooks(&self) -> Option<&Hooks> {
        self.layer.hooks().or(Some(&self.hooks))
    }
    fn as_any(&self) -> Option<&dyn Any> {
        self.layer.as_any()
    }
}

/// Runs the first of these layers, together with those after it that one primitive can do; returns how many that were.
fn forward_first(layers: &[(String, Slot)], x: &Tensor) -> Result<(Tensor, usize)> {
    let first = &layers[0].1;
    if first.runs_alone() {
        return Ok((first.forward(x)?, 1));
    }
    let after = |i: usize| layers.get(i).map(|(_, slot)| slot).filter(|slot| !slot.runs_alone());
    let is_relu = |i: usize| after(i).is_some_and(Module::is_relu);
    let conv = first.as_any().and_then(|layer| layer.downcast_ref::<Conv2d>());
    let norm = after(1).and_then(|slot| slot.as_any()?.downcast_ref::<BatchNorm2d>());
    if let (Some(conv), Some(norm)) = (conv, norm) {
        let relu = is_relu(2);
        let y = match conv.fold_forward(x, norm, None, relu)? {
            Some(y) => y,
            None => conv.fused_forward(x, norm, None, relu)?,
        };
        return Ok((y, 2 + usize::from(relu)));
    }
    if is_relu(1) { Ok((first.forward_relu(x)?, 2)) } else { Ok((first.forward(x)?, 1)) }
}

impl ModuleTree for Sequential {
    fn type_name(&self) -> &str {
        "Sequential"
    }

    fn architecture(&self, at: &mut Describing) -> Result<Value> {
        self.save(at)
    }

    fn hooks(&self) -> Option<&Hooks> {
        Some(self.training.hooks())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn visit<'a>(&'a self, each: &mut dyn FnMut(&str, Part<'a>)) {
        each("training", Part::Training(&self.training));
        for (name, slot) in &self.children {
            each(name, Part::Module(slot));
        }
    }

    fn visit_mut<'a>(&'a mut self, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        each("training", PartMut::Training(&mut self.training));
        for (name, slot) in &mut self.children {
            each(name, PartMut::Module(slot));
        }
    }
}

impl Saved for Sequential {
    fn save(&self, at: &mut Describing) -> Result<Value> {
        let training = at.inside("training", |at| self.training.save(at))?;
        let layers: Vec<Value> = self
            .children
            .iter()
            .map(|(name, slot)| Ok(json!([name, at.inside(name, |at| slot.layer.save(at))?])))
            .collect::<Result<_>>()?;
        let fields = [("training".to_owned(), training), ("layers".to_owned(), layers.into())];
        Ok(at.module(Self::TYPE, fields.into_iter().collect()))
    }

    fn restore(value: &Value, at: &mut Restoring<'_>) -> Result<Sequential> {
        let mut fields = at.module(Self::TYPE, value)?;
        let training = fields.take("training", at)?;
        let mut children = Vec::new();
        let mut names = HashSet::new();
        for pair in fields.list("layers", at)? {
            let pair = pair.as_array().map(Vec::as_slice);
            let Some([Value::String(name), layer]) = pair else { return Err(at.wrong("a layer has no name")) };
            if name.is_empty() || name.contains('.') || !names.insert(name) {
                return Err(at.wrong(format!("{name:?} is not a valid layer name, or occurs twice")));
            }
            children.push((name.clone(), Slot::new(at.inside(name, |at| at.any(layer))?)));
        }
        fields.finish(at)?;
        Ok(Sequential { children, training })
    }
}

impl SavedName for Sequential {
    const TYPE: &'static str = "Sequential";
}

impl Field for Sequential {
    const KIND: FieldKind = FieldKind::Module;

    fn visit_field<'a>(&'a self, name: &str, each: &mut dyn FnMut(&str, Part<'a>)) {
        each(name, Part::Module(self));
    }

    fn visit_field_mut<'a>(&'a mut self, name: &str, each: &mut dyn FnMut(&str, PartMut<'a>)) {
        each(name, PartMut::Module(self));
    }
}

impl fmt::Display for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repr())
    }
}

impl fmt::Debug for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repr())
    }
}
