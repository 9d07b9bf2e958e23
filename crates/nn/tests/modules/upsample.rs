//! Rows of the module tests: layers that interpolate.

use kiln_nn::{PerDim, Upsample, UpsampleMode, UpsamplingBilinear2d, UpsamplingNearest2d};
use serde_json::Value;

use crate::{
    case::{Case, Row},
    unary_rows,
};

/// One value, or one for each dimension.
fn per_dim<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> PerDim<T> {
    match value.as_array() {
        Some(each) => PerDim::Each(each.iter().map(|value| read(value).unwrap()).collect()),
        None => PerDim::All(read(value).unwrap()),
    }
}

fn size(case: &Case<'_>) -> Option<PerDim<usize>> {
    case.arg("size").map(|size| per_dim(size, |n| n.as_u64().map(|n| n as usize)))
}

fn factor(case: &Case<'_>) -> PerDim<f64> {
    per_dim(case.arg("scale_factor").unwrap(), Value::as_f64)
}

fn upsample(case: &Case<'_>) -> Upsample {
    let layer = match size(case) {
        Some(size) => Upsample::size(size),
        None => Upsample::scale_factor(factor(case)),
    };
    let layer = layer.mode(match case.option("mode") {
        None | Some("nearest") => UpsampleMode::Nearest,
        Some("nearest-exact") => UpsampleMode::NearestExact,
        Some("linear") => UpsampleMode::Linear,
        Some("bilinear") => UpsampleMode::Bilinear,
        Some("bicubic") => UpsampleMode::Bicubic,
        Some("trilinear") => UpsampleMode::Trilinear,
        Some("area") => UpsampleMode::Area,
        Some(other) => panic!("the mode {other}"),
    });
    let layer = layer.recompute_scale_factor(case.flag("recompute_scale_factor", false));
    match case.arg("align_corners") {
        Some(align_corners) => layer.align_corners(align_corners.as_bool().unwrap()),
        None => layer,
    }
}

pub const ROWS: &[Row] = unary_rows! {
    Upsample |case| upsample(case);
    UpsamplingBilinear2d |case| match size(case) {
        Some(size) => UpsamplingBilinear2d::size(size),
        None => UpsamplingBilinear2d::scale_factor(factor(case)),
    };
    UpsamplingNearest2d |case| match size(case) {
        Some(size) => UpsamplingNearest2d::size(size),
        None => UpsamplingNearest2d::scale_factor(factor(case)),
    };
};
