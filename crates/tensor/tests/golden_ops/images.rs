//! Golden calls: convolution, pooling, normalization, padding, embedding.

use kiln_tensor::{
    BagMode, BagOptions, Conv2d, Convolution, GridMode, GridPadding, GridSample, InterpolateMode, PadMode, PoolDivisor,
    Pooling, Running, Scalar, SlidingWindow, Tensor,
};
use serde_json::Value;

use crate::{
    common::args::Args,
    suite::{Miss, lacks},
};

/// A size for each dimension, or one for all.
pub fn sizes<const N: usize>(a: &Args, name: &str, default: usize) -> [usize; N] {
    match a.ints(name)[..] {
        [all] => [all as usize; N],
        ref each if each.len() == N => std::array::from_fn(|axis| each[axis] as usize),
        _ => [default; N],
    }
}

pub fn rule<const N: usize>(a: &Args) -> Result<Convolution<N>, Miss> {
    Ok(Convolution {
        stride: sizes(a, "stride", 1),
        padding: match a.text("padding") {
            None => sizes(a, "padding", 0),
            Some("valid") => [0; N],
            Some(_) => return Err(lacks("padding same")),
        },
        dilation: sizes(a, "dilation", 1),
        groups: a.size("groups").unwrap_or(1),
    })
}

/// The bias among the arguments: by name, or the third input.
pub fn bias<'a>(x: &'a [Tensor], a: &Args) -> Option<&'a Tensor> {
    a.tensor("bias", x).or(if a.get("weight").is_none() { x.get(2) } else { None })
}

/// A convolution, whose padding may be by name.
pub fn convolved<const N: usize>(
    x: &[Tensor],
    a: &Args,
    conv: impl Fn(&Tensor, &Convolution<N>) -> kiln_tensor::Result<Tensor>,
) -> Result<Tensor, Miss> {
    if a.text("padding") == Some("same") {
        let dilation: [usize; N] = sizes(a, "dilation", 1);
        let mut sides = Vec::new();
        for axis in (0..N).rev() {
            // By half on either side; an odd element goes after.
            let total = dilation[axis] * (x[1].dims()[axis + 2] - 1);
            sides.extend([(total / 2) as i64, (total - total / 2) as i64]);
        }
        let padded = x[0].pad(&sides, PadMode::Constant(0.0))?;
        a.get("stride");
        return Ok(conv(
            &padded,
            &Convolution { dilation, groups: a.size("groups").unwrap_or(1), ..Convolution::default() },
        )?);
    }
    Ok(conv(&x[0], &rule(a)?)?)
}

pub fn windows<const N: usize>(a: &Args) -> Pooling<N> {
    let kernel = sizes(a, "kernel_size", 1);
    let windows = Pooling::new(kernel).padding(sizes(a, "padding", 0)).dilation(sizes(a, "dilation", 1));
    let windows = windows.ceil_mode(a.flag("ceil_mode"));
    if a.ints("stride").is_empty() { windows } else { windows.stride(sizes(a, "stride", 1)) }
}

/// The size of an unpooling: its last extents, if given.
pub fn unpooled_size<const N: usize>(a: &Args) -> Option<[usize; N]> {
    let size = a.ints("output_size");
    (size.len() >= N).then(|| std::array::from_fn(|axis| size[size.len() - N + axis] as usize))
}

/// The size of an adaptive pooling, in which null keeps the extent.
pub fn output_size<const N: usize>(a: &Args) -> [Option<usize>; N] {
    let size = |size: &Value| size.as_u64().map(|size| size as usize);
    match a.get("output_size") {
        Some(Value::Array(sizes)) if sizes.len() == N => std::array::from_fn(|axis| size(&sizes[axis])),
        Some(Value::Array(sizes)) => [size(&sizes[0]); N],
        Some(one) => [size(one); N],
        None => [None; N],
    }
}

/// What the sums of an average pooling are divided by.
pub fn divisor(a: &Args) -> PoolDivisor {
    let include = a.get("count_include_pad").is_none_or(|include| include.as_bool() == Some(true));
    match (a.int("divisor_override"), include) {
        (Some(n), _) => PoolDivisor::Fixed(n),
        (None, false) => PoolDivisor::Inside,
        (None, true) => PoolDivisor::WithPadding,
    }
}

/// Maxima and their places; the places alone are left out where PyTorch was not asked for them.
pub fn maxima(a: &Args, (values, indices): (Tensor, Tensor)) -> Vec<Tensor> {
    match a.get("return_indices") {
        Some(asked) if asked.as_bool() == Some(false) => vec![values],
        _ => vec![values, indices],
    }
}

pub fn sliding_window(a: &Args) -> SlidingWindow {
    SlidingWindow {
        kernel_size: sizes(a, "kernel_size", 1),
        dilation: sizes(a, "dilation", 1),
        padding: sizes(a, "padding", 0),
        stride: sizes(a, "stride", 1),
    }
}

pub fn interpolate_mode(a: &Args) -> InterpolateMode {
    let (align_corners, antialias) = (a.flag("align_corners"), a.flag("antialias"));
    match a.text("mode") {
        Some("nearest-exact") => InterpolateMode::NearestExact,
        Some("bilinear") if antialias => InterpolateMode::LinearAntialias { align_corners },
        Some("bicubic") if antialias => InterpolateMode::CubicAntialias { align_corners },
        Some("linear" | "bilinear" | "trilinear") => InterpolateMode::Linear { align_corners },
        Some("bicubic") => InterpolateMode::Cubic { align_corners },
        Some("area") => InterpolateMode::Area,
        _ => InterpolateMode::Nearest,
    }
}

/// To a size, or by factors; each is a number for all dimensions, or a list.
pub fn interpolated(x: &Tensor, a: &Args, mode: InterpolateMode) -> Result<Tensor, Miss> {
    let size: Vec<usize> = a.ints("size").iter().map(|&n| n as usize).collect();
    if !size.is_empty() {
        return Ok(x.interpolate(&size, mode)?);
    }
    let factors: Vec<f64> = match a.get("scale_factor").unwrap() {
        Value::Array(each) => each.iter().map(|factor| factor.as_f64().unwrap()).collect(),
        one => vec![one.as_f64().unwrap()],
    };
    if a.flag("recompute_scale_factor") {
        let factor = |dim: usize| factors.get(dim).copied().unwrap_or(factors[0]);
        let size = x.dims()[2..].iter().enumerate().map(|(dim, &n)| (n as f64 * factor(dim)).floor() as usize);
        return Ok(x.interpolate(&size.collect::<Vec<_>>(), mode)?);
    }
    Ok(x.interpolate_by(&factors, mode)?)
}

/// By names, or by the numbers that the functions without names take.
pub fn grid_options(a: &Args) -> GridSample {
    let choice = |name: &str, number: &str| match a.text(name) {
        Some(text) => Some(text.to_owned()),
        None => a.int(number).map(|n| n.to_string()),
    };
    GridSample {
        mode: match choice("mode", "interpolation_mode").as_deref() {
            Some("nearest" | "1") => GridMode::Nearest,
            Some("bicubic" | "2") => GridMode::Bicubic,
            _ => GridMode::Bilinear,
        },
        padding_mode: match choice("padding_mode", "padding_mode").as_deref() {
            Some("border" | "1") => GridPadding::Border,
            Some("reflection" | "2") => GridPadding::Reflection,
            _ => GridPadding::Zeros,
        },
        align_corners: a.flag("align_corners"),
    }
}

/// Shortens the rows that are looked up, if they are to be.
fn renormalized(table: &Tensor, numbers: &Tensor, a: &Args) -> Result<(), Miss> {
    if a.flag("sparse") {
        return Err(lacks("sparse"));
    }
    let norm_type = a.float("norm_type").unwrap_or(2.0);
    a.float("max_norm").map_or(Ok(()), |max_norm| Ok(table.embedding_renorm_(numbers, max_norm, norm_type)?))
}

/// PyTorch's function takes the numbers first, OpInfo the table.
pub fn embedding_bag(x: &[Tensor], a: &Args) -> Result<Tensor, Miss> {
    let (table, numbers) = if x[0].dtype().is_float() { (&x[0], &x[1]) } else { (&x[1], &x[0]) };
    renormalized(table, numbers, a)?;
    let padding = a.int("padding_idx").map(|row| if row < 0 { row + table.dims()[0] as i64 } else { row });
    let options = BagOptions {
        mode: match a.text("mode") {
            Some("sum") => BagMode::Sum,
            Some("max") => BagMode::Max,
            _ => BagMode::Mean,
        },
        padding_idx: padding.map(|row| row as usize),
        per_sample_weights: a.tensor("per_sample_weights", x),
        include_last_offset: a.flag("include_last_offset"),
        scale_grad_by_freq: a.flag("scale_grad_by_freq"),
    };
    Ok(table.embedding_bag(numbers, a.tensor("offsets", x), &options)?)
}

table! {
    upsample_bilinear2d_aa => |x, a| {
        if a.get("scales_h").is_some() || a.get("scales_w").is_some() {
            return Err(lacks("scales beside a size"));
        }
        let (align_corners, size) = (a.flag("align_corners"), a.ints("output_size"));
        let mode = InterpolateMode::LinearAntialias { align_corners };
        match a.get("scale_factors").cloned() {
            Some(Value::Array(factors)) => {
                let factors: Vec<f64> = factors.iter().map(|factor| factor.as_f64().unwrap()).collect();
                x[0].interpolate_by(&factors, mode)?
            }
            _ => x[0].interpolate(&size.iter().map(|&n| n as usize).collect::<Vec<_>>(), mode)?,
        }
    };
    upsample_nearest => |x, a| interpolated(&x[0], a, InterpolateMode::Nearest)?;
    upsample_bilinear => |x, a| interpolated(&x[0], a, InterpolateMode::Linear { align_corners: true })?;
    conv2d => |x, a| convolved(x, a, |input, rule: &Conv2d| input.conv2d(&x[1], bias(x, a), rule))?;
    conv2d_channels_last => |x, a| {
        let out = x[0].channels_last()?.conv2d(&x[1], x.get(2), &rule(a)?)?;
        assert!(out.is_channels_last() || out.is_contiguous());
        out
    };
    conv2d_transposed => |x, a| x[0].transpose(2, 3)?.conv2d(&x[1], x.get(2), &rule(a)?)?;
    conv_transpose2d => |x, a| x[0].conv_transpose2d(&x[1], x.get(2), &rule(a)?, sizes(a, "output_padding", 0))?;
    max_pool2d => |x, a| maxima(a, x[0].max_pool2d_with_indices(&windows(a))?);
    avg_pool2d => |x, a| x[0].avg_pool2d(&windows(a), divisor(a))?;
    adaptive_avg_pool2d => |x, a| x[0].adaptive_avg_pool2d(output_size::<2>(a))?;
    adaptive_max_pool2d => |x, a| maxima(a, x[0].adaptive_max_pool2d_with_indices(output_size::<2>(a))?);
    batch_norm => |x, a| {
        // OpInfo's samples name the statistics; the others want to see what became of them.
        let named = |name: &str| a.tensor(name, x).cloned();
        let stats = if a.get("running_mean").is_some() || x.len() < 5 {
            named("running_mean").zip(named("running_var"))
        } else {
            Some((x[3].copy()?.detach(), x[4].copy()?.detach()))
        };
        let running = stats.as_ref().map(|(mean, var)| Running { mean, var });
        let (momentum, eps) = (a.float("momentum").unwrap_or(0.1), a.float("eps").unwrap_or(1e-5));
        let training = a.flag("training");
        if x.len() == 5 && a.get("running_mean").is_none() {
            let out = x[0].batch_norm(Some(&x[1]), Some(&x[2]), running, training, momentum, eps)?;
            let (mean, var) = stats.unwrap();
            vec![out, mean, var]
        } else {
            vec![x[0].batch_norm(a.tensor("weight", x), a.tensor("bias", x), running, training, momentum, eps)?]
        }
    };
    layer_norm => |x, a| {
        let shape: Vec<usize> = a.ints("normalized_shape").iter().map(|&n| n as usize).collect();
        x[0].layer_norm(&shape, a.tensor("weight", x), a.tensor("bias", x), a.float("eps").unwrap_or(1e-5))?
    };
    group_norm => |x, a| {
        let groups = a.size("num_groups").unwrap();
        x[0].group_norm(groups, a.tensor("weight", x), a.tensor("bias", x), a.float("eps").unwrap_or(1e-5))?
    };
    pad => |x, a| {
        let mode = match a.text("mode") {
            Some("reflect") => PadMode::Reflect,
            Some("replicate") => PadMode::Replicate,
            Some("circular") => PadMode::Circular,
            _ => PadMode::Constant(a.scalar("value").map_or(0.0, Scalar::to_f64)),
        };
        x[0].pad(&a.ints("pad"), mode)?
    };
    embedding => |x, a| {
        // PyTorch's function takes the numbers first, OpInfo the table.
        let (table, numbers) = if x[0].dtype().is_float() { (&x[0], &x[1]) } else { (&x[1], &x[0]) };
        renormalized(table, numbers, a)?;
        let padding = a.int("padding_idx").map(|row| if row < 0 { row + table.dims()[0] as i64 } else { row });
        table.embedding(numbers, padding.map(|row| row as usize), a.flag("scale_grad_by_freq"))?
    };
}
