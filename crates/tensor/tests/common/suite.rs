//! Runs all cases of a golden file through Kiln.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use kiln_tensor::{Error, Result, Tensor, autograd, autograd::BackwardOptions};

use super::{args::Args, compare, golden, golden::Case};

/// One operation by PyTorch's name: its call in Kiln.
pub type Op = fn(&[Tensor], &Args) -> Result<Vec<Tensor>>;

pub struct Suite {
    pub file: &'static str,
    pub ops: &'static [&'static [(&'static str, Op)]],
    /// Operations of the file that Kiln does not have, and why.
    pub absent: &'static [(&'static str, &'static str)],
    /// Cases that Kiln answers with an error, and why. A `*` at the end or the beginning stands for anything.
    pub refused: &'static [(&'static str, &'static str)],
    /// Exceptions of `refused`.
    pub accepted: &'static [&'static str],
    /// Cases whose result is another one on purpose, and why.
    pub different: &'static [(&'static str, &'static str)],
}

fn listed(list: &[(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    list.iter().map(|&(pattern, _)| pattern).find(|pattern| {
        match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
            (Some(start), _) => name.starts_with(start),
            (_, Some(end)) => name.ends_with(end),
            _ => name == *pattern,
        }
    })
}

impl Suite {
    /// Panics with a list of all that differs, operations that no table knows, and exceptions that are none.
    pub fn run(&self) {
        let mut failures = Vec::new();
        let mut unused: BTreeMap<&str, bool> = [self.refused, self.different]
            .concat()
            .iter()
            .map(|&(pattern, _)| pattern)
            .chain(self.absent.iter().map(|&(op, _)| op))
            .map(|pattern| (pattern, true))
            .collect();
        for case in golden::cases(self.file) {
            let known = self.ops.iter().copied().flatten().find(|(op, _)| *op == case.op).map(|(_, call)| call);
            let Some(call) = known else {
                match listed(self.absent, &case.op) {
                    Some(op) => drop(unused.insert(op, false)),
                    None => failures.push(format!("{}: the table has no {}", case.name, case.op)),
                }
                continue;
            };
            let (refused, different) = (listed(self.refused, &case.name), listed(self.different, &case.name));
            let refused = refused.filter(|_| !self.accepted.contains(&case.name.as_str()));
            for pattern in refused.iter().chain(&different) {
                unused.insert(pattern, false);
            }
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| check(&case, *call)));
            let failure = match (outcome, refused, different) {
                (Err(_), ..) => Some("panicked".to_owned()),
                (Ok(Outcome::Equal), Some(_), _) => Some("is listed as refused, but works".to_owned()),
                (Ok(Outcome::Equal), _, Some(_)) => Some("is listed as different, but is equal".to_owned()),
                (Ok(Outcome::Refused(error)), None, _) => Some(error.to_string()),
                (Ok(Outcome::Different(what)), _, None) => Some(what),
                (Ok(Outcome::Refused(_) | Outcome::Different(_) | Outcome::Equal), ..) => None,
            };
            failures.extend(failure.map(|what| format!("{} ({} {}): {what}", case.name, case.op, case.args.0)));
        }
        failures.extend(unused.iter().filter(|(_, unused)| **unused).map(|(p, _)| format!("nothing is named {p}")));
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }
}

enum Outcome {
    Equal,
    Refused(Error),
    Different(String),
}

fn check(case: &Case, call: Op) -> Outcome {
    match compare_case(case, call) {
        Ok(None) => Outcome::Equal,
        Ok(Some(what)) => Outcome::Different(what),
        Err(error) => Outcome::Refused(error),
    }
}

fn compare_case(case: &Case, call: Op) -> Result<Option<String>> {
    let wants_grad: Vec<bool> = case.grads.iter().map(Option::is_some).collect();
    let inputs: Vec<Tensor> = case
        .inputs
        .iter()
        .zip(&wants_grad)
        .map(|(input, &wanted)| input.detach().requires_grad_(wanted))
        .collect::<Result<_>>()?;
    let outputs = call(&inputs, &case.args)?;
    if outputs.len() != case.outputs.len() {
        return Ok(Some(format!("{} outputs, expected {}", outputs.len(), case.outputs.len())));
    }
    for (i, (got, want)) in outputs.iter().zip(&case.outputs).enumerate() {
        if let Some(difference) = compare::difference(got, want) {
            return Ok(Some(format!("output {i}: {difference}")));
        }
        // Whatever follows in a user's program must be able to run on the result.
        if got.requires_grad() != case.cotangents[i].is_some() && wants_grad.contains(&true) {
            return Ok(Some(format!("output {i}: requires_grad is {}", got.requires_grad())));
        }
    }
    if !wants_grad.contains(&true) {
        return Ok(None);
    }
    let roots: Vec<_> = outputs
        .into_iter()
        .zip(&case.cotangents)
        .filter_map(|(output, cotangent)| cotangent.clone().map(|cotangent| (output, Some(cotangent))))
        .collect();
    let leaves: Vec<&Tensor> = inputs.iter().zip(&wants_grad).filter(|(_, wanted)| **wanted).map(|(t, _)| t).collect();
    let grads = autograd::grad_with(&roots, &leaves, BackwardOptions::default())?;
    for ((i, want), got) in case.grads.iter().enumerate().filter_map(|(i, g)| Some((i, g.as_ref()?))).zip(grads) {
        let Some(got) = got else { return Ok(Some(format!("input {i} has no gradient"))) };
        if let Some(difference) = compare::difference(&got, want) {
            return Ok(Some(format!("gradient of input {i}: {difference}")));
        }
    }
    Ok(None)
}
