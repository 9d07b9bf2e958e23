//! Rows of the module tests: linear layers and embeddings.

use kiln_nn::{Embedding, Linear, LinearOptions};

use crate::{case::Row, unary_rows};

pub const ROWS: &[Row] = unary_rows! {
    Embedding |case| Embedding::new(case.size("num_embeddings", 0), case.size("embedding_dim", 0))?;
    Linear |case| {
        let options = LinearOptions::default().bias(case.flag("bias", true));
        Linear::with_options(case.size("in_features", 0), case.size("out_features", 0), options)?
    };
};
