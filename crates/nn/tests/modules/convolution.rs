//! Rows of the module tests: convolution, pooling, normalization.

use kiln_nn::{
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d, AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d,
    AdaptiveSize, AvgPool1d, AvgPool2d, AvgPool3d, BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormOptions, Conv1d,
    Conv2d, Conv3d, ConvOptions, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, FractionalMaxPool2d,
    FractionalMaxPool3d, GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, InstanceNormOptions, LPPool1d,
    LPPool2d, LPPool3d, LayerNorm, LocalResponseNorm, MaxPool1d, MaxPool2d, MaxPool3d, Padding, RMSNorm, Sizes,
};
use kiln_tensor::Device;
use serde_json::Value;

use crate::{
    case::{Case, Row, Run},
    unary_rows,
};

/// A size, or one for each dimension.
pub fn sizes<const N: usize>(case: &Case<'_>, name: &str) -> Option<Sizes<N>> {
    let size = |value: &Value| value.as_u64().unwrap() as usize;
    case.arg(name).map(|value| match value.as_array() {
        Some(values) => Sizes::Each(std::array::from_fn(|axis| size(&values[axis]))),
        None => Sizes::All(size(value)),
    })
}

fn conv<const N: usize>(case: &Case<'_>) -> ConvOptions<N> {
    let mut options = ConvOptions::default().groups(case.size("groups", 1)).bias(case.flag("bias", true));
    if let Some(stride) = sizes(case, "stride") {
        options = options.stride(stride);
    }
    if let Some(dilation) = sizes(case, "dilation") {
        options = options.dilation(dilation);
    }
    if let Some(output_padding) = sizes(case, "output_padding") {
        options = options.output_padding(output_padding);
    }
    match case.arg("padding").and_then(|padding| padding.as_str()) {
        Some("same") => options.padding(Padding::Same),
        Some(_) => options.padding(Padding::Valid),
        None => match sizes(case, "padding") {
            Some(padding) => options.padding(Padding::Around(padding)),
            None => options,
        },
    }
}

/// Rows of convolutions.
macro_rules! conv_rows {
    ($($name:ident)*) => {
        unary_rows! {$(
            $name |case| {
                let (inputs, outputs) = (case.size("in_channels", 0), case.size("out_channels", 0));
                $name::with_options(inputs, outputs, sizes(case, "kernel_size").unwrap(), conv(case))?
            };
        )*}
    };
}

/// The options of a normalization by channel; `$affine` is PyTorch's default.
macro_rules! norm_options {
    ($case:ident, $options:ident, $on:literal) => {{
        let options = $options::default().eps($case.float("eps", 1e-5)).affine($case.flag("affine", $on));
        let options = options.bias($case.flag("bias", true));
        let options = options.track_running_stats($case.flag("track_running_stats", $on));
        match $case.given("momentum") {
            None => options,
            Some(momentum) => options.momentum(momentum.as_f64()),
        }
    }};
}

/// Rows of normalizations by channel.
macro_rules! norm_rows {
    ($options:ident $on:literal $($name:ident)*) => {
        unary_rows! {$(
            $name |case| $name::with_options(case.size("num_features", 0), norm_options!(case, $options, $on))?;
        )*}
    };
}

fn adaptive<const N: usize>(case: &Case<'_>) -> AdaptiveSize<N> {
    let size = |value: &Value| value.as_u64().map(|n| n as usize);
    match case.given("output_size") {
        Some(Value::Array(sizes)) => AdaptiveSize::Each(std::array::from_fn(|axis| size(&sizes[axis]))),
        given => AdaptiveSize::All(given.and_then(size)),
    }
}

/// Rows of modules that also return positions.
macro_rules! with_indices {
    ($($name:ident |$case:ident| $make:expr;)*) => {
        &[$(Row {
            module: stringify!($name),
            run: |$case| {
                let (pool, x) = ($make, $case.x(0)?);
                let outputs = if $case.flag("return_indices", false) {
                    let (values, indices) = pool.forward_with_indices(&x)?;
                    vec![values, indices]
                } else {
                    vec![kiln_nn::Module::forward(&pool, &x)?]
                };
                Ok(Run { model: Some(Box::new(pool)), outputs })
            },
        }),*]
    };
}

/// A pooling with the settings that are given.
macro_rules! windows {
    ($case:ident, $pool:expr $(, $setting:ident)*) => {{
        let mut pool = $pool;
        $(
            if let Some(value) = sizes($case, stringify!($setting)) {
                pool = pool.$setting(value);
            }
        )*
        pool.ceil_mode($case.flag("ceil_mode", false))
    }};
}

/// Rows of average pooling.
macro_rules! average_rows {
    ($($name:ident)*) => {
        unary_rows! {$(
            $name |case| {
                let pool = windows!(case, $name::new(sizes(case, "kernel_size").unwrap()), stride, padding);
                let pool = pool.count_include_pad(case.flag("count_include_pad", true));
                match case.int("divisor_override", 0) {
                    0 => pool,
                    divisor => pool.divisor_override(divisor)?,
                }
            };
        )*}
    };
}

fn shape(case: &Case<'_>) -> Vec<usize> {
    serde_json::from_value(case.arg("normalized_shape").unwrap().clone()).unwrap()
}

pub const CONVOLUTIONS: &[Row] = conv_rows! { Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d };
pub const BATCH_NORMS: &[Row] = norm_rows! { BatchNormOptions true BatchNorm1d BatchNorm2d BatchNorm3d };
pub const INSTANCE_NORMS: &[Row] =
    norm_rows! { InstanceNormOptions false InstanceNorm1d InstanceNorm2d InstanceNorm3d };
pub const AVERAGES: &[Row] = average_rows! { AvgPool1d AvgPool2d AvgPool3d };
pub const MAXIMA: &[Row] = with_indices! {
    AdaptiveMaxPool1d |case| AdaptiveMaxPool1d::new(adaptive(case));
    AdaptiveMaxPool2d |case| AdaptiveMaxPool2d::new(adaptive(case));
    AdaptiveMaxPool3d |case| AdaptiveMaxPool3d::new(adaptive(case));
    MaxPool1d |case| windows!(case, MaxPool1d::new(sizes(case, "kernel_size").unwrap()), stride, padding, dilation);
    MaxPool2d |case| windows!(case, MaxPool2d::new(sizes(case, "kernel_size").unwrap()), stride, padding, dilation);
    MaxPool3d |case| windows!(case, MaxPool3d::new(sizes(case, "kernel_size").unwrap()), stride, padding, dilation);
};
/// Rows of pooling with windows at random distances, by the given draws.
macro_rules! fractional_rows {
    ($($name:ident)*) => {
        &[$(Row {
            module: stringify!($name),
            run: |case| {
                let kernel = sizes(case, "kernel_size").unwrap();
                let pool = match sizes(case, "output_size") {
                    Some(size) => $name::with_output_size(kernel, size),
                    None => {
                        let ratio = case.arg("output_ratio").unwrap();
                        let each = |axis: usize| ratio.as_f64().unwrap_or_else(|| ratio[axis].as_f64().unwrap());
                        $name::with_output_ratio(kernel, std::array::from_fn(each))?
                    }
                };
                let samples = case.tensor("_random_samples");
                let (values, indices) = pool.forward_with_indices(&case.x(0)?, samples.as_ref())?;
                let outputs = if case.flag("return_indices", false) { vec![values, indices] } else { vec![values] };
                Ok(Run { model: Some(Box::new(pool)), outputs })
            },
        }),*]
    };
}
pub const FRACTIONAL: &[Row] = fractional_rows! { FractionalMaxPool2d FractionalMaxPool3d };
pub const ROWS: &[Row] = unary_rows! {
    AdaptiveAvgPool1d |case| AdaptiveAvgPool1d::new(adaptive(case));
    AdaptiveAvgPool2d |case| AdaptiveAvgPool2d::new(adaptive(case));
    AdaptiveAvgPool3d |case| AdaptiveAvgPool3d::new(adaptive(case));
    GroupNorm |case| {
        let (groups, channels) = (case.size("num_groups", 0), case.size("num_channels", 0));
        let (affine, bias) = (case.flag("affine", true), case.flag("bias", true));
        GroupNorm::with_options(groups, channels, case.float("eps", 1e-5), affine, bias, Device::Cpu)?
    };
    LPPool1d |case| {
        windows!(case, LPPool1d::new(case.float("norm_type", 0.0), sizes(case, "kernel_size").unwrap()), stride)
    };
    LPPool2d |case| {
        windows!(case, LPPool2d::new(case.float("norm_type", 0.0), sizes(case, "kernel_size").unwrap()), stride)
    };
    LPPool3d |case| {
        windows!(case, LPPool3d::new(case.float("norm_type", 0.0), sizes(case, "kernel_size").unwrap()), stride)
    };
    LayerNorm |case| {
        let (affine, bias) = (case.flag("elementwise_affine", true), case.flag("bias", true));
        LayerNorm::with_options(&shape(case), case.float("eps", 1e-5), affine, bias, Device::Cpu)?
    };
    LocalResponseNorm |case| {
        let norm = LocalResponseNorm::new(case.size("size", 0)).alpha(case.float("alpha", 1e-4));
        norm.beta(case.float("beta", 0.75)).k(case.float("k", 1.0))
    };
    RMSNorm |case| {
        let eps = case.arg("eps").map(|eps| eps.as_f64().unwrap());
        RMSNorm::with_options(&shape(case), eps, case.flag("elementwise_affine", true), Device::Cpu)?
    };
};
