//! Lowering of views, concatenation, padding, `flip`, `roll`, triangles and diagonals.

use kiln_tensor::{DType, Device, Result, Scalar, Tensor};

use crate::onnx::{
    graph::{Extent, Graph, int, ints, text},
    operation::Operation,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    let names: Vec<&str> = o.inputs.iter().map(String::as_str).collect();
    Ok(Some(match o.op {
        "cat" => graph.node("Concat", &names, vec![int("axis", o.int("dim")?)]),
        "stack" => {
            let dim = graph.ints("dim", vec![o.int("dim")?])?;
            let parts: Vec<String> =
                names.iter().map(|name| graph.node("Unsqueeze", &[name, &dim], Vec::new())).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            graph.node("Concat", &parts, vec![int("axis", o.int("dim")?)])
        }
        "permute" => graph.node("Transpose", &[o.name(0)?], vec![ints("perm", o.ints("order")?)]),
        "slice" => graph.slice(o.name(0)?, o.int("dim")?, o.int("start")?, o.int("end")?, o.int("step")?)?,
        "select" => {
            let index = graph.scalar("index", Scalar::Int(o.int("index")?), DType::I64)?;
            graph.node("Gather", &[o.name(0)?, &index], vec![int("axis", o.int("dim")?)])
        }
        "reshape" => reshape(graph, o)?,
        "expand" => expand(graph, o)?,
        "repeat" => repeat(graph, o)?,
        "flip" => flip(graph, o)?,
        "roll" => roll(graph, o)?,
        "tril" | "triu" => triangle(graph, o)?,
        "diagonal" => diagonal(graph, o)?,
        "diag" => diag(graph, o)?,
        "pad" if o.text("mode")? == "wrap" => wrap(graph, o)?,
        "pad" => {
            let pads = graph.ints("pads", o.ints("pads")?)?;
            // ONNX Runtime does not pad bools with a number.
            let wide = if o.dtype() == DType::Bool { DType::U8 } else { o.dtype() };
            let x = o.cast(graph, o.name(0)?, o.dtype(), wide);
            let value = graph.scalar("value", Scalar::Float(o.number("value")?), wide)?;
            let padded = graph.node("Pad", &[&x, &pads, &value], vec![text("mode", o.text("mode")?)]);
            o.cast(graph, &padded, wide, o.dtype())
        }
        _ => return Ok(None),
    }))
}

fn reshape(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (from, to) = (o.input(0)?, o.output()?);
    if to == from {
        return Ok(graph.node("Identity", &[o.name(0)?], Vec::new()));
    }
    if to.contains(&Extent::Fixed(0)) {
        return Err(o.wrong("tensors without elements are not exported"));
    }
    // The operator infers one open extent from the others; with several, those that keep their dimension are copied.
    let mut open = to.iter().filter(|&&e| e == Extent::Open).count();
    let mut shape = Vec::new();
    for (i, extent) in to.iter().enumerate() {
        shape.push(match extent {
            Extent::Fixed(value) => *value as i64,
            Extent::Open if open > 1 && stays(o, i) => {
                open -= 1;
                0
            }
            Extent::Open => -1,
        });
    }
    let shape = if open > 1 {
        o.shape(graph, o.step.output.dims(), o.twin.output.dims())?
    } else {
        graph.ints("shape", shape)?
    };
    Ok(graph.node("Reshape", &[o.name(0)?, &shape], Vec::new()))
}

/// Whether dimension `i` has the same extent before and after, for both batch sizes.
fn stays(o: &Operation<'_>, i: usize) -> bool {
    let same = |step: &kiln_tensor::autograd::Step| {
        step.inputs.first().and_then(|x| x.dims().get(i)) == step.output.dims().get(i)
    };
    same(o.step) && same(o.twin)
}

fn expand(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (from, to) = (o.input(0)?, o.output()?);
    let lead = to.len() - from.len().min(to.len());
    let kept = |(i, extent): (usize, &Extent)| match extent {
        Extent::Fixed(value) => Some(*value as i64),
        // An extent of 1 leaves the input's extent.
        Extent::Open => (i >= lead && from[i - lead] == Extent::Open).then_some(1),
    };
    let shape = match to.iter().enumerate().map(kept).collect::<Option<Vec<i64>>>() {
        Some(shape) => graph.ints("shape", shape)?,
        None => o.shape(graph, o.step.output.dims(), o.twin.output.dims())?,
    };
    Ok(graph.node("Expand", &[o.name(0)?, &shape], Vec::new()))
}

fn repeat(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let counts = o.ints("counts")?;
    let lead = counts.len() - o.input(0)?.len().min(counts.len());
    let mut x = o.name(0)?.to_owned();
    if lead > 0 {
        let dims = graph.ints("dims", (0..lead as i64).collect())?;
        x = graph.node("Unsqueeze", &[&x, &dims], Vec::new());
    }
    let counts = graph.ints("counts", counts)?;
    // ONNX Runtime's `Tile` does not support 16-bit floats.
    Ok(graph.node("Tile", &[&x, &counts], Vec::new()))
}

fn flip(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let dims = o.ints("dims")?;
    if dims.is_empty() {
        return Ok(graph.node("Identity", &[o.name(0)?], Vec::new()));
    }
    let starts = graph.ints("starts", vec![-1; dims.len()])?;
    let ends = graph.ints("ends", vec![i64::MIN + 1; dims.len()])?;
    let steps = graph.ints("steps", vec![-1; dims.len()])?;
    let axes = graph.ints("axes", dims)?;
    Ok(graph.node("Slice", &[o.name(0)?, &starts, &ends, &axes, &steps], Vec::new()))
}

/// `roll`: along each dimension, concatenates the end and the beginning.
fn roll(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let mut x = o.name(0)?.to_owned();
    let [first, second] = o.tensors(0)?;
    let flat = o.int("flat")? == 1;
    if flat {
        let line = graph.ints("shape", vec![-1])?;
        x = graph.node("Reshape", &[&x, &line], Vec::new());
    }
    for (&dim, &shift) in o.ints("dims")?.iter().zip(&o.ints("shifts")?) {
        let extent = |t: &Tensor| if flat { t.numel() } else { t.dims()[dim as usize] };
        let count = o.shape(graph, &[extent(first)], &[extent(second)])?;
        // The index of the first element of the result: the shift, whatever its sign, counted from the end.
        let shift = graph.ints("shift", vec![shift.saturating_neg()])?;
        let cut = graph.node("Mod", &[&shift, &count], Vec::new());
        let (zero, axis) = (graph.ints("starts", vec![0])?, graph.ints("axes", vec![dim])?);
        let end = graph.node("Slice", &[&x, &cut, &count, &axis], Vec::new());
        let start = graph.node("Slice", &[&x, &zero, &cut, &axis], Vec::new());
        x = graph.node("Concat", &[&end, &start], vec![int("axis", dim)]);
    }
    if flat {
        let shape = o.shape(graph, o.step.output.dims(), o.twin.output.dims())?;
        x = graph.node("Reshape", &[&x, &shape], Vec::new());
    }
    Ok(x)
}

fn triangle(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let wide = match o.dtype() {
        DType::Bool | DType::U8 | DType::I32 => DType::I64,
        other => other.accumulator(),
    };
    let x = o.cast(graph, o.name(0)?, o.dtype(), wide);
    let diagonal = graph.scalar("diagonal", Scalar::Int(o.int("diagonal")?), DType::I64)?;
    let out = graph.node("Trilu", &[&x, &diagonal], vec![int("upper", i64::from(o.op == "triu"))]);
    Ok(o.cast(graph, &out, wide, o.dtype()))
}

/// The two dimensions are moved last and flattened; the diagonal is then a strided slice.
fn diagonal(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (offset, dim1, dim2) = (o.int("offset")?, o.int("dim1")? as usize, o.int("dim2")? as usize);
    let (from, to) = (o.input(0)?, o.output()?);
    let (Some(Extent::Fixed(rows)), Some(Extent::Fixed(columns))) = (from.get(dim1), from.get(dim2)) else {
        return Err(o.wrong("the size of its matrices depends on the batch size"));
    };
    let Some(Extent::Fixed(len)) = to.last() else {
        return Err(o.wrong("the length of its diagonal depends on the batch size"));
    };
    let others = (0..from.len()).filter(|&dim| dim != dim1 && dim != dim2);
    let order: Vec<i64> = others.chain([dim1, dim2]).map(|dim| dim as i64).collect();
    let moved = graph.node("Transpose", &[o.name(0)?], vec![ints("perm", order.clone())]);
    let mut shape = vec![0; order.len() - 2];
    shape.push((rows * columns) as i64);
    let shape = graph.ints("shape", shape)?;
    let flat = graph.node("Reshape", &[&moved, &shape], Vec::new());
    let (down, right) = ((-offset).max(0), offset.max(0));
    let columns = *columns as i64;
    let places = (0..*len as i64).map(|i| (i + down) * columns + i + right).collect();
    let places = graph.ints("places", places)?;
    Ok(graph.node("Gather", &[&flat, &places], vec![int("axis", -1)]))
}

/// A matrix with the vector on its diagonal: each element is gathered from the vector, or from the zero appended to it.
fn diag(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let offset = o.int("offset")?;
    let (Some(Extent::Fixed(len)), Some(Extent::Fixed(size))) =
        (o.input(0)?.first().copied(), o.output()?.first().copied())
    else {
        return Err(o.wrong("the length of its vector depends on the batch size"));
    };
    let (down, right) = ((-offset).max(0), offset.max(0));
    let mut places = vec![len as i64; size * size];
    for i in 0..len as i64 {
        let at = (i + down) * size as i64 + i + right;
        if let Some(place) = places.get_mut(at as usize) {
            *place = i;
        }
    }
    let zero = Tensor::zeros([1], Device::Cpu)?.to_dtype(o.dtype())?;
    let zero = graph.constant("zero", zero);
    let line = graph.node("Concat", &[o.name(0)?, &zero], vec![int("axis", 0)]);
    let places = graph.constant("places", Tensor::from_vec(places, [size, size], Device::Cpu)?);
    Ok(graph.node("Gather", &[&line, &places], vec![int("axis", 0)]))
}

/// Circular padding: prepends the end and appends the beginning.
fn wrap(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let mut x = o.name(0)?.to_owned();
    let pads = o.ints("pads")?;
    let (before, after) = pads.split_at(pads.len() / 2);
    for (dim, (&before, &after)) in before.iter().zip(after).enumerate() {
        if before == 0 && after == 0 {
            continue;
        }
        let axis = dim as i64;
        // Negative amounts crop first; the padding then wraps around the rest.
        let whole = x.clone();
        let mut parts = Vec::new();
        if before > 0 {
            parts.push(graph.slice(&whole, axis, -before, i64::MAX, 1)?);
        }
        let (start, end) = ((-before).max(0), if after < 0 { after } else { i64::MAX });
        parts.push(graph.slice(&whole, axis, start, end, 1)?);
        if after > 0 {
            parts.push(graph.slice(&whole, axis, 0, after, 1)?);
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        x = graph.node("Concat", &parts, vec![int("axis", axis)]);
    }
    Ok(x)
}
