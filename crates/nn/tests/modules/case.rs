//! A sample of PyTorch's tests, and the result of running it.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Mutex};

use kiln_nn::{
    Field, Module, ModuleTree, StateDict,
    saved::{self, Registry, Saved, SavedName},
};
use kiln_tensor::{DType, Error, Result, Tensor};
use serde_json::Value;

use crate::{
    common::{Golden, suite_device, values},
    outcome::Outcome,
};

/// A module by PyTorch's name, and how a sample of it is run.
pub struct Row {
    pub module: &'static str,
    pub run: fn(&Case<'_>) -> Result<Run, Miss>,
}

/// Rows of modules that are made from a sample's arguments and take one tensor.
#[macro_export]
macro_rules! unary_rows {
    ($($module:ident |$case:ident| $make:expr;)*) => {
        &[$($crate::case::Row {
            module: stringify!($module),
            run: |$case| $crate::case::unary($case, $make),
        }),*]
    };
}

/// Why a sample has no result.
pub enum Miss {
    Error(Error),
    /// Kiln has no way to say this.
    Lacks(String),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Miss {
        Miss::Error(error)
    }
}

/// What a run has made: the module, if it has state, and its outputs.
pub struct Run {
    pub model: Option<Box<dyn ModuleTree>>,
    pub outputs: Vec<Tensor>,
}

pub struct Case<'a> {
    golden: &'a Golden,
    description: &'a Value,
    /// Arguments that were read; none may be ignored.
    read: Mutex<BTreeSet<String>>,
    /// The inputs that the module was given.
    leaves: Mutex<Vec<(String, Tensor)>>,
}

impl<'a> Case<'a> {
    pub fn new(golden: &'a Golden, description: &'a Value) -> Case<'a> {
        Case { golden, description, read: Mutex::default(), leaves: Mutex::default() }
    }

    fn text(&self, key: &str) -> &'a str {
        self.description[key].as_str().unwrap()
    }

    pub fn name(&self) -> &'a str {
        self.text("name")
    }

    pub fn module(&self) -> &'a str {
        self.text("module")
    }

    pub fn training(&self) -> bool {
        self.description["training"].as_bool().unwrap()
    }

    pub fn title(&self) -> String {
        let d = self.description;
        format!("{} {} {} {}", self.name(), d["args"], d["forward"], d["named"])
    }

    /// The dtype of floats in the sample.
    pub fn dtype(&self) -> DType {
        let floats = ["in0", "out", "out.0", "named.input"].into_iter().filter_map(|key| self.find(key));
        floats.map(|t| t.dtype()).find(|dtype| dtype.is_float()).unwrap_or(DType::F32)
    }

    fn find(&self, key: &str) -> Option<Tensor> {
        let tensor = self.golden.find(self.name(), key)?;
        let bools = self.description["bools"].as_array();
        let is_bool = bools.is_some_and(|bools| bools.iter().any(|name| name == key));
        Some(if is_bool { tensor.to_dtype(DType::Bool).unwrap() } else { tensor })
    }

    /// An argument of the constructor, if it was given.
    pub fn arg(&self, name: &str) -> Option<&'a Value> {
        self.read.lock().unwrap().insert(name.to_owned());
        self.description["args"].get(name).filter(|value| !value.is_null())
    }

    /// An argument of the constructor that may be null.
    pub fn given(&self, name: &str) -> Option<&'a Value> {
        self.read.lock().unwrap().insert(name.to_owned());
        self.description["args"].get(name)
    }

    pub fn float(&self, name: &str, default: f64) -> f64 {
        self.arg(name).map_or(default, |value| match value.as_str() {
            Some("inf") => f64::INFINITY,
            _ => value.as_f64().unwrap(),
        })
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.arg(name).map_or(default, |value| value.as_i64().unwrap())
    }

    pub fn size(&self, name: &str, default: usize) -> usize {
        self.arg(name).map_or(default, |value| value.as_u64().unwrap() as usize)
    }

    pub fn flag(&self, name: &str, default: bool) -> bool {
        self.arg(name).map_or(default, |value| value.as_bool().unwrap())
    }

    pub fn option(&self, name: &str) -> Option<&'a str> {
        self.arg(name).map(|value| value.as_str().unwrap())
    }

    /// A tensor among the arguments.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        self.arg(name).and_then(|_| self.find(&format!("arg.{name}")))
    }

    /// An input of `forward`, as a leaf of its own; the same one for each call.
    pub fn input(&self, key: &str) -> Option<Tensor> {
        let mut leaves = self.leaves.lock().unwrap();
        if let Some((_, leaf)) = leaves.iter().find(|(name, _)| name == key) {
            return Some(leaf.clone());
        }
        let tensor = self.find(key)?;
        let wanted = self.golden.find(self.name(), &format!("grad.{key}")).is_some();
        let leaf = tensor.detach().copy().unwrap().requires_grad_(wanted).unwrap();
        leaves.push((key.to_owned(), leaf.clone()));
        Some(leaf)
    }

    /// The positional input of this number.
    pub fn x(&self, i: usize) -> Result<Tensor, Miss> {
        self.input(&format!("in{i}")).ok_or_else(|| Miss::Lacks(format!("input {i}")))
    }

    /// Number `i` of a tuple among the inputs.
    pub fn item(&self, input: usize, i: usize) -> Result<Tensor, Miss> {
        self.input(&format!("in{input}.{i}")).ok_or_else(|| Miss::Lacks(format!("input {input}.{i}")))
    }

    /// Plain values among the positional inputs: the lists of a CTC loss.
    pub fn forward_value(&self, i: usize) -> &'a Value {
        &self.description["forward"][i]
    }

    /// All positional inputs, tensors by their names.
    pub fn forward_values(&self) -> &'a [Value] {
        self.description["forward"].as_array().unwrap()
    }

    /// A named argument of `forward`.
    pub fn named(&self, name: &str) -> Option<&'a Value> {
        self.read.lock().unwrap().insert(format!("named.{name}"));
        self.description["named"].get(name).filter(|value| !value.is_null())
    }

    pub fn named_tensor(&self, name: &str) -> Option<Tensor> {
        self.named(name).and_then(|_| self.input(&format!("named.{name}")))
    }

    fn unread(&self) -> Option<String> {
        let read = self.read.lock().unwrap();
        let names = |key: &str, prefix: &str| -> Vec<String> {
            let object = self.description[key].as_object().unwrap();
            object.iter().filter(|(_, v)| !v.is_null()).map(|(name, _)| format!("{prefix}{name}")).collect()
        };
        let mut all = names("args", "");
        all.extend(names("named", "named."));
        all.into_iter().find(|name| !read.contains(name))
    }

    /// The module with the sample's parameters and buffers, in its mode.
    pub fn loaded<M: ModuleTree>(&self, module: M) -> Result<M> {
        let module = module.to_dtype(self.dtype())?.to(suite_device())?;
        module.set_training(self.training());
        let mut state = StateDict::new();
        let prefix = format!("{}/state.", self.name());
        for (key, tensor) in self.golden.all() {
            if let Some(name) = key.strip_prefix(&prefix) {
                state.insert(name.to_owned(), tensor.clone());
            }
        }
        module.load_state_dict(&state, true)?;
        Ok(module)
    }
}

/// A module of one tensor.
pub fn unary<M: Module + 'static>(case: &Case<'_>, make: M) -> Result<Run, Miss> {
    let x = case.input("named.input").map_or_else(
        || case.x(0),
        |x| {
            case.named("input");
            Ok(x)
        },
    )?;
    let module = case.loaded(make)?;
    let y = module.forward(&x)?;
    Ok(Run { model: Some(Box::new(module)), outputs: vec![y] })
}

/// What comes of a sample.
pub fn outcome(case: &Case<'_>, row: &Row) -> Outcome {
    match std::panic::catch_unwind(AssertUnwindSafe(|| compare(case, row))) {
        Ok(Ok(None)) => match case.unread() {
            Some(name) => Outcome::Lacks(format!("argument {name}")),
            None => Outcome::Agrees,
        },
        Ok(Ok(Some(how))) => Outcome::Differs(how),
        Ok(Err(Miss::Error(error))) => Outcome::Refused(error),
        Ok(Err(Miss::Lacks(what))) => Outcome::Lacks(what),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or(panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Outcome::Differs(format!("panicked: {}", text.unwrap_or_default()))
        }
    }
}

/// What differs between two tensors, if anything does.
fn difference(got: &Tensor, want: &Tensor) -> Option<String> {
    if (got.shape(), got.dtype()) != (want.shape(), want.dtype()) {
        return Some(format!("{} {}, PyTorch has {} {}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let (got, wants) = (values(got), values(want));
    // Where large terms cancel, what is left has the error of the terms; f64 is the strict comparison.
    let largest = wants.iter().map(|w| w.abs()).filter(|w| w.is_finite()).fold(1.0, f64::max);
    let tolerance = if want.dtype() == DType::F64 { 1e-10 } else { 1e-4 } * largest;
    got.iter().zip(&wants).enumerate().find_map(|(i, (g, w))| {
        let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= tolerance;
        (!same).then(|| format!("element {i} is {g:e}, PyTorch has {w:e}"))
    })
}

/// A module of one tensor with a part that takes several: files hold such parts within others. It passes its input on.
#[derive(Module)]
#[module(save)]
pub struct Holder<M: Saved> {
    part: M,
}

impl<M: Saved + Send + Sync> Module for Holder<M>
where
    Holder<M>: ModuleTree,
{
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }
}

/// The run of a module that takes several tensors and can be saved as a part of another.
pub fn held<M>(part: M, outputs: Vec<Tensor>) -> Result<Run, Miss>
where
    M: ModuleTree + Field + Saved + Send + Sync + 'static,
    Holder<M>: ModuleTree + SavedName,
{
    let holder = Holder { part };
    match not_restored(&holder, &Registry::new().with::<Holder<M>>())? {
        Some(how) => Err(Miss::Lacks(format!("saving: it {how}"))),
        None => Ok(Run { model: Some(Box::new(holder.part)), outputs }),
    }
}

/// What differs in the module that is made from what a file would say of this one.
fn not_restored(model: &dyn ModuleTree, registry: &Registry) -> Result<Option<String>> {
    if !registry.types().any(|name| name == model.type_name()) {
        return Ok(None); // not a module of one tensor
    }
    let (architecture, tensors) = saved::describe(model)?;
    let again = saved::restore(&architecture, &tensors, registry)?;
    if again.repr() != model.repr() {
        return Ok(Some(format!("is restored as {}", again.repr())));
    }
    let (before, after) = (model.state_dict(), again.state_dict());
    let names = before.keys().ne(after.keys()).then(|| "is restored with other tensors".to_owned());
    Ok(names.or_else(|| before.iter().find_map(|(name, tensor)| difference(tensor, &after[name]))))
}

/// Python prints numbers as they were given, `2` or `2.0`.
fn whole_numbers(printed: &str) -> String {
    printed.replace(".0,", ",").replace(".0)", ")")
}

fn compare(case: &Case<'_>, row: &Row) -> Result<Option<String>, Miss> {
    let run = (row.run)(case)?;
    let named = |what: &str, how: Option<String>| how.map(|how| format!("{what}: {how}"));
    let wants: Vec<(String, Tensor)> = match case.find("out") {
        Some(out) => vec![("out".to_owned(), out)],
        None => case.golden.outputs(case.name()),
    };
    if run.outputs.len() != wants.len() {
        return Ok(Some(format!("{} outputs, PyTorch has {}", run.outputs.len(), wants.len())));
    }
    for (got, (key, want)) in run.outputs.iter().zip(&wants) {
        if let Some(how) = named(key, difference(got, want)) {
            return Ok(Some(how));
        }
    }
    if let Some(model) = &run.model {
        let printed = case.text("printed");
        if whole_numbers(&model.repr()) != whole_numbers(printed) {
            return Ok(Some(format!("prints {}, PyTorch {printed}", model.repr())));
        }
        if let Some(how) = not_restored(&**model, &Registry::new())? {
            return Ok(Some(how));
        }
        for (name, tensor) in model.state_dict() {
            if let Some(how) = case.find(&format!("after.{name}")).and_then(|want| difference(&tensor, &want)) {
                return Ok(Some(format!("{name} after the pass: {how}")));
            }
        }
    }
    let roots: Vec<(&Tensor, Tensor)> = run
        .outputs
        .iter()
        .zip(&wants)
        .filter_map(|(out, (key, _))| Some((out, case.find(&format!("cotangent.{key}"))?)))
        .collect();
    let mut total: Option<Tensor> = None;
    for (out, cotangent) in roots {
        let term = out.mul(&cotangent)?.sum(())?;
        total = Some(match total {
            None => term,
            Some(sum) => sum.add(&term)?,
        });
    }
    let Some(total) = total else { return Ok(None) };
    let mut leaves = case.leaves.lock().unwrap().clone();
    leaves.extend(run.model.iter().flat_map(|model| model.named_parameters()));
    let wanted: Vec<(String, Tensor, Tensor)> = leaves
        .into_iter()
        .filter_map(|(name, leaf)| Some((name.clone(), leaf, case.find(&format!("grad.{name}"))?)))
        .collect();
    total.backward()?;
    for (name, leaf, want) in wanted {
        let got = leaf.grad().unwrap_or(Tensor::zeros(leaf.shape(), leaf.options())?);
        if let Some(how) = difference(&got, &want) {
            return Ok(Some(format!("gradient of {name}: {how}")));
        }
    }
    Ok(None)
}
