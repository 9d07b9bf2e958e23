//! Loss modules, with two or more inputs. The losses in this file are one primitive per direction; the others are
//! composed of tensor operations.

mod adaptive;
mod composed;
mod ctc;
mod elementwise;
mod margin;

use kiln_derive::located;
use kiln_tensor::{ClassLoss, ClassLossInput, PointwiseLossKind, Reduction, Result, Tensor};

use crate::{module::Module, parameter::Buffer};

pub use adaptive::{AdaptiveLogSoftmaxOptions, AdaptiveLogSoftmaxWithLoss};
pub use ctc::CTCLoss;
pub use elementwise::{
    BCELoss, GaussianNLLLoss, HingeEmbeddingLoss, HuberLoss, KLDivLoss, PoissonNLLLoss, SmoothL1Loss, SoftMarginLoss,
};
pub use margin::{
    CosineEmbeddingLoss, MarginRankingLoss, MultiLabelMarginLoss, MultiLabelSoftMarginLoss, MultiMarginLoss,
    TripletMarginLoss, TripletMarginWithDistanceLoss,
};

/// The class index that PyTorch ignores unless told otherwise.
const IGNORE_INDEX: i64 = -100;

macro_rules! pointwise {
    ($($(#[$doc:meta])* $name:ident $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default, Module)]
        pub struct $name {
            reduction: Reduction,
        }

        #[located(site)]
        impl $name {
            /// The mean over all elements.
            #[must_use]
            pub fn new() -> $name {
                $name::default()
            }

            /// How elements are combined: [`Reduction::Mean`] by default.
            #[must_use]
            pub fn reduction(self, reduction: Reduction) -> $name {
                $name { reduction }
            }

            /// The loss: a scalar, or of the input's shape without reduction. `target` has the input's shape.
            ///
            /// # Errors
            /// If shapes, dtypes or devices differ.
            pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
                input.pointwise_loss(PointwiseLossKind::$kind, target, None, None, self.reduction)
            }
        }
    )*};
}
pointwise! {
    /// `(input - target)²`, the squared error
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MSELoss.html>).
    MSELoss Mse;
    /// `|input - target|`, the absolute error
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.L1Loss.html>).
    L1Loss L1;
}

/// Negative log-likelihood: `-weight[target] * input[target]`
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html>).
///
/// The input holds log-probabilities, `[N, C]`, `[N, C, d1, …]` or `[C]`; the target class indices (`i64`), of the same
/// shape without `C`. The mean divides by the sum of the targets' weights.
#[derive(Debug, Module)]
pub struct NLLLoss {
    weight: Option<Buffer>,
    ignore_index: i64,
    reduction: Reduction,
}

/// Cross-entropy of unnormalized scores: [`LogSoftmax`](crate::LogSoftmax) and [`NLLLoss`] in one
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html>).
///
/// The input holds logits, `[N, C]`, `[N, C, d1, …]` or `[C]`; the target either class indices (`i64`), of the
/// same shape without `C`, or probabilities of the input's shape.
///
/// ```
/// use kiln_nn::CrossEntropyLoss;
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let logits = Tensor::new(&[[2.0f32, 0.0, 0.0], [0.0, 3.0, 0.0]], Device::Cpu)?;
/// let classes = Tensor::new(&[0i64, 1], Device::Cpu)?;
/// let loss = CrossEntropyLoss::new().label_smoothing(0.1).forward(&logits, &classes)?;
/// # assert!(loss.item::<f32>()? > 0.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
pub struct CrossEntropyLoss {
    weight: Option<Buffer>,
    ignore_index: i64,
    label_smoothing: f64,
    reduction: Reduction,
}

macro_rules! class_options {
    ($($name:ident { $($extra:ident: $default:expr)? } $input:ident $smoothing:expr;)*) => {$(
        impl Default for $name {
            fn default() -> Self {
                let (weight, ignore_index, reduction) = (None, IGNORE_INDEX, Reduction::Mean);
                $name { weight, ignore_index, reduction, $($extra: $default)? }
            }
        }

        #[located(site)]
        impl $name {
            /// The mean over all samples.
            #[must_use]
            pub fn new() -> $name {
                $name::default()
            }

            /// A factor for each class, of shape `[C]`.
            #[must_use]
            pub fn weight(self, weight: Tensor) -> $name {
                $name { weight: Some(Buffer::new(weight)), ..self }
            }

            /// A class index that is ignored: -100 by default.
            #[must_use]
            pub fn ignore_index(self, ignore_index: i64) -> $name {
                $name { ignore_index, ..self }
            }

            /// How samples are combined: [`Reduction::Mean`] by default.
            #[must_use]
            pub fn reduction(self, reduction: Reduction) -> $name {
                $name { reduction, ..self }
            }

            /// The loss: a scalar, or one value per sample without reduction.
            ///
            /// # Errors
            /// If shapes, dtypes or devices do not fit, or a class index is out of range.
            pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
                let rule = ClassLoss {
                    input: ClassLossInput::$input,
                    reduction: self.reduction,
                    ignore_index: self.ignore_index,
                    label_smoothing: $smoothing(self),
                };
                input.class_loss(target, self.weight.as_deref(), &rule)
            }
        }
    )*};
}
class_options! {
    NLLLoss {} LogProbs (|_: &NLLLoss| 0.0);
    CrossEntropyLoss { label_smoothing: 0.0 } Logits (|loss: &CrossEntropyLoss| loss.label_smoothing);
}

#[located(site)]
impl CrossEntropyLoss {
    /// The share of the target, in `[0, 1]`, that is spread evenly over all classes (Szegedy et al., 2016).
    #[must_use]
    pub fn label_smoothing(self, label_smoothing: f64) -> CrossEntropyLoss {
        CrossEntropyLoss { label_smoothing, ..self }
    }
}

/// Binary cross-entropy of `sigmoid(input)`, stable for any input
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html>).
///
/// The target, in `[0, 1]`, has the input's shape.
#[derive(Debug, Default, Module)]
pub struct BCEWithLogitsLoss {
    weight: Option<Buffer>,
    pos_weight: Option<Buffer>,
    reduction: Reduction,
}

#[located(site)]
impl BCEWithLogitsLoss {
    /// The mean over all elements.
    #[must_use]
    pub fn new() -> BCEWithLogitsLoss {
        BCEWithLogitsLoss::default()
    }

    /// A factor for each element; broadcasts to the input's shape.
    #[must_use]
    pub fn weight(self, weight: Tensor) -> BCEWithLogitsLoss {
        BCEWithLogitsLoss { weight: Some(Buffer::new(weight)), ..self }
    }

    /// A factor for positive targets; broadcasts to the input's shape.
    #[must_use]
    pub fn pos_weight(self, pos_weight: Tensor) -> BCEWithLogitsLoss {
        BCEWithLogitsLoss { pos_weight: Some(Buffer::new(pos_weight)), ..self }
    }

    /// How elements are combined: [`Reduction::Mean`] by default.
    #[must_use]
    pub fn reduction(self, reduction: Reduction) -> BCEWithLogitsLoss {
        BCEWithLogitsLoss { reduction, ..self }
    }

    /// The loss: a scalar, or of the input's shape without reduction.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        let (weight, pos_weight) = (self.weight.as_deref(), self.pos_weight.as_deref());
        input.pointwise_loss(PointwiseLossKind::BceWithLogits, target, weight, pos_weight, self.reduction)
    }
}
