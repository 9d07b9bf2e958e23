//! ONNX export of `sort`, `argsort`, `argmax` and `argmin`.

use kiln_tensor::{DType, Result};

use crate::onnx::{
    graph::{Graph, int},
    operation::Operation,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    match o.op {
        "argmax" | "argmin" => {
            let from = o.input_dtype(0);
            let wide = match from {
                // Exact up to 2^53: ONNX Runtime has no `ArgMax` of i64.
                DType::I64 => DType::F64,
                DType::Bool | DType::U8 => DType::I32,
                other => other,
            };
            let x = o.cast(graph, o.name(0)?, from, wide);
            let operator = if o.op == "argmax" { "ArgMax" } else { "ArgMin" };
            Ok(Some(graph.node(operator, &[&x], vec![int("axis", o.int("dim")?), int("keepdims", 1)])))
        }
        "sort" | "argsort" => {
            let (dim, from) = (o.int("dim")?, o.input_dtype(0));
            let wide = if matches!(from, DType::Bool | DType::U8 | DType::I32) { DType::I64 } else { from };
            let x = o.cast(graph, o.name(0)?, from, wide);
            let count = o.extent(graph, 0, dim as usize)?;
            // All elements in order; among equal elements, the first comes first.
            let attributes = vec![int("axis", dim), int("largest", o.int("descending")?), int("sorted", 1)];
            let outputs = graph.node_with_outputs("TopK", &[&x, &count], attributes, 2);
            match (&outputs[..], o.op) {
                ([values, _], "sort") => Ok(Some(o.cast(graph, values, wide, from))),
                ([_, indices], _) => Ok(Some(indices.clone())),
                _ => Err(o.wrong("it does not have two results")),
            }
        }
        _ => Ok(None),
    }
}
