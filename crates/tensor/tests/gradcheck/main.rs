//! Every differentiable operation against finite differences, over the ways in which its operands can lie
//! in memory. An operation of `op_table` without a line here fails the suite.

#[path = "../common/mod.rs"]
mod common;
#[macro_use]
#[path = "../common/rows.rs"]
mod rows;

mod elementwise;
mod inputs;
mod structured;

use std::collections::BTreeSet;

use inputs::{Lie, Values};
use kiln_tensor::{Result, Tensor, autograd::gradcheck, manual_seed, op_table};

/// A line of the table: an operation, what it is given, and a call.
pub struct Check {
    /// Its name in the table of operations.
    pub op: &'static str,
    /// Sets of shapes of the operands.
    pub shapes: &'static [&'static [&'static [usize]]],
    /// What the operands hold.
    pub values: Values,
    /// The call, given the operands.
    pub call: fn(&[Tensor]) -> Result<Tensor>,
}

/// An operand of two dimensions, of none, and without elements.
pub const ANY: &[&[&[usize]]] = &[&[&[2, 3]], &[&[]], &[&[0, 3]]];
/// Two operands: equal, broadcast in both directions, scalars, without elements.
pub const PAIRS: &[&[&[usize]]] =
    &[&[&[2, 3], &[2, 3]], &[&[2, 3], &[3]], &[&[2, 1], &[1, 3]], &[&[], &[2]], &[&[], &[]], &[&[0, 3], &[3]]];

fn tables() -> impl Iterator<Item = &'static Check> {
    [elementwise::UNARY, elementwise::BINARY, elementwise::OTHERS, structured::VIEWS, structured::INDEXING]
        .into_iter()
        .chain([structured::REDUCING, structured::PRODUCTS, structured::IMAGE_OPS, structured::IN_PLACE])
        .chain([structured::ROW_CHECKS])
        .flatten()
}

fn run(check: &Check, failures: &mut Vec<String>) -> usize {
    let mut done = 0;
    for shapes in check.shapes {
        let plain: Vec<Tensor> = shapes.iter().enumerate().map(|(i, dims)| check.values.draw(i, dims)).collect();
        let mut ways: Vec<Vec<Lie>> = Lie::ALL.iter().map(|&lie| vec![lie; plain.len()]).collect();
        if plain.len() > 1 {
            // Operands that lie differently.
            ways.push((0..plain.len()).map(|i| Lie::ALL[i % Lie::ALL.len()]).collect());
            ways.push((0..plain.len()).map(|i| Lie::ALL[(i + 1) % Lie::ALL.len()]).collect());
        }
        for way in ways {
            let laid: Option<Vec<Tensor>> =
                plain.iter().zip(&way).map(|(t, lie)| lie.lay(t, check.values)).collect::<Result<_>>().unwrap();
            let Some(laid) = laid else { continue };
            let inputs: Vec<&Tensor> = laid.iter().collect();
            // The same seed for every call, so that what draws numbers draws the same ones.
            let call = |inputs: &[Tensor]| {
                manual_seed(5);
                (check.call)(inputs)
            };
            done += 1;
            if let Err(error) = gradcheck(call, &inputs) {
                failures.push(format!("{} {shapes:?} {way:?}: {error}", check.op));
                break;
            }
        }
    }
    done
}

// One test, for there is one random generator, and its seed is set.
#[test]
fn gradients_are_slopes() {
    let (mut failures, mut done) = (Vec::new(), 0);
    for check in tables() {
        done += run(check, &mut failures);
    }
    assert!(failures.is_empty(), "{} of {done} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(done > 1000, "only {done} checks were done");
}

#[test]
fn no_operation_is_left_out() {
    let checked: BTreeSet<&str> = tables().map(|check| check.op).collect();
    let wanted: BTreeSet<&str> = op_table::OPS.iter().filter(|op| op.is_differentiable()).map(|op| op.name).collect();
    let (missing, unknown): (Vec<_>, Vec<_>) =
        (wanted.difference(&checked).collect(), checked.difference(&wanted).collect());
    assert!(missing.is_empty() && unknown.is_empty(), "no line for {missing:?}; unknown to op_table: {unknown:?}");
}
