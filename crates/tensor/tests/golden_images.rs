//! Every case of `tests/golden/images.safetensors`, made by PyTorch: convolution, pooling, normalisation, padding.

mod common;

use common::{
    args::Args,
    suite::{Op, Suite},
};
use kiln_tensor::{Conv2d, PadMode, PoolDivisor, Pooling, Result, Running, Tensor};

fn pair(a: &Args, name: &str, default: usize) -> [usize; 2] {
    match a.ints(name)[..] {
        [h, w] => [h as usize, w as usize],
        _ => [default; 2],
    }
}

fn rule(a: &Args) -> Conv2d {
    Conv2d {
        stride: pair(a, "stride", 1),
        padding: pair(a, "padding", 0),
        dilation: pair(a, "dilation", 1),
        groups: a.int("groups").unwrap_or(1) as usize,
    }
}

fn windows(a: &Args) -> Pooling {
    let kernel = pair(a, "kernel_size", 1);
    let windows = Pooling::new(kernel).padding(pair(a, "padding", 0)).dilation(pair(a, "dilation", 1));
    let windows = windows.ceil_mode(a.flag("ceil_mode"));
    if a.get("stride").is_some() { windows.stride(pair(a, "stride", 1)) } else { windows }
}

fn both((values, indices): (Tensor, Tensor)) -> Result<Vec<Tensor>> {
    Ok(vec![values, indices])
}

const OPS: &[(&str, Op)] = &[
    ("conv2d", |x, a| Ok(vec![x[0].conv2d(&x[1], x.get(2), &rule(a))?])),
    ("conv2d_channels_last", |x, a| {
        let out = x[0].channels_last()?.conv2d(&x[1], x.get(2), &rule(a))?;
        assert!(out.is_channels_last() || out.is_contiguous());
        Ok(vec![out])
    }),
    ("conv2d_transposed", |x, a| Ok(vec![x[0].transpose(2, 3)?.conv2d(&x[1], x.get(2), &rule(a))?])),
    ("conv_transpose2d", |x, a| {
        Ok(vec![x[0].conv_transpose2d(&x[1], x.get(2), &rule(a), pair(a, "output_padding", 0))?])
    }),
    ("max_pool2d", |x, a| both(x[0].max_pool2d_with_indices(&windows(a))?)),
    ("avg_pool2d", |x, a| {
        let divisor = match (a.int("divisor_override"), a.get("count_include_pad")) {
            (Some(n), _) => PoolDivisor::Fixed(n),
            (None, Some(_)) => PoolDivisor::Inside,
            (None, None) => PoolDivisor::WithPadding,
        };
        Ok(vec![x[0].avg_pool2d(&windows(a), divisor)?])
    }),
    ("adaptive_avg_pool2d", |x, a| Ok(vec![x[0].adaptive_avg_pool2d(pair(a, "output_size", 1))?])),
    ("adaptive_max_pool2d", |x, a| both(x[0].adaptive_max_pool2d_with_indices(pair(a, "output_size", 1))?)),
    ("batch_norm", |x, a| {
        let (mean, var) = (x[3].copy()?.detach(), x[4].copy()?.detach());
        let running = Running { mean: &mean, var: &var };
        let (momentum, eps) = (a.float("momentum").unwrap(), a.float("eps").unwrap());
        let out = x[0].batch_norm(Some(&x[1]), Some(&x[2]), Some(running), a.flag("training"), momentum, eps)?;
        Ok(vec![out, mean, var])
    }),
    ("layer_norm", |x, a| {
        let shape: Vec<usize> = a.ints("normalized_shape").iter().map(|&n| n as usize).collect();
        Ok(vec![x[0].layer_norm(&shape, a.tensor("weight", x), a.tensor("bias", x), a.float("eps").unwrap())?])
    }),
    ("group_norm", |x, a| {
        let groups = a.int("num_groups").unwrap() as usize;
        Ok(vec![x[0].group_norm(groups, a.tensor("weight", x), a.tensor("bias", x), a.float("eps").unwrap())?])
    }),
    ("pad", |x, a| {
        let mode = match a.text("mode") {
            Some("reflect") => PadMode::Reflect,
            Some("replicate") => PadMode::Replicate,
            Some("circular") => PadMode::Circular,
            _ => PadMode::Constant(a.float("value").unwrap_or(0.0)),
        };
        Ok(vec![x[0].pad(&a.ints("pad"), mode)?])
    }),
    ("embedding", |x, a| Ok(vec![x[1].embedding(&x[0], a.int("padding_idx").map(|row| row as usize))?])),
];

#[test]
fn operations_on_images_are_pytorchs() {
    Suite { file: "images.safetensors", ops: &[OPS], absent: &[], refused: &[], accepted: &[], different: &[] }.run();
}
