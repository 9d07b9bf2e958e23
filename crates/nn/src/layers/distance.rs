//! Layers that compare two batches of vectors: `CosineSimilarity`, `PairwiseDistance`.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use crate::module::Module;

/// The cosine of the angle between vectors along a dimension
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.CosineSimilarity.html>).
#[derive(Clone, Copy, Debug, Module)]
#[module(save)]
pub struct CosineSimilarity {
    dim: i64,
    eps: f64,
}

impl Default for CosineSimilarity {
    fn default() -> CosineSimilarity {
        CosineSimilarity { dim: 1, eps: 1e-8 }
    }
}

#[located(site)]
impl CosineSimilarity {
    /// Of vectors along dimension 1.
    #[must_use]
    pub fn new() -> CosineSimilarity {
        CosineSimilarity::default()
    }

    /// The dimension of the vectors: 1 by default.
    #[must_use]
    pub fn dim(self, dim: i64) -> CosineSimilarity {
        CosineSimilarity { dim, ..self }
    }

    /// The smallest length that is divided by: 1e-8 by default.
    #[must_use]
    pub fn eps(self, eps: f64) -> CosineSimilarity {
        CosineSimilarity { eps, ..self }
    }

    /// The cosines; the result lacks the vectors' dimension.
    ///
    /// # Errors
    /// Those of [`Tensor::cosine_similarity`].
    pub fn forward(&self, x1: &Tensor, x2: &Tensor) -> Result<Tensor> {
        x1.cosine_similarity(x2, self.dim, self.eps)
    }
}

/// The `p`-norm of the difference between vectors along the last dimension
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.PairwiseDistance.html>).
#[derive(Clone, Copy, Debug, Module)]
#[module(save)]
pub struct PairwiseDistance {
    p: f64,
    eps: f64,
    keepdim: bool,
}

impl Default for PairwiseDistance {
    fn default() -> PairwiseDistance {
        PairwiseDistance { p: 2.0, eps: 1e-6, keepdim: false }
    }
}

#[located(site)]
impl PairwiseDistance {
    /// The Euclidean distance.
    #[must_use]
    pub fn new() -> PairwiseDistance {
        PairwiseDistance::default()
    }

    /// The norm's exponent: 2 by default.
    #[must_use]
    pub fn p(self, p: f64) -> PairwiseDistance {
        PairwiseDistance { p, ..self }
    }

    /// Added to each difference: 1e-6 by default.
    #[must_use]
    pub fn eps(self, eps: f64) -> PairwiseDistance {
        PairwiseDistance { eps, ..self }
    }

    /// Whether the result keeps the vectors' dimension, with an extent of 1.
    #[must_use]
    pub fn keepdim(self, keepdim: bool) -> PairwiseDistance {
        PairwiseDistance { keepdim, ..self }
    }

    /// The distances: `[N]` for vectors `[N, D]`.
    ///
    /// # Errors
    /// Those of [`Tensor::pairwise_distance`].
    pub fn forward(&self, x1: &Tensor, x2: &Tensor) -> Result<Tensor> {
        x1.pairwise_distance(x2, self.p, self.eps, self.keepdim)
    }
}
