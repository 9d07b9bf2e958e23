//! Losses as functions, with their default options: the modules of the same names
//! ([`CrossEntropyLoss`], …) have the options.
//! What PyTorch has in `torch.nn.functional` besides are methods of [`Tensor`]: `x.relu()`,
//! `x.softmax(1)`, `x.linear(&weight, Some(&bias))`, `x.dropout(p, training)`.

use kiln_derive::located;
use kiln_tensor::{Result, Tensor};

use crate::{BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss};

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
    /// The mean of `-input[target]`, for logarithms of probabilities and class indices.
    nll_loss NLLLoss;
    /// The mean cross-entropy of logits and class indices (or probabilities).
    cross_entropy CrossEntropyLoss;
    /// The mean binary cross-entropy of logits and targets in `[0, 1]`.
    binary_cross_entropy_with_logits BCEWithLogitsLoss;
}
