//! Lowering of linear layers, batch and layer normalization.

use kiln_tensor::{Result, Tensor};

use crate::onnx::{
    graph::{Extent, Graph, float, int},
    operation::Operation,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    let names: Vec<&str> = o.inputs.iter().map(String::as_str).collect();
    match o.op {
        "linear" => {
            let product = graph.node("Gemm", &names, vec![int("transB", 1)]);
            with_relu(graph, o, product).map(Some)
        }
        "batch_norm" => batch_norm(graph, o, &names).map(Some),
        "layer_norm" => layer_norm(graph, o, &names).map(Some),
        _ => Ok(None),
    }
}

/// Appends the ReLU that a layer includes.
pub(super) fn with_relu(graph: &mut Graph, o: &Operation<'_>, value: String) -> Result<String> {
    Ok(if o.int("relu")? == 1 { graph.node("Relu", &[&value], Vec::new()) } else { value })
}

/// Weight and bias of a normalization: the inputs from `at` on, or ones and zeros of the shape of `like`.
fn affine(graph: &mut Graph, o: &Operation<'_>, names: &[&str], at: usize, like: &Tensor) -> Result<[String; 2]> {
    let mut given = names.iter().skip(at);
    let mut next = |graph: &mut Graph, name: &str, value: f64| -> Result<String> {
        if o.int(name)? == 1 {
            return given.next().map(|&name| name.to_owned()).ok_or_else(|| o.wrong("it has too few inputs"));
        }
        Ok(graph.constant(name, Tensor::full(like.shape(), value, like.options())?))
    };
    Ok([next(graph, "weight", 1.0)?, next(graph, "bias", 0.0)?])
}

/// Inputs: x, mean, variance, and weight and bias if it has them.
fn batch_norm(graph: &mut Graph, o: &Operation<'_>, names: &[&str]) -> Result<String> {
    let ([x, mean, variance, ..], Some(statistics)) = (names, o.step.inputs.get(1)) else {
        return Err(o.wrong("the running statistics are not among its inputs"));
    };
    let [weight, bias] = affine(graph, o, names, 3, statistics)?;
    let attributes = vec![float("epsilon", o.number("eps")?)];
    Ok(graph.node("BatchNormalization", &[x, &weight, &bias, mean, variance], attributes))
}

/// Normalization of rows. Inputs: x, and weight and bias if it has them.
fn layer_norm(graph: &mut Graph, o: &Operation<'_>, names: &[&str]) -> Result<String> {
    let row = match (o.step.inputs.first(), o.input(0)?[..].last()) {
        (Some(x), Some(Extent::Fixed(width))) => Tensor::zeros([*width], x.options())?,
        _ => return Err(o.wrong("the rows have no fixed length")),
    };
    let [weight, bias] = affine(graph, o, names, 1, &row)?;
    let attributes = vec![int("axis", -1), float("epsilon", o.number("eps")?)];
    Ok(graph.node("LayerNormalization", &[names[0], &weight, &bias], attributes))
}
