//! First and second derivatives of every differentiable operation against finite differences, and in each memory layout
//! of its operands against those of contiguous ones. Each operation of `op_table` is a separate test, which fails if no
//! line here checks it.

#[path = "../common/mod.rs"]
mod common;
#[macro_use]
#[path = "../common/operation_tests.rs"]
mod operation_tests;
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

mod check;
mod elementwise;
mod inputs;
mod layouts;
mod structured;

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use check::Check;
use inputs::MemoryLayout;
use kiln_tensor::{
    Result, Tensor,
    autograd::{gradcheck, gradgradcheck},
    manual_seed, op_table,
};

fn tables() -> impl Iterator<Item = &'static Check> {
    [elementwise::UNARY, elementwise::BINARY, elementwise::OTHERS, structured::VIEWS, structured::INDEXING]
        .into_iter()
        .chain([structured::REDUCING, structured::PRODUCTS, structured::IMAGE_OPS, structured::IN_PLACE])
        .chain([structured::SCANS, structured::SPATIAL, structured::COMPOSED, structured::STATISTICS])
        .chain([structured::COMPOSED_ELEMENTWISE])
        .flatten()
}

/// The memory layouts of so many operands: all of one, and each of another.
fn ways(operands: usize) -> Vec<Vec<MemoryLayout>> {
    let mut ways: Vec<Vec<MemoryLayout>> = MemoryLayout::ALL.iter().map(|&layout| vec![layout; operands]).collect();
    if operands > 1 {
        for shift in [0, 1] {
            ways.push((0..operands).map(|i| MemoryLayout::ALL[(i + shift) % MemoryLayout::ALL.len()]).collect());
        }
    }
    ways
}

/// Finite differences, which depend on nothing but values, are taken once for each set of them: for operands that lie in order,
/// and for those of equal rows. In every layout, results and derivatives are those of contiguous copies.
fn problem(check: &Check, way: &[MemoryLayout], operands: &[Tensor]) -> Option<String> {
    // The same seed for every call, so that what draws numbers draws the same ones.
    let call = |inputs: &[Tensor]| {
        if DRAWING.contains(&check.op) {
            manual_seed(5);
        }
        (check.call)(inputs)
    };
    let all = |layout: MemoryLayout| way.iter().all(|&other| other == layout);
    let inputs: Vec<&Tensor> = operands.iter().collect();
    if (all(MemoryLayout::Contiguous) || all(MemoryLayout::Broadcast))
        && let Err(error) = gradcheck(call, &inputs)
    {
        return Some(error.to_string());
    }
    if all(MemoryLayout::Contiguous) {
        return gradgradcheck(call, &inputs).err().map(|error| format!("second derivative: {error}"));
    }
    layouts::difference(call, operands).unwrap_or_else(|error| Some(error.to_string()))
}

fn run(check: &Check, failures: &mut Vec<String>) -> usize {
    let mut done = 0;
    for shapes in check.shapes {
        let plain: Vec<Tensor> = shapes.iter().enumerate().map(|(i, dims)| check.values.draw(i, dims)).collect();
        for way in ways(plain.len()) {
            let laid = plain.iter().zip(&way).map(|(t, layout)| layout.arrange(t, check.values));
            let Some(laid) = laid.collect::<Result<Option<Vec<_>>>>().unwrap() else { continue };
            done += 1;
            if let Some(what) = problem(check, &way, &laid) {
                failures.push(format!("{} {shapes:?} {way:?}: {what}", check.op));
                break;
            }
        }
    }
    done
}

/// Operations that draw random numbers.
const DRAWING: &[&str] =
    &["dropout", "bernoulli", "bernoulli_", "uniform_", "normal_", "rrelu", "scaled_dot_product_attention"];

/// All lines of an operation. Those that draw one at a time, for there is one random generator, and its seed is set.
fn check_operation(op: &str) {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _alone = DRAWING.contains(&op).then(|| GENERATOR.lock().unwrap_or_else(PoisonError::into_inner));
    let mut failures = Vec::new();
    let done: usize = tables().filter(|check| check.op == op).map(|check| run(check, &mut failures)).sum();
    assert!(failures.is_empty(), "{} of {done} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(done > 0, "no line of the tables checks the gradient of {op}");
}

/// A test for each operation.
mod gradcheck_of {
    kiln_backend::unary_table!(unary_tests);
    kiln_backend::binary_table!(arithmetic_tests);
    kiln_tensor::structured_operations!(differentiable_tests);
}

#[test]
fn every_line_is_of_an_operation() {
    let known: BTreeSet<&str> = op_table::OPS.iter().filter(|op| op.is_differentiable()).map(|op| op.name).collect();
    let unknown: Vec<_> = tables().map(|check| check.op).filter(|op| !known.contains(op)).collect();
    assert!(unknown.is_empty(), "unknown to op_table, or without gradient: {unknown:?}");
}

#[test]
fn no_name_is_listed_twice() {
    let names: BTreeSet<&str> = op_table::OPS.iter().map(|op| op.name).collect();
    assert_eq!(names.len(), op_table::OPS.len());
}
