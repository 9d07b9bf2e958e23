//! Losses as functions, with their default options; the modules of the same names ([`CrossEntropyLoss`], …) have the
//! options. The other functions of `torch.nn.functional` are methods of [`Tensor`]: `x.relu()`, `x.softmax(1)`,
//! `x.linear(&weight, Some(&bias))`, `x.dropout(p, training)`.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use crate::{
    L1Loss, MSELoss,
    loss::{
        BCELoss, BCEWithLogitsLoss, CTCLoss, CosineEmbeddingLoss, CrossEntropyLoss, GaussianNLLLoss,
        HingeEmbeddingLoss, HuberLoss, KLDivLoss, MarginRankingLoss, MultiLabelMarginLoss, MultiLabelSoftMarginLoss,
        MultiMarginLoss, NLLLoss, PoissonNLLLoss, SmoothL1Loss, SoftMarginLoss, TripletMarginLoss,
    },
};

macro_rules! losses {
    (($($input:ident),*) $($(#[$doc:meta])* $name:ident $module:ident;)*) => {
        losses! { ($($input: &Tensor),*) -> ($($input),*) $($(#[$doc])* $name $module;)* }
    };
    ($inputs:tt -> $given:tt $($(#[$doc:meta])* $name:ident $module:ident;)*) => {
        $(losses! { @ $inputs $given $(#[$doc])* $name $module })*
    };
    (@ ($($input:ident: $ty:ty),*) ($($given:ident),*) $(#[$doc:meta])* $name:ident $module:ident) => {
        $(#[$doc])*
        ///
        /// # Errors
        #[doc = concat!("As [`", stringify!($module), "::forward`].")]
        #[located]
        pub fn $name($($input: $ty),*) -> Result<Tensor> {
            $module::new().forward($($given),*)
        }
    };
}
losses! {
    (input, target)
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
losses! {
    (input1, input2, target)
    /// The mean of `1 - cos` of pairs with target 1, and of the cosine, if it is positive, of pairs with target -1.
    cosine_embedding_loss CosineEmbeddingLoss;
    /// The mean of `max(0, -target * (input1 - input2))`.
    margin_ranking_loss MarginRankingLoss;
}
losses! {
    (anchor, positive, negative)
    /// The mean amount by which anchors are not nearer, by the margin 1, to positive than to negative samples.
    triplet_margin_loss TripletMarginLoss;
}
losses! {
    (input, target, var)
    /// The mean negative log-likelihood under normal distributions with these means and variances, without its constant.
    gaussian_nll_loss GaussianNLLLoss;
}
losses! {
    (log_probs: &Tensor, targets: &Tensor, input_lengths: &[usize], target_lengths: &[usize])
        -> (log_probs, targets, input_lengths, target_lengths)
    /// The mean of the negative log-likelihoods of sequences of labels, each divided by its length.
    ctc_loss CTCLoss;
}
