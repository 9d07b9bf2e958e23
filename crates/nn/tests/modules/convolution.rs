//! Rows of the module tests: convolution, pooling, normalization.

use kiln_nn::{
    AdaptiveAvgPool2d, AdaptiveMaxPool2d, AdaptiveSize, AvgPool2d, BatchNorm1d, BatchNorm2d, BatchNormOptions, Conv2d,
    Conv2dOptions, ConvTranspose2d, LayerNorm, Padding, Pair,
};
use kiln_tensor::Device;
use serde_json::Value;

use crate::{
    case::{Case, Miss, Row},
    unary_rows,
};

/// A size, or one for height and width each.
pub fn pair(case: &Case<'_>, name: &str) -> Option<Pair> {
    case.arg(name).map(|value| match value.as_array() {
        Some(values) => Pair::Each(values[0].as_u64().unwrap() as usize, values[1].as_u64().unwrap() as usize),
        None => Pair::Both(value.as_u64().unwrap() as usize),
    })
}

fn conv2d(case: &Case<'_>) -> Conv2dOptions {
    let mut options = Conv2dOptions::default().groups(case.size("groups", 1)).bias(case.flag("bias", true));
    if let Some(stride) = pair(case, "stride") {
        options = options.stride(stride);
    }
    match case.arg("padding").and_then(|padding| padding.as_str()) {
        Some("same") => options.padding(Padding::Same),
        Some(_) => options,
        None => pair(case, "padding").map_or(options, |padding| options.padding(padding)),
    }
}

fn batch_norm(case: &Case<'_>) -> Result<BatchNormOptions, Miss> {
    let options = BatchNormOptions::default().eps(case.float("eps", 1e-5)).affine(case.flag("affine", true));
    let options = options.bias(case.flag("bias", true)).track_running_stats(case.flag("track_running_stats", true));
    Ok(match case.given("momentum") {
        None => options,
        Some(momentum) => options.momentum(momentum.as_f64()),
    })
}

fn adaptive(case: &Case<'_>) -> AdaptiveSize {
    let size = |value: &Value| value.as_u64().map(|n| n as usize);
    match case.given("output_size") {
        Some(Value::Array(sizes)) => AdaptiveSize::Each(size(&sizes[0]), size(&sizes[1])),
        given => AdaptiveSize::Both(given.and_then(size)),
    }
}

pub const ROWS: &[Row] = unary_rows! {
    AdaptiveAvgPool2d |case| AdaptiveAvgPool2d::new(adaptive(case));
    AdaptiveMaxPool2d |case| AdaptiveMaxPool2d::new(adaptive(case));
    AvgPool2d |case| {
        let mut pool = AvgPool2d::new(pair(case, "kernel_size").unwrap());
        if let Some(stride) = pair(case, "stride") {
            pool = pool.stride(stride);
        }
        if let Some(padding) = pair(case, "padding") {
            pool = pool.padding(padding);
        }
        pool = pool.ceil_mode(case.flag("ceil_mode", false)).count_include_pad(case.flag("count_include_pad", true));
        match case.int("divisor_override", 0) {
            0 => pool,
            divisor => pool.divisor_override(divisor)?,
        }
    };
    BatchNorm1d |case| BatchNorm1d::with_options(case.size("num_features", 0), batch_norm(case)?)?;
    BatchNorm2d |case| BatchNorm2d::with_options(case.size("num_features", 0), batch_norm(case)?)?;
    Conv2d |case| {
        let (inputs, outputs) = (case.size("in_channels", 0), case.size("out_channels", 0));
        Conv2d::with_options(inputs, outputs, pair(case, "kernel_size").unwrap(), conv2d(case))?
    };
    ConvTranspose2d |case| {
        let (inputs, outputs) = (case.size("in_channels", 0), case.size("out_channels", 0));
        ConvTranspose2d::with_options(inputs, outputs, pair(case, "kernel_size").unwrap(), conv2d(case))?
    };
    LayerNorm |case| {
        let shape: Vec<usize> = serde_json::from_value(case.arg("normalized_shape").unwrap().clone()).unwrap();
        let (affine, bias) = (case.flag("elementwise_affine", true), case.flag("bias", true));
        LayerNorm::with_options(&shape, case.float("eps", 1e-5), affine, bias, Device::Cpu)?
    };
};
