//! Lowering of convolutions and pooling.

use kiln_tensor::{DType, Result, Scalar, Tensor};

use super::norm::with_relu;
use crate::onnx::{
    graph::{Extent, Graph, int, ints, text},
    operation::Operation,
    proto,
};

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    let names: Vec<&str> = o.inputs.iter().map(String::as_str).collect();
    match o.op {
        "conv2d" => {
            let attributes = convolution(o)?;
            let (operands, residual) =
                if o.int("residual")? == 1 { names.split_at(names.len() - 1) } else { (&names[..], &[][..]) };
            let mut product = graph.node("Conv", operands, attributes);
            if let [residual] = residual {
                product = graph.node("Add", &[product.as_str(), *residual], vec![]);
            }
            with_relu(graph, o, product).map(Some)
        }
        "conv3d" => Ok(Some(graph.node("Conv", &names, convolution(o)?))),
        "conv_transpose2d" | "conv_transpose3d" => {
            let mut attributes = convolution(o)?;
            attributes.push(ints("output_padding", o.ints("output_padding")?));
            Ok(Some(graph.node("ConvTranspose", &names, attributes)))
        }
        "max_pool2d" => max_pool(graph, o, 1).map(|mut outputs| outputs.pop()),
        "max_pool2d_with_indices" => {
            let positions = max_pool(graph, o, 2)?.pop();
            let positions = positions.ok_or_else(|| o.wrong("it has no output for positions"))?;
            positions_in_image(graph, o, &positions).map(Some)
        }
        "avg_pool2d" if o.number("divisor")? != 0.0 => divided(graph, o).map(Some),
        "avg_pool2d" => {
            let mut attributes = window(o)?;
            attributes.push(int("count_include_pad", o.int("count_include_pad")?));
            Ok(Some(graph.node("AveragePool", &[o.name(0)?], attributes)))
        }
        "grid_sample" if o.input(0)?.len() == 4 => {
            let mut attributes = vec![text("mode", o.text("mode")?), text("padding_mode", o.text("padding_mode")?)];
            attributes.push(int("align_corners", o.int("align_corners")?));
            Ok(Some(graph.node("GridSample", &names, attributes)))
        }
        "grid_sample" => Err(o.wrong("only of images is it exported, not of volumes")),
        "adaptive_avg_pool2d" => adaptive_average(graph, o).map(Some),
        "adaptive_max_pool2d" => adaptive_max(graph, o).map(Some),
        "adaptive_max_pool2d_with_indices" => match whole_windows(o)? {
            Some(kernel) => {
                let attributes = vec![ints("kernel_shape", kernel.clone()), ints("strides", kernel)];
                let outputs = graph.node_with_outputs("MaxPool", &[o.name(0)?], attributes, 2);
                let positions = outputs.last().ok_or_else(|| o.wrong("it has no output for positions"))?.clone();
                positions_in_image(graph, o, &positions).map(Some)
            }
            None => Err(o.wrong("positions are exported only if the input's size is a multiple of the output's")),
        },
        _ => Ok(None),
    }
}

fn both_sides(padding: &[i64]) -> Vec<i64> {
    [padding, padding].concat()
}

/// The attributes that all convolutions have.
fn convolution(o: &Operation<'_>) -> Result<Vec<proto::Attribute>> {
    Ok(vec![
        ints("strides", o.ints("stride")?),
        ints("pads", both_sides(&o.ints("padding")?)),
        ints("dilations", o.ints("dilation")?),
        int("group", o.int("groups")?),
    ])
}

/// The attributes that both kinds of pooling have.
fn window(o: &Operation<'_>) -> Result<Vec<proto::Attribute>> {
    Ok(vec![
        ints("kernel_shape", o.ints("kernel")?),
        ints("strides", o.ints("stride")?),
        ints("pads", both_sides(&o.ints("padding")?)),
        int("ceil_mode", o.int("ceil_mode")?),
    ])
}

fn max_pool(graph: &mut Graph, o: &Operation<'_>, outputs: usize) -> Result<Vec<String>> {
    let mut attributes = window(o)?;
    attributes.push(ints("dilations", o.ints("dilation")?));
    Ok(graph.node_with_outputs("MaxPool", &[o.name(0)?], attributes, outputs))
}

/// Height and width of the images, which must not depend on the batch size.
fn image_size(o: &Operation<'_>) -> Result<[usize; 2]> {
    match o.input(0)?[..] {
        [.., Extent::Fixed(height), Extent::Fixed(width)] => Ok([height, width]),
        _ => Err(o.wrong("the size of its images depends on the batch size")),
    }
}

/// ONNX's positions index the whole batch, PyTorch's index each image.
fn positions_in_image(graph: &mut Graph, o: &Operation<'_>, positions: &str) -> Result<String> {
    let [height, width] = image_size(o)?;
    let size = graph.scalar("size", Scalar::Int((height * width) as i64), DType::I64)?;
    Ok(graph.node("Mod", &[positions, &size], Vec::new()))
}

/// Average pooling with a given divisor. The images are padded with all zeros that windows reach, so that the mean
/// times the window size is the sum.
fn divided(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (kernel, stride, padding) = (o.ints("kernel")?, o.ints("stride")?, o.ints("padding")?);
    let out = match o.output()?[..] {
        [.., Extent::Fixed(height), Extent::Fixed(width)] => [height, width],
        _ => return Err(o.wrong("the size of its images depends on the batch size")),
    };
    let size = image_size(o)?;
    let rank = o.input(0)?.len();
    let mut pads = vec![0; 2 * rank];
    for side in 0..2 {
        let reach = (out[side] as i64 - 1) * stride[side] + kernel[side];
        pads[rank - 2 + side] = padding[side];
        pads[2 * rank - 2 + side] = (reach - size[side] as i64 - padding[side]).max(0);
    }
    let pads = graph.ints("pads", pads)?;
    let zero = graph.scalar("number", Scalar::Float(0.0), o.dtype())?;
    let padded = graph.node("Pad", &[o.name(0)?, &pads, &zero], Vec::new());
    let attributes = vec![ints("kernel_shape", kernel.clone()), ints("strides", stride)];
    let mean = graph.node("AveragePool", &[&padded], attributes);
    let elements: i64 = kernel.iter().product();
    o.with_number(graph, "Mul", &mean, elements as f64 / o.number("divisor")?)
}

/// Input and output size of adaptive pooling.
fn adaptive_sizes(o: &Operation<'_>) -> Result<[[usize; 2]; 2]> {
    match o.output()?[..] {
        [.., Extent::Fixed(height), Extent::Fixed(width)] if height > 0 && width > 0 => {
            Ok([image_size(o)?, [height, width]])
        }
        _ => Err(o.wrong("the size of its images depends on the batch size")),
    }
}

/// The window of adaptive pooling when the output size divides the input size; else `None`.
fn whole_windows(o: &Operation<'_>) -> Result<Option<Vec<i64>>> {
    let [from, to] = adaptive_sizes(o)?;
    let divides = from.iter().zip(&to).all(|(from, to)| from.is_multiple_of(*to));
    Ok(divides.then(|| from.iter().zip(&to).map(|(from, to)| (from / to) as i64).collect()))
}

/// The range of input elements for each output element, along one dimension.
fn windows(from: usize, to: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..to).map(move |i| (i * from / to, ((i + 1) * from).div_ceil(to)))
}

/// An average over windows of different sizes: a matrix product on either side of the image.
fn adaptive_average(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    if let Some(kernel) = whole_windows(o)? {
        return simple(graph, o, "AveragePool", kernel);
    }
    let [from, to] = adaptive_sizes(o)?;
    let means = |graph: &mut Graph, side: usize, transposed: bool| -> Result<String> {
        let mut matrix = vec![0.0; to[side] * from[side]];
        for (row, (start, end)) in windows(from[side], to[side]).enumerate() {
            for column in start..end {
                matrix[row * from[side] + column] = 1.0 / (end - start) as f64;
            }
        }
        let matrix = Tensor::from_vec(matrix, [to[side], from[side]], kiln_tensor::Device::Cpu)?;
        let matrix = if transposed { matrix.t()?.contiguous()? } else { matrix };
        Ok(graph.constant("means", matrix.to_dtype(o.dtype())?))
    };
    let (rows, columns) = (means(graph, 0, false)?, means(graph, 1, true)?);
    let narrow = graph.node("MatMul", &[o.name(0)?, &columns], Vec::new());
    Ok(graph.node("MatMul", &[&rows, &narrow], Vec::new()))
}

/// The maximum over windows of different sizes: each is sliced out, first along the rows, then along the columns.
fn adaptive_max(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    if let Some(kernel) = whole_windows(o)? {
        return simple(graph, o, "MaxPool", kernel);
    }
    let [from, to] = adaptive_sizes(o)?;
    let mut value = o.name(0)?.to_owned();
    for (side, axis) in [(0, -2), (1, -1)] {
        let mut parts = Vec::new();
        for (start, end) in windows(from[side], to[side]) {
            let part = graph.slice(&value, axis, start as i64, end as i64, 1)?;
            parts.push(graph.node("ReduceMax", &[&part], vec![ints("axes", [axis]), int("keepdims", 1)]));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        value = graph.node("Concat", &parts, vec![int("axis", axis)]);
    }
    Ok(value)
}

fn simple(graph: &mut Graph, o: &Operation<'_>, operator: &str, kernel: Vec<i64>) -> Result<String> {
    if kernel.iter().all(|&k| k == 1) {
        return Ok(graph.node("Identity", &[o.name(0)?], Vec::new()));
    }
    Ok(graph.node(operator, &[o.name(0)?], vec![ints("kernel_shape", kernel.clone()), ints("strides", kernel)]))
}
