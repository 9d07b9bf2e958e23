//! Lowering of indexing: gather, scatter, index_select, one_hot.

use kiln_tensor::{DType, Result, Scalar};

use crate::onnx::{
    graph::{Extent, Graph, int, text},
    operation::Operation,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    match o.op {
        "embedding" => Ok(Some(graph.node("Gather", &[o.name(0)?, o.name(1)?], Vec::new()))),
        "index_select" => {
            let mut index = o.name(1)?.to_owned();
            if o.input(1)?.is_empty() {
                let one = graph.ints("shape", vec![1])?;
                index = graph.node("Reshape", &[&index, &one], Vec::new());
            }
            Ok(Some(graph.node("Gather", &[o.name(0)?, &index], vec![int("axis", o.int("dim")?)])))
        }
        "gather" => {
            if o.input(0)?.is_empty() {
                return Ok(Some(graph.node("Identity", &[o.name(0)?], Vec::new())));
            }
            let attributes = vec![int("axis", o.int("dim")?)];
            Ok(Some(graph.node("GatherElements", &[o.name(0)?, o.name(1)?], attributes)))
        }
        "scatter" | "scatter_add" | "scatter_prod" => scatter(graph, o).map(Some),
        "index_add" => index_add(graph, o).map(Some),
        "index_put" => index_put(graph, o).map(Some),
        "one_hot" => {
            let depth = graph.scalar("depth", Scalar::Int(o.int("classes")?), DType::I64)?;
            let values = graph.ints("values", vec![0, 1])?;
            Ok(Some(graph.node("OneHot", &[o.name(0)?, &depth, &values], vec![int("axis", -1)])))
        }
        _ => Ok(None),
    }
}

fn scatter(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    if o.input(0)?.is_empty() || o.input(1)?.contains(&Extent::Fixed(0)) {
        return Err(o.wrong("tensors without dimensions and empty indices are not exported"));
    }
    let [a, b] = o.tensors(1)?;
    let shape = o.shape(graph, a.dims(), b.dims())?;
    let source = match o.scalar("value") {
        Some(value) => {
            let number = graph.scalar("number", value, o.dtype())?;
            graph.node("Expand", &[&number, &shape], Vec::new())
        }
        // The part of the source that has the shape of the indices.
        None if o.input(2)? != o.input(1)? => {
            let rank = a.rank();
            let starts = graph.ints("starts", vec![0; rank])?;
            graph.node("Slice", &[o.name(2)?, &starts, &shape], Vec::new())
        }
        None => o.name(2)?.to_owned(),
    };
    let mut attributes = vec![int("axis", o.int("dim")?)];
    match o.op {
        "scatter_add" => attributes.push(text("reduction", "add")),
        "scatter_prod" => attributes.push(text("reduction", "mul")),
        _ => {}
    }
    Ok(graph.node("ScatterElements", &[o.name(0)?, o.name(1)?, &source], attributes))
}

/// Writes elements of the flattened tensor. Inputs: the tensor, the elements' indices, their values.
fn index_put(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let line = graph.ints("shape", vec![-1])?;
    let flat = graph.node("Reshape", &[o.name(0)?, &line], Vec::new());
    let mut attributes = vec![int("axis", 0)];
    if o.int("accumulate")? == 1 {
        attributes.push(text("reduction", "add"));
    }
    let written = graph.node("ScatterElements", &[&flat, o.name(1)?, o.name(2)?], attributes);
    let shape = o.shape(graph, o.step.output.dims(), o.twin.output.dims())?;
    Ok(graph.node("Reshape", &[&written, &shape], Vec::new()))
}

/// Adds slices: each index is repeated for all elements of its slice.
fn index_add(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let dim = o.int("dim")?;
    let [a, b] = o.tensors(2)?;
    let mut lined_up = vec![1; a.rank()];
    if let Some(slot) = lined_up.get_mut(dim as usize) {
        *slot = -1;
    }
    let lined_up = graph.ints("shape", lined_up)?;
    let index = graph.node("Reshape", &[o.name(1)?, &lined_up], Vec::new());
    let shape = o.shape(graph, a.dims(), b.dims())?;
    let index = graph.node("Expand", &[&index, &shape], Vec::new());
    let attributes = vec![int("axis", dim), text("reduction", "add")];
    Ok(graph.node("ScatterElements", &[o.name(0)?, &index, o.name(2)?], attributes))
}
