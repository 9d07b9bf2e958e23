//! Lowering of losses, for models that compute them in `forward`.

use kiln_tensor::{DType, Result, Scalar};

use crate::onnx::{
    graph::{Graph, int, text},
    operation::Operation,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    match o.op {
        "cross_entropy" | "nll_loss" => class_loss(graph, o).map(Some),
        "mse_loss" | "l1_loss" => {
            let distance = graph.node("Sub", &[o.name(0)?, o.name(1)?], Vec::new());
            let loss = match o.op {
                "mse_loss" => graph.node("Mul", &[&distance, &distance], Vec::new()),
                _ => graph.node("Abs", &[&distance], Vec::new()),
            };
            reduced(graph, o, loss).map(Some)
        }
        "binary_cross_entropy_with_logits" => binary(graph, o).map(Some),
        _ => Ok(None),
    }
}

/// Reduces a loss to its mean or sum, or returns it unreduced.
fn reduced(graph: &mut Graph, o: &Operation<'_>, loss: String) -> Result<String> {
    Ok(match o.text("reduction")? {
        "mean" => graph.node("ReduceMean", &[&loss], vec![int("keepdims", 0)]),
        "sum" => graph.node("ReduceSum", &[&loss], vec![int("keepdims", 0)]),
        _ => loss,
    })
}

fn class_loss(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    if o.input_dtype(1) != DType::I64 {
        return Err(o.wrong("targets that are probabilities are not exported; ONNX takes class indices"));
    }
    if o.number("label_smoothing")? != 0.0 {
        return Err(o.wrong("`label_smoothing` is not exported; ONNX has none"));
    }
    if o.input(0)?.len() < 2 {
        return Err(o.wrong("a single sample without a batch dimension is not exported; `unsqueeze(0)` adds one"));
    }
    let names: Vec<&str> = o.inputs.iter().map(String::as_str).collect();
    let operator = if o.op == "cross_entropy" { "SoftmaxCrossEntropyLoss" } else { "NegativeLogLikelihoodLoss" };
    let attributes = vec![text("reduction", o.text("reduction")?), int("ignore_index", o.int("ignore_index")?)];
    Ok(graph.node(operator, &names, attributes))
}

/// Binary cross-entropy of logits: `softplus(x) - x y`; with weights of positive samples, `(1 - y) x + (1 + (p - 1) y)
/// softplus(-x)`.
fn binary(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (x, y) = (o.name(0)?, o.name(1)?);
    let one = graph.scalar("number", Scalar::Float(1.0), o.dtype())?;
    let rest = graph.node("Sub", &[&one, y], Vec::new());
    let linear = graph.node("Mul", &[&rest, x], Vec::new());
    let minus = graph.node("Neg", &[x], Vec::new());
    let mut curved = graph.node("Softplus", &[&minus], Vec::new());
    let mut next = 2;
    let weight = if o.int("weight")? == 1 {
        next += 1;
        Some(o.name(2)?.to_owned())
    } else {
        None
    };
    if o.int("pos_weight")? == 1 {
        let more = graph.node("Sub", &[o.name(next)?, &one], Vec::new());
        let more = graph.node("Mul", &[&more, y], Vec::new());
        let factor = graph.node("Add", &[&one, &more], Vec::new());
        curved = graph.node("Mul", &[&factor, &curved], Vec::new());
    }
    let mut loss = graph.node("Add", &[&linear, &curved], Vec::new());
    if let Some(weight) = weight {
        loss = graph.node("Mul", &[&loss, &weight], Vec::new());
    }
    reduced(graph, o, loss)
}
