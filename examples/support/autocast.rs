//! The option `--autocast` of the examples: training in mixed precision.

use kiln::{autocast, prelude::*};

/// The dtype of products and convolutions; parameters, sums and losses stay in `f32`.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Low {
    Bf16,
    F16,
}

impl Low {
    pub fn dtype(self) -> DType {
        match self {
            Low::Bf16 => DType::BF16,
            Low::F16 => DType::F16,
        }
    }
}

/// Runs a forward pass in a region of autocast, if one is asked for.
pub fn in_region<T>(low: Option<Low>, forward: impl FnOnce() -> kiln::Result<T>) -> kiln::Result<T> {
    match low {
        Some(low) => autocast(low.dtype(), forward),
        None => forward(),
    }
}
