//! Lowers one operation of Kiln to ONNX nodes (<https://onnx.ai/onnx/operators/>); a file for each family.

mod elementwise;
mod index;
mod loss;
mod norm;
mod pool;
mod reduce;
mod shape;
mod sort;

use kiln_tensor::Result;

use super::{graph::Graph, operation::Operation};

/// Adds the nodes of an operation, and returns the name of its result.
pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    // The order does not matter: each family recognizes its own names.
    let families = [
        elementwise::lower,
        shape::lower,
        reduce::lower,
        index::lower,
        sort::lower,
        pool::lower,
        norm::lower,
        loss::lower,
    ];
    for family in families {
        if let Some(name) = family(graph, o)? {
            return Ok(name);
        }
    }
    Err(o.wrong(match o.op {
        "dropout" | "bernoulli" | "rand" | "randn" | "randint" | "randperm" | "multinomial" => {
            "it draws random numbers, which are not exported; call `eval()` first if they are for training"
        }
        _ => "ONNX has no counterpart of it",
    }))
}
