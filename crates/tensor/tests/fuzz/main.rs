//! Every operation with random operands and arguments: a result, or a typed error that names the operation, never a
//! panic. If the forward pass works, so must the backward pass.

#[macro_use]
#[path = "../common/rows.rs"]
mod rows;
#[macro_use]
#[path = "../common/rows_spatial.rs"]
mod rows_spatial;
#[macro_use]
#[path = "../common/rows_composed.rs"]
mod rows_composed;
#[macro_use]
#[path = "../common/rows_composed_elementwise.rs"]
mod rows_composed_elementwise;
#[macro_use]
#[path = "../common/rows_composed_statistics.rs"]
mod rows_composed_statistics;

mod choices;
#[macro_use]
#[path = "../common/operation_tests.rs"]
mod operation_tests;
mod operands;
mod table;

use std::{
    hash::{BuildHasher, RandomState},
    panic::AssertUnwindSafe,
};

use choices::Choices;
use kiln_tensor::{ErrorKind, Tensor, autograd::BackwardOptions};
use table::Call;

/// What errors of a call may begin with: the operation, those that prepare its operands, or what users know it by.
fn named_by(op: &str) -> impl Iterator<Item = &str> {
    let others: &[&str] = match op {
        "matmul" | "mm" | "bmm" | "mv" | "dot" => &["t", "transpose", "select"],
        "class_loss" => &["cross_entropy", "nll_loss"],
        "pointwise_loss" => &["mse_loss", "l1_loss", "binary_cross_entropy_with_logits"],
        // Layers choose the fused form by themselves.
        "conv2d_relu" | "conv2d_add_relu" => &["conv2d"],
        "linear_relu" => &["linear"],
        "batch_norm_with" => &["batch_norm"],
        "searchsorted_with" => &["argsort"],
        _ => &[],
    };
    std::iter::once(op).chain(others.iter().copied())
}

/// Two operands, mostly of one dtype.
fn operands(choices: &mut Choices) -> (Tensor, Tensor) {
    let dtype = choices.dtype();
    let other_dtype = if choices.below(8) == 0 { choices.dtype() } else { dtype };
    (choices.tensor(dtype), choices.tensor(other_dtype))
}

/// What went wrong with one call, if anything did.
fn problem(op: &str, call: Call, seed: u64) -> Option<String> {
    let mut choices = Choices::new(seed);
    let (x, y) = operands(&mut choices);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let results = match call(&x, &y, &mut choices) {
            Ok(results) => results,
            Err(error) => {
                let named = named_by(op).any(|name| error.to_string().starts_with(&format!("{name}: ")));
                // Of the machine, or of a shape that no operation could have.
                let of_machine =
                    matches!(error.kind(), ErrorKind::OutOfMemory { .. } | ErrorKind::DeviceUnavailable { .. })
                        || error.to_string().starts_with("shape: ");
                assert!(named || of_machine, "the error does not name {op}: {error}");
                return Ok(());
            }
        };
        for result in results {
            assert!(result.to_string().starts_with("tensor("));
            if result.requires_grad() {
                result.backward_with(&result.ones_like()?, BackwardOptions::retain_graph())?;
            }
        }
        Ok::<_, kiln_tensor::Error>(())
    }));
    if let Ok(Ok(())) = outcome {
        return None;
    }
    // The operands once more, because the call may have changed them.
    let (x, y) = operands(&mut Choices::new(seed));
    let what = format!("{x:?} {:?}, {y:?} {:?}", x.strides(), y.strides());
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

/// Calls an operation with many operands and arguments. If nearly all calls were refused, that would test little: some
/// must work.
fn check_operation(op: &str) {
    let (_, call) = table::CALLS.iter().find(|(name, _)| *name == op).unwrap_or_else(|| panic!("no call of {op}"));
    // Others each time.
    let start = RandomState::new().hash_one(op);
    for seed in (0..400).map(|case| start.wrapping_add(case)) {
        if let Some(what) = problem(op, *call, seed) {
            panic!("{op}, seed {seed}: {what}");
        }
    }
    let works = (0..400u64).any(|seed| {
        let mut choices = Choices::new(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let dtype = choices.dtype();
        let (x, y) = (choices.tensor(dtype), choices.tensor(dtype));
        call(&x, &y, &mut choices).is_ok()
    });
    // Memory is pinned for a GPU, which need not be there.
    assert!(works || op == "pin_memory", "{op} never worked");
}

/// A test for each operation.
mod no_panic_in {
    kiln_backend::unary_table!(unary_tests);
    kiln_backend::binary_table!(arithmetic_tests);
    kiln_backend::binary_table!(comparison_tests);
    kiln_tensor::structured_operations!(structured_tests);
}
