//! Losses as functions, with their default options; the modules of the same names ([`CrossEntropyLoss`], …) have the
//! options. The other functions of `torch.nn.functional` are methods of [`Tensor`]: `x.relu()`, `x.softmax(1)`,
//! `x.linear(&weight, Some(&bias))`, `x.dropout(p, training)`.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use crate::{
    L1Loss, MSELoss,
    loss::{
        BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, HingeEmbeddingLoss, HuberLoss, KLDivLoss, MultiLabelMarginLoss,
        MultiLabelSoftMarginLoss, MultiMarginLoss, NLLLoss, PoissonNLLLoss, SmoothL1Loss, SoftMarginLoss,
    },
};

macro_rules! losses {
    ($($(#[$doc:meta])* $name:ident $module:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        #[doc = concat!("As [`", stringify!($module), "::forward`].")]
        #[located]
        pub fn $name(input: &Tensor, target: &Tensor) -> Result<Tensor> {
            $module::new().forward(input, target)
        }
    )*};
}
losses! {
    /// The mean of `(input - target)²`.
    mse_loss MSELoss;
    /// The mean of `|input - target|`.
    l1_loss L1Loss;
    /// The mean of `-input[target]`, for log-probabilities and class indices.
    nll_loss NLLLoss;
    /// The mean cross-entropy of logits and class indices (or probabilities).
    cross_entropy CrossEntropyLoss;
    /// The mean binary cross-entropy of logits and targets in `[0, 1]`.
    binary_cross_entropy_with_logits BCEWithLogitsLoss;
    /// The mean binary cross-entropy of probabilities and targets in `[0, 1]`.
    binary_cross_entropy BCELoss;
    /// The mean absolute error, quadratic below 1.
    smooth_l1_loss SmoothL1Loss;
    /// The mean of half the squared error, linear above 1.
    huber_loss HuberLoss;
    /// The mean of `target * (log(target) - input)`.
    kl_div KLDivLoss;
    /// The mean negative log-likelihood of counts under a Poisson distribution, from the logarithms of the expected
    /// counts.
    poisson_nll_loss PoissonNLLLoss;
    /// The mean of `log(1 + exp(-target * input))`.
    soft_margin_loss SoftMarginLoss;
    /// The mean of distances: small for similar pairs, larger than the margin 1 for others.
    hinge_embedding_loss HingeEmbeddingLoss;
    /// The mean of the amounts by which other classes' scores come within 1 of the target's.
    multi_margin_loss MultiMarginLoss;
    /// The mean of the amounts by which other classes' scores come within 1 of those of a sample's classes.
    multilabel_margin_loss MultiLabelMarginLoss;
    /// The mean binary cross-entropy of logits, over classes and samples.
    multilabel_soft_margin_loss MultiLabelSoftMarginLoss;
}
