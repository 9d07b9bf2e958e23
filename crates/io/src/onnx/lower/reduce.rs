//! Lowering of reductions, softmax and cumsum.

use kiln_tensor::{DType, Result, Scalar};

use crate::onnx::{
    graph::{Graph, int, ints},
    operation::Operation,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    match o.op {
        "sum" | "mean" | "prod" | "amax" | "amin" | "logsumexp" | "any" | "all" => reduction(graph, o).map(Some),
        "var" | "std" => spread(graph, o).map(Some),
        "cumsum" => {
            let x = o.cast(graph, o.name(0)?, o.input_dtype(0), o.dtype());
            if o.output()?.is_empty() {
                return Ok(Some(graph.node("Identity", &[&x], Vec::new())));
            }
            let dim = graph.scalar("axis", Scalar::Int(o.int("dim")?), DType::I64)?;
            Ok(Some(graph.node("CumSum", &[&x, &dim], Vec::new())))
        }
        "softmax" => Ok(Some(graph.node("Softmax", &[o.name(0)?], vec![int("axis", o.int("dim")?)]))),
        "log_softmax" => Ok(Some(graph.node("LogSoftmax", &[o.name(0)?], vec![int("axis", o.int("dim")?)]))),
        _ => Ok(None),
    }
}

/// The ONNX operator of a reduction, and the dtype that it is computed in.
fn reduction(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (from, out) = (o.input_dtype(0), o.dtype());
    let bytes = |dtype: DType| matches!(dtype, DType::Bool | DType::U8);
    let (operator, wide) = match o.op {
        "sum" => ("ReduceSum", out),
        "mean" => ("ReduceMean", out),
        "prod" => ("ReduceProd", out),
        "amax" => ("ReduceMax", if bytes(from) { DType::I32 } else { from }),
        "amin" => ("ReduceMin", if bytes(from) { DType::I32 } else { from }),
        "logsumexp" => ("ReduceLogSumExp", out),
        "any" => ("ReduceMax", DType::I32),
        _ => ("ReduceMin", DType::I32),
    };
    let dims = o.ints("dims")?;
    let mut x = o.name(0)?.to_owned();
    if matches!(o.op, "any" | "all") {
        // Nonzero values are true.
        x = o.cast(graph, &x, from, DType::Bool);
        x = graph.cast(&x, wide);
    } else {
        x = o.cast(graph, &x, from, wide);
    }
    let reduced = reduce(graph, operator, &x, &dims, o.int("keepdim")?)?;
    Ok(o.cast(graph, &reduced, wide, out))
}

/// Reduces dimensions. Without any it returns the value itself, since an empty list means all dimensions in ONNX.
fn reduce(graph: &mut Graph, operator: &str, x: &str, dims: &[i64], keepdim: i64) -> Result<String> {
    if dims.is_empty() {
        return Ok(graph.node("Identity", &[x], Vec::new()));
    }
    if operator == "ReduceSum" {
        let dims = graph.ints("dims", dims.to_vec())?;
        return Ok(graph.node(operator, &[x, &dims], vec![int("keepdims", keepdim)]));
    }
    Ok(graph.node(operator, &[x], vec![ints("axes", dims), int("keepdims", keepdim)]))
}

/// Variance and standard deviation: the sum of squared deviations from the mean, over a given divisor.
fn spread(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (x, dims, dtype) = (o.name(0)?.to_owned(), o.ints("dims")?, o.dtype());
    let mean = reduce(graph, "ReduceMean", &x, &dims, 1)?;
    let distance = graph.node("Sub", &[&x, &mean], Vec::new());
    let square = graph.node("Mul", &[&distance, &distance], Vec::new());
    let sum = reduce(graph, "ReduceSum", &square, &dims, o.int("keepdim")?)?;
    let [a, b] = o.tensors(0)?;
    let extents = |dims_of: &[usize]| dims.iter().map(|&dim| dims_of[dim as usize]).collect::<Vec<_>>();
    let (first, second) = (extents(a.dims()), extents(b.dims()));
    let correction = o.number("correction")?;
    let divisor = if first == second {
        let count: usize = first.iter().product();
        graph.scalar("divisor", Scalar::Float((count as f64 - correction).max(0.0)), dtype)?
    } else {
        let counts = o.shape(graph, &first, &second)?;
        let count = graph.node("ReduceProd", &[&counts], vec![int("keepdims", 0)]);
        let count = graph.cast(&count, dtype);
        let correction = graph.scalar("correction", Scalar::Float(correction), dtype)?;
        let count = graph.node("Sub", &[&count, &correction], Vec::new());
        let zero = graph.scalar("number", Scalar::Float(0.0), dtype)?;
        graph.node("Max", &[&count, &zero], Vec::new())
    };
    let variance = graph.node("Div", &[&sum, &divisor], Vec::new());
    Ok(if o.op == "std" { graph.node("Sqrt", &[&variance], Vec::new()) } else { variance })
}
