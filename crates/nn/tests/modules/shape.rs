//! Rows of the module tests: linear and bilinear layers, embeddings.

use kiln_nn::{Bilinear, Embedding, Linear, LinearOptions};
use kiln_tensor::Device;

use crate::{
    case::{Row, Run},
    unary_rows,
};

pub const ROWS: &[Row] = unary_rows! {
    Embedding |case| Embedding::new(case.size("num_embeddings", 0), case.size("embedding_dim", 0))?;
    Linear |case| {
        let options = LinearOptions::default().bias(case.flag("bias", true));
        Linear::with_options(case.size("in_features", 0), case.size("out_features", 0), options)?
    };
};

pub const BILINEAR: &[Row] = &[Row {
    module: "Bilinear",
    run: |case| {
        let size = |name| case.size(name, 0);
        let [in1, in2, out] = ["in1_features", "in2_features", "out_features"].map(size);
        let bilinear = Bilinear::with_options(in1, in2, out, case.flag("bias", true), Device::Cpu)?;
        let bilinear = case.loaded(bilinear)?;
        let outputs = vec![bilinear.forward(&case.x(0)?, &case.x(1)?)?];
        Ok(Run { model: Some(Box::new(bilinear)), outputs })
    },
}];
