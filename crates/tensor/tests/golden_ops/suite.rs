//! Runs the golden cases, which PyTorch computed, in Kiln and compares values, dtypes and gradients.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{LazyLock, Mutex, PoisonError},
};

use kiln_tensor::{DType, Device, Error, Result, Scalar, Tensor, autograd, autograd::BackwardOptions};

use crate::{
    common::{
        args::Args,
        compare, golden,
        golden::{Case, suite_device},
    },
    outcome::Outcome,
};

/// One operation by PyTorch's name, and its call in Kiln.
pub struct Row {
    pub op: &'static str,
    pub call: Call,
}

/// A call of Kiln, given input tensors and PyTorch's keyword arguments.
pub type Call = fn(&[Tensor], &Args) -> Result<Vec<Tensor>, Miss>;

impl Row {
    /// PyTorch's name: rows of names that Rust reserves have an underscore after them.
    pub fn name(&self) -> &'static str {
        match self.op {
            "where_" => "where",
            name => name,
        }
    }
}

/// Why a call has no result.
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

/// What Kiln has no way to say.
pub fn lacks(what: impl Into<String>) -> Miss {
    Miss::Lacks(what.into())
}

/// Results of a call as a list.
pub trait Outputs {
    fn outputs(self) -> Vec<Tensor>;
}

impl Outputs for Tensor {
    fn outputs(self) -> Vec<Tensor> {
        vec![self]
    }
}

impl Outputs for (Tensor, Tensor) {
    fn outputs(self) -> Vec<Tensor> {
        vec![self.0, self.1]
    }
}

impl Outputs for Vec<Tensor> {
    fn outputs(self) -> Vec<Tensor> {
        self
    }
}

/// Cases that Kiln answers differently on purpose.
pub struct Unlike {
    /// PyTorch's name of the operation; `*` is any.
    pub op: &'static str,
    /// The case; a `*` at the beginning or the end stands for anything.
    pub case: &'static str,
    /// A part of what is reported.
    pub reports: &'static str,
    pub why: &'static str,
}

impl Unlike {
    pub fn covers(&self, case: &Case, outcome: &Outcome) -> bool {
        (self.op == "*" || self.op == case.op)
            && matches(self.case, &case.name)
            && outcome.to_string().contains(self.reports)
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(""), _) => true,
        (Some(start), _) => name.starts_with(start),
        (_, Some(end)) => name.ends_with(end),
        _ => name == pattern,
    }
}

/// The files that are checked in.
pub const FILES: &[&str] = &[
    "ops.safetensors",
    "numbers.safetensors",
    "images.safetensors",
    "losses.safetensors",
    "opinfo.safetensors",
    #[cfg(feature = "linalg")]
    "linalg.safetensors",
];

static CASES: LazyLock<BTreeMap<String, Vec<Case>>> = LazyLock::new(|| {
    let mut by_op: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in FILES.iter().copied().flat_map(golden::cases) {
        by_op.entry(case.op.clone()).or_default().push(case);
    }
    by_op
});

/// The operations that the files have cases of.
pub fn operations() -> impl Iterator<Item = &'static str> {
    CASES.keys().map(String::as_str)
}

/// A case of an operation by its name.
pub fn case(op: &str, name: &str) -> &'static Case {
    CASES[op].iter().find(|case| case.name == name).unwrap()
}

/// Runs all cases of one operation. Panics with a list of what differs, and of exceptions that are none.
pub fn run(rows: &[Row], unlike: &[Unlike], op: &str) {
    let row = rows.iter().find(|row| row.op == op).unwrap();
    let cases = CASES.get(row.name()).unwrap_or_else(|| panic!("no golden file has a case of {op}"));
    let mut failures = Vec::new();
    let mut used = vec![false; unlike.len()];
    for case in cases {
        let outcome = outcome(case, row.call);
        if matches!(outcome, Outcome::Agrees) {
            continue;
        }
        let covering = (0..unlike.len()).filter(|&i| unlike[i].covers(case, &outcome)).collect::<Vec<_>>();
        covering.iter().for_each(|&i| used[i] = true);
        if covering.is_empty() {
            failures.push(format!("{} {}: {outcome}", case.name, case.args.values));
        }
    }
    let unused = unlike.iter().zip(used).filter(|(unlike, used)| unlike.op == row.name() && !used);
    failures.extend(unused.map(|(unlike, _)| format!("no case of {} is unlike: {}", unlike.case, unlike.why)));
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// What comes of a case.
pub fn outcome(case: &Case, call: Call) -> Outcome {
    if let Some(what) = &case.lacks {
        return Outcome::Lacks(what.clone());
    }
    // What a kernel reports is an error of whoever waits for the device next, so there only one case is computed at a time.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = (suite_device() != Device::Cpu).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    match std::panic::catch_unwind(AssertUnwindSafe(|| compare_case(case, call))) {
        Ok(Ok(None)) => match case.args.unread() {
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

/// What differs between two results. With a reference in `f64`, they may have other rounding errors than PyTorch's.
fn difference(got: &Tensor, want: &Tensor, exact: Option<&Tensor>) -> Option<String> {
    match exact {
        Some(exact) if want.dtype().size() == 2 => compare::worse(got, want, exact),
        Some(exact) => compare::difference(got, want).and_then(|_| compare::worse(got, want, exact)),
        None => compare::difference(got, want),
    }
}

/// Operations to which PyTorch gives no order among equal elements: any of them may be taken.
fn chooses_among_equals(op: &str) -> bool {
    ["argsort", "kthvalue", "median", "mode", "sort", "topk"].contains(&op)
}

/// Whether both lists of indices along the case's dimension name equal elements.
fn same_elements(case: &Case, got: &Tensor, want: &Tensor) -> Result<bool> {
    let x = case.inputs[0].detach();
    let dim = case.args.int("dim").unwrap_or(-1);
    let indices = |list: &Tensor| if list.rank() == x.rank() { Ok(list.clone()) } else { list.unsqueeze(dim) };
    let at = |list: &Tensor| compare::scalars(&x.gather(dim, &indices(list)?)?);
    let bits = |scalars: Vec<Scalar>| scalars.iter().map(|value| value.to_string()).collect::<Vec<_>>();
    Ok(bits(at(got)?) == bits(at(want)?))
}

fn compare_case(case: &Case, call: Call) -> Result<Option<String>, Miss> {
    let wants_grad: Vec<bool> = case.grads.iter().map(Option::is_some).collect();
    let inputs: Vec<Tensor> = case
        .inputs
        .iter()
        .zip(&wants_grad)
        .map(|(input, &wanted)| if wanted { input.detach().requires_grad_(true) } else { input.copy() })
        .collect::<Result<_>>()?;
    let outputs = call(&inputs, &case.args)?;
    if outputs.len() != case.outputs.len() {
        return Ok(Some(format!("{} outputs, expected {}", outputs.len(), case.outputs.len())));
    }
    let mut other_places = false;
    for (i, (got, want)) in outputs.iter().zip(&case.outputs).enumerate() {
        if chooses_among_equals(&case.op) && got.dtype() == DType::I64 && got.shape() == want.shape() {
            let (got, want) = (compare::scalars(got)?, compare::scalars(want)?);
            if got != want {
                let tied = same_elements(case, &outputs[i], &case.outputs[i])?;
                if !tied {
                    return Ok(Some(format!("output {i}: indices of other elements")));
                }
                other_places = true;
            }
            continue;
        }
        if let Some(difference) = difference(got, want, case.exact_outputs[i].as_ref()) {
            return Ok(Some(format!("output {i}: {difference}")));
        }
        // Whatever follows in a user's program must be able to run on the result.
        if got.requires_grad() != case.cotangents[i].is_some() && wants_grad.contains(&true) {
            return Ok(Some(format!("output {i}: requires_grad is {}", got.requires_grad())));
        }
    }
    if !wants_grad.contains(&true) || other_places {
        return Ok(None);
    }
    let roots: Vec<_> = outputs
        .into_iter()
        .zip(&case.cotangents)
        .filter_map(|(output, cotangent)| cotangent.clone().map(|cotangent| (output, Some(cotangent))))
        .collect();
    let leaves: Vec<&Tensor> = inputs.iter().zip(&wants_grad).filter(|(_, wanted)| **wanted).map(|(t, _)| t).collect();
    let grads = autograd::grad_with(&roots, &leaves, BackwardOptions::default())?;
    if let Some(difference) = gradient_difference(case, &grads)? {
        return Ok(Some(difference));
    }
    if case.second_grads.iter().all(Option::is_none) {
        return Ok(None);
    }
    // Once more, recorded, by operations that are no fused primitives.
    let outputs = call(&inputs, &case.args)?;
    let roots: Vec<_> = outputs
        .into_iter()
        .zip(&case.cotangents)
        .filter_map(|(output, cotangent)| cotangent.clone().map(|cotangent| (output, Some(cotangent))))
        .collect();
    let grads = autograd::grad_with(&roots, &leaves, BackwardOptions::create_graph())?;
    if let Some(difference) = gradient_difference(case, &grads)? {
        return Ok(Some(format!("recorded, {difference}")));
    }
    second_difference(case, &leaves, grads)
}

/// What differs between the gradients of the gradients and PyTorch's.
fn second_difference(case: &Case, leaves: &[&Tensor], grads: Vec<Option<Tensor>>) -> Result<Option<String>, Miss> {
    let wanted: Vec<usize> = (0..case.grads.len()).filter(|&i| case.grads[i].is_some()).collect();
    let roots: Vec<_> = wanted
        .iter()
        .zip(grads)
        .filter_map(|(&i, grad)| Some((grad.filter(Tensor::requires_grad)?, Some(case.second_cotangents[i].clone()?))))
        .collect();
    let found = if roots.is_empty() {
        vec![None; leaves.len()]
    } else {
        autograd::grad_with(&roots, leaves, BackwardOptions::default())?
    };
    for ((&i, found), leaf) in wanted.iter().zip(found).zip(leaves) {
        let Some(want) = &case.second_grads[i] else { continue };
        let found = found.map_or_else(|| leaf.zeros_like(), Ok)?;
        if let Some(difference) = difference(&found, want, case.exact_second_grads[i].as_ref()) {
            return Ok(Some(format!("second derivative of input {i}: {difference}")));
        }
    }
    Ok(None)
}

/// What differs between the gradients and PyTorch's.
fn gradient_difference(case: &Case, grads: &[Option<Tensor>]) -> Result<Option<String>, Miss> {
    let wanted = case.grads.iter().enumerate().filter_map(|(i, want)| Some((i, want.as_ref()?)));
    for ((i, want), got) in wanted.zip(grads) {
        let Some(got) = got else { return Ok(Some(format!("input {i} has no gradient"))) };
        if let Some(difference) = difference(got, want, case.exact_grads[i].as_ref()) {
            return Ok(Some(format!("gradient of input {i}: {difference}")));
        }
    }
    Ok(None)
}
