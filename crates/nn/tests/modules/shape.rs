//! Rows of the module tests: linear and bilinear layers, embeddings, distances, dropout, and layers that move elements.

use kiln_nn::{
    AlphaDropout, BagMode, Bilinear, ChannelShuffle, CosineSimilarity, Dropout1d, Dropout3d, Embedding, EmbeddingBag,
    EmbeddingBagOptions, FeatureAlphaDropout, Fold, Linear, LinearOptions, Module, Pair, PairwiseDistance,
    PixelShuffle, PixelUnshuffle, Unflatten, Unfold,
};
use kiln_tensor::Device;

use crate::{
    case::{Case, Row, Run},
    unary_rows,
};

/// One number for height and width, or both.
fn pair(case: &Case<'_>, name: &str, default: usize) -> Pair {
    match case.arg(name).and_then(|value| value.as_array()) {
        Some(both) => Pair::Each([0, 1].map(|axis| both[axis].as_u64().unwrap() as usize)),
        None => Pair::All(case.size(name, default)),
    }
}

/// The settings of a sliding window.
macro_rules! window {
    ($case:ident, $layer:expr) => {
        $layer.dilation(pair($case, "dilation", 1)).padding(pair($case, "padding", 0)).stride(pair($case, "stride", 1))
    };
}

pub const ROWS: &[Row] = unary_rows! {
    AlphaDropout |case| AlphaDropout::new(case.float("p", 0.5))?;
    ChannelShuffle |case| ChannelShuffle::new(case.size("groups", 0));
    Dropout1d |case| Dropout1d::new(case.float("p", 0.5))?;
    Dropout3d |case| Dropout3d::new(case.float("p", 0.5))?;
    Embedding |case| Embedding::new(case.size("num_embeddings", 0), case.size("embedding_dim", 0))?;
    FeatureAlphaDropout |case| FeatureAlphaDropout::new(case.float("p", 0.5))?;
    Fold |case| window!(case, Fold::new(pair(case, "output_size", 0), pair(case, "kernel_size", 0)));
    Linear |case| {
        let options = LinearOptions::default().bias(case.flag("bias", true));
        Linear::with_options(case.size("in_features", 0), case.size("out_features", 0), options)?
    };
    PixelShuffle |case| PixelShuffle::new(case.size("upscale_factor", 0));
    PixelUnshuffle |case| PixelUnshuffle::new(case.size("downscale_factor", 0));
    Unflatten |case| {
        let extents = case.arg("unflattened_size").unwrap().as_array().unwrap();
        let extents: Vec<i64> = extents.iter().map(|extent| extent.as_i64().unwrap()).collect();
        Unflatten::new(case.int("dim", 0), &extents)
    };
    Unfold |case| window!(case, Unfold::new(pair(case, "kernel_size", 0)));
};

/// Layers of two tensors.
macro_rules! pair_rows {
    ($($module:ident |$case:ident| $make:expr;)*) => {
        &[$(Row {
            module: stringify!($module),
            run: |$case| {
                let layer = $case.loaded($make)?;
                let outputs = vec![layer.forward(&$case.x(0)?, &$case.x(1)?)?];
                Ok(Run { model: Some(Box::new(layer)), outputs })
            },
        }),*]
    };
}

pub const PAIRS: &[Row] = pair_rows! {
    Bilinear |case| {
        let [in1, in2, out] = ["in1_features", "in2_features", "out_features"].map(|name| case.size(name, 0));
        Bilinear::with_options(in1, in2, out, case.flag("bias", true), Device::Cpu)?
    };
    CosineSimilarity |case| CosineSimilarity::new().dim(case.int("dim", 1)).eps(case.float("eps", 1e-8));
    PairwiseDistance |case| {
        let distance = PairwiseDistance::new().p(case.float("p", 2.0)).eps(case.float("eps", 1e-6));
        distance.keepdim(case.flag("keepdim", false))
    };
};

pub const BAGS: &[Row] = &[Row {
    module: "EmbeddingBag",
    run: |case| {
        let options = EmbeddingBagOptions::default().include_last_offset(case.flag("include_last_offset", false));
        let options = options.mode(match case.option("mode") {
            Some("sum") => BagMode::Sum,
            Some("max") => BagMode::Max,
            _ => BagMode::Mean,
        });
        let options = match case.arg("padding_idx") {
            Some(row) => options.padding_idx(row.as_u64().unwrap() as usize),
            None => options,
        };
        let (rows, width) = (case.size("num_embeddings", 0), case.size("embedding_dim", 0));
        let bag = case.loaded(EmbeddingBag::with_options(rows, width, options, Device::Cpu)?)?;
        let (offsets, weights) = (case.input("in1"), case.input("in2"));
        let outputs = vec![match offsets {
            None => bag.forward(&case.x(0)?)?,
            Some(offsets) => bag.forward_bags(&case.x(0)?, Some(&offsets), weights.as_ref())?,
        }];
        Ok(Run { model: Some(Box::new(bag)), outputs })
    },
}];
