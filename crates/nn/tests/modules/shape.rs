//! Rows of the module tests: linear and bilinear layers, embeddings, distances, dropout, and layers that move elements.

use kiln_nn::{
    AlphaDropout, BagMode, Bilinear, ChannelShuffle, CosineSimilarity, Dropout, Dropout1d, Dropout2d, Dropout3d,
    Embedding, EmbeddingBag, EmbeddingBagOptions, EmbeddingOptions, FeatureAlphaDropout, Flatten, Fold, Identity,
    Linear, LinearOptions, MaxUnpool1d, MaxUnpool2d, MaxUnpool3d, Module, Pair, PairwiseDistance, PixelShuffle,
    PixelUnshuffle, Sizes, Unflatten, Unfold,
};
use kiln_tensor::Device;

use crate::{
    case::{Case, Miss, Row, Run, held},
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

/// How many rows a table has, and how wide they are.
fn table(case: &Case<'_>) -> (usize, usize) {
    (case.size("num_embeddings", 0), case.size("embedding_dim", 0))
}

/// The options of embeddings that say how rows are looked up.
macro_rules! of_rows {
    ($case:ident, $options:expr) => {{
        let mut options = $options.norm_type($case.float("norm_type", 2.0));
        options = options.scale_grad_by_freq($case.flag("scale_grad_by_freq", false));
        if let Some(row) = $case.arg("padding_idx").and_then(|row| row.as_i64()) {
            let (rows, _) = table($case);
            options = options.padding_idx(row.rem_euclid(rows as i64) as usize);
        }
        match $case.arg("max_norm") {
            Some(max_norm) => options.max_norm(max_norm.as_f64().unwrap()),
            None => options,
        }
    }};
}

pub const ROWS: &[Row] = unary_rows! {
    AlphaDropout |case| AlphaDropout::new(case.float("p", 0.5))?;
    ChannelShuffle |case| ChannelShuffle::new(case.size("groups", 0));
    Dropout |case| Dropout::new(case.float("p", 0.5))?;
    Dropout1d |case| Dropout1d::new(case.float("p", 0.5))?;
    Dropout2d |case| Dropout2d::new(case.float("p", 0.5))?;
    Dropout3d |case| Dropout3d::new(case.float("p", 0.5))?;
    Embedding |case| {
        let (rows, width) = table(case);
        Embedding::with_options(rows, width, of_rows!(case, EmbeddingOptions::default()), Device::Cpu)?
    };
    FeatureAlphaDropout |case| FeatureAlphaDropout::new(case.float("p", 0.5))?;
    Flatten |case| Flatten::dims(case.int("start_dim", 1), case.int("end_dim", -1));
    Fold |case| window!(case, Fold::new(pair(case, "output_size", 0), pair(case, "kernel_size", 0)));
    Identity |_case| Identity::new();
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
                held(layer, outputs)
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
        let options = of_rows!(case, options);
        let (rows, width) = table(case);
        let bag = case.loaded(EmbeddingBag::with_options(rows, width, options, Device::Cpu)?)?;
        let (offsets, weights) = (case.input("in1"), case.input("in2"));
        let outputs = vec![match offsets {
            None => bag.forward(&case.x(0)?)?,
            Some(offsets) => bag.forward_bags(&case.x(0)?, Some(&offsets), weights.as_ref())?,
        }];
        Ok(Run { model: Some(Box::new(bag)), outputs })
    },
}];

/// One number for each dimension, or one for all.
fn sizes<const N: usize>(case: &Case<'_>, name: &str) -> Option<Sizes<N>> {
    let value = case.arg(name)?;
    let each = |i: usize| value.get(i).unwrap_or(value).as_u64().unwrap() as usize;
    Some(Sizes::from(std::array::from_fn::<usize, N, _>(each)))
}

/// The extents of the result, if they are among the inputs: the last ones of a shape.
fn result_size<const N: usize>(case: &Case<'_>) -> Result<Option<[usize; N]>, Miss> {
    let Some(shape) = case.forward_values().get(2) else { return Ok(None) };
    let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
    Ok(shape.last_chunk::<N>().copied())
}

macro_rules! unpool_rows {
    ($($module:ident)*) => {
        &[$(Row {
            module: stringify!($module),
            run: |case| {
                let layer = $module::new(sizes(case, "kernel_size").unwrap());
                let layer = match sizes(case, "stride") {
                    Some(stride) => layer.stride(stride),
                    None => layer,
                };
                let layer = match sizes(case, "padding") {
                    Some(padding) => layer.padding(padding),
                    None => layer,
                };
                let layer = case.loaded(layer)?;
                let out = match result_size(case)? {
                    Some(size) => layer.forward_with_size(&case.x(0)?, &case.x(1)?, size)?,
                    None => layer.forward(&case.x(0)?, &case.x(1)?)?,
                };
                held(layer, vec![out])
            },
        }),*]
    };
}

pub const UNPOOLS: &[Row] = unpool_rows! { MaxUnpool1d MaxUnpool2d MaxUnpool3d };
