//! Every operation with any operands and arguments: a result or a typed error, never a panic. And if the
//! forward pass worked, so does the backward pass.

#[macro_use]
#[path = "../common/rows.rs"]
mod rows;

mod choices;
mod table;

use std::{collections::BTreeSet, panic::AssertUnwindSafe};

use choices::Choices;
use kiln_tensor::{Result, Tensor, autograd::BackwardOptions, op_table};
use proptest::prelude::*;

/// A call with operands that are of one dtype.
pub type Call = fn(&Tensor, &Tensor, &mut Choices) -> Result<Vec<Tensor>>;

/// What went wrong with one call, if anything did.
fn problem(call: Call, seed: u64) -> Option<String> {
    let mut choices = Choices::new(seed);
    let dtype = choices.dtype();
    let other_dtype = if choices.below(8) == 0 { choices.dtype() } else { dtype };
    let (x, y) = (choices.tensor(dtype), choices.tensor(other_dtype));
    let what = format!("{x:?} {:?}, {y:?} {:?}", x.strides(), y.strides());
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let Ok(results) = call(&x, &y, &mut choices) else { return Ok(()) };
        for result in results {
            assert!(result.to_string().starts_with("tensor("));
            if result.requires_grad() {
                result.backward_with(&result.ones_like()?, BackwardOptions { retain_graph: true })?;
            }
        }
        Ok::<_, kiln_tensor::Error>(())
    }));
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{what}: backward: {error}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Some(format!(
                "{what}: panic: {}",
                text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
            ))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_call_panics(seed in any::<u64>()) {
        let problems: Vec<String> = table::CALLS
            .iter()
            .filter_map(|(op, call)| problem(*call, seed).map(|what| format!("{op}: {what}")))
            .collect();
        prop_assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
}

#[test]
fn no_operation_is_left_out() {
    let called: BTreeSet<&str> = table::CALLS.iter().map(|(op, _)| *op).collect();
    let there: BTreeSet<&str> = op_table::OPS.iter().map(|op| op.name).collect();
    let missing: Vec<_> = there.difference(&called).collect();
    assert!(missing.is_empty(), "no call of {missing:?}");
}

/// If nearly all calls were refused, the tests above would test little.
#[test]
fn many_calls_work() {
    let mut never: Vec<&str> = Vec::new();
    for (op, call) in table::CALLS {
        let works = (0..400u64).any(|seed| {
            let mut choices = Choices::new(seed.wrapping_mul(0x1234_5678_9abc_def1));
            let dtype = choices.dtype();
            let (x, y) = (choices.tensor(dtype), choices.tensor(dtype));
            call(&x, &y, &mut choices).is_ok()
        });
        // Memory is pinned for a GPU, which need not be there.
        if !works && *op != "pin_memory" {
            never.push(op);
        }
    }
    assert!(never.is_empty(), "never worked: {never:?}");
}
