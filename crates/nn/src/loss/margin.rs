//! Margin losses on scores, distances and embeddings, composed of tensor operations.

use kiln_derive::located;
use kiln_tensor::{DType, Error, Reduction, Result, Tensor, autocast::cast_operands};

use super::composed::{composed, reduced, same_shape};
use crate::{PairwiseDistance, module::Module, parameter::Buffer};

composed! {
    /// The amount by which the first input fails to be above the second by the margin (where the target is 1) or below
    /// it (where it is -1) (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MarginRankingLoss.html>).
    MarginRankingLoss {
        margin: f64 = 0.0, "The margin: 0 by default.";
    }

    /// `1 - cos` of two vectors where the target is 1, and the amount by which `cos` is above the margin where it is -1
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html>).
    CosineEmbeddingLoss {
        margin: f64 = 0.0, "The margin: 0 by default.";
    }

    /// The amount by which the distance to the positive sample fails to be below that to the negative one by the margin
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.TripletMarginLoss.html>).
    TripletMarginLoss {
        margin: f64 = 1.0, "The margin: 1 by default.";
        p: f64 = 2.0, "The norm of the distance: 2 by default.";
        eps: f64 = 1e-6, "Added to each difference: 1e-6 by default.";
        swap: bool = false, "Whether to use the distance between positive and negative if it is smaller (Balntas et al., 2016).";
    }

    /// The amounts by which other classes' scores come within the margin of the target's
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiMarginLoss.html>).
    MultiMarginLoss [weight "A factor for each class, of shape `[C]`."] {
        p: u32 = 1, "The power: 1, by default, or 2.";
        margin: f64 = 1.0, "The margin: 1 by default.";
    }

    /// The amounts by which other classes' scores come within 1 of those of a sample's classes
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelMarginLoss.html>).
    MultiLabelMarginLoss {}

    /// The mean over classes of the binary cross-entropy of logits
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelSoftMarginLoss.html>).
    MultiLabelSoftMarginLoss [weight "A factor for each class, of shape `[C]`."] {}
}

#[located(site)]
impl MarginRankingLoss {
    /// The loss for two scores and targets 1 and -1, all of the same shape.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward(&self, input1: &Tensor, input2: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("margin_ranking_loss", [input1, input2, target], [], |[input1, input2, target], []| {
            same_shape("MarginRankingLoss", input1, input2)?;
            let ahead = input1.sub(input2)?.mul(target)?;
            reduced(ahead.neg()?.add(self.margin)?.clamp_min(0.0)?, self.reduction)
        })
    }
}

#[located(site)]
impl CosineEmbeddingLoss {
    /// The loss for vectors `[N, D]` or `[D]`, and targets 1 (similar) and -1 (dissimilar), `[N]` or a single one.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward(&self, input1: &Tensor, input2: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("cosine_embedding_loss", [input1, input2, target], [], |[input1, input2, target], []| {
            const OP: &str = "CosineEmbeddingLoss";
            same_shape(OP, input1, input2)?;
            if !matches!(input1.rank(), 1 | 2) || target.rank() + 1 != input1.rank() {
                let expected = "vectors [N, D] and targets [N], or one vector [D] and one target";
                return Err(Error::shapes(OP, input1.shape(), target.shape(), expected));
            }
            const EPS: f64 = 1e-12;
            let sum = |a: &Tensor, b: &Tensor| a.mul(b)?.sum(-1);
            let squares = sum(input1, input1)?.add(EPS)?.mul(&sum(input2, input2)?.add(EPS)?)?;
            let cosine = sum(input1, input2)?.div(&squares.sqrt()?)?;
            let alike = target.eq(1.0)?.where_cond(&cosine.neg()?.add(1.0)?, 0.0)?;
            let apart = target.eq(-1.0)?.where_cond(&cosine.sub(self.margin)?.clamp_min(0.0)?, 0.0)?;
            reduced(alike.add(&apart)?, self.reduction)
        })
    }
}

#[located(site)]
impl TripletMarginLoss {
    /// The loss for vectors `[N, D]` or `[D]`: an anchor, a positive (similar) and a negative (dissimilar) sample.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    pub fn forward(&self, anchor: &Tensor, positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
        cast_operands("triplet_margin_loss", [anchor, positive, negative], [], |[anchor, positive, negative], []| {
            const OP: &str = "TripletMarginLoss";
            same_rank(OP, anchor, positive, negative)?;
            let distance = |a: &Tensor, b: &Tensor| a.sub(b)?.add(self.eps)?.norm(self.p, -1);
            let near = distance(anchor, positive)?;
            let mut far = distance(anchor, negative)?;
            if self.swap {
                far = far.minimum(&distance(positive, negative)?)?;
            }
            reduced(near.sub(&far)?.add(self.margin)?.clamp_min(0.0)?, self.reduction)
        })
    }
}

/// A distance of vectors `[N, D]`, which gives `[N]`.
type Distance = Box<dyn Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync>;

/// [`TripletMarginLoss`] with a distance of one's own
/// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.TripletMarginWithDistanceLoss.html>).
///
/// ```
/// use kiln_nn::TripletMarginWithDistanceLoss;
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let loss = TripletMarginWithDistanceLoss::new().distance(|a, b| Ok(a.cosine_similarity(b, 1, 1e-8)?.neg()?.add(1.0)?));
/// let x = |seed: f64| Tensor::linspace(seed, 1.0, 6, Device::Cpu)?.reshape([2, 3]);
/// assert!(loss.forward(&x(0.5)?, &x(-1.0)?, &x(2.0)?)?.item::<f32>()? > 1.0);
/// # Ok(())
/// # }
/// ```
#[derive(Module)]
pub struct TripletMarginWithDistanceLoss {
    /// The distance if no other is given.
    distance_function: Option<PairwiseDistance>,
    #[module(skip)]
    own: Option<Distance>,
    margin: f64,
    swap: bool,
    reduction: Reduction,
}

impl Default for TripletMarginWithDistanceLoss {
    fn default() -> TripletMarginWithDistanceLoss {
        let distance_function = Some(PairwiseDistance::new());
        TripletMarginWithDistanceLoss {
            distance_function,
            own: None,
            margin: 1.0,
            swap: false,
            reduction: Reduction::Mean,
        }
    }
}

#[located(site)]
impl TripletMarginWithDistanceLoss {
    /// The loss with [`PairwiseDistance`].
    #[must_use]
    pub fn new() -> TripletMarginWithDistanceLoss {
        TripletMarginWithDistanceLoss::default()
    }

    /// The distance of two batches of vectors.
    #[must_use]
    pub fn distance(
        self,
        distance: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> TripletMarginWithDistanceLoss {
        TripletMarginWithDistanceLoss { distance_function: None, own: Some(Box::new(distance)), ..self }
    }

    /// The margin, above 0: 1 by default.
    #[must_use]
    pub fn margin(self, margin: f64) -> TripletMarginWithDistanceLoss {
        TripletMarginWithDistanceLoss { margin, ..self }
    }

    /// Whether to use the distance between positive and negative if it is smaller (Balntas et al., 2016).
    #[must_use]
    pub fn swap(self, swap: bool) -> TripletMarginWithDistanceLoss {
        TripletMarginWithDistanceLoss { swap, ..self }
    }

    /// How elements are combined: [`Reduction::Mean`] by default.
    #[must_use]
    pub fn reduction(self, reduction: Reduction) -> TripletMarginWithDistanceLoss {
        TripletMarginWithDistanceLoss { reduction, ..self }
    }

    /// The loss for an anchor, a positive (similar) and a negative (dissimilar) sample, of whatever shape the distance takes.
    ///
    /// # Errors
    /// If the margin is not above 0, the numbers of dimensions differ, or on any error of the distance.
    pub fn forward(&self, anchor: &Tensor, positive: &Tensor, negative: &Tensor) -> Result<Tensor> {
        const OP: &str = "TripletMarginWithDistanceLoss";
        if self.margin.is_nan() || self.margin <= 0.0 {
            return Err(Error::argument(OP, format!("the margin is {}; it must be above 0", self.margin)));
        }
        same_rank(OP, anchor, positive, negative)?;
        let distance = |a: &Tensor, b: &Tensor| match (&self.own, &self.distance_function) {
            (Some(own), _) => own(a, b),
            (None, Some(pairwise)) => pairwise.forward(a, b),
            (None, None) => PairwiseDistance::new().forward(a, b),
        };
        let near = distance(anchor, positive)?;
        let mut far = distance(anchor, negative)?;
        if self.swap {
            far = far.minimum(&distance(positive, negative)?)?;
        }
        reduced(near.sub(&far)?.add(self.margin)?.clamp_min(0.0)?, self.reduction)
    }
}

/// Refuses samples of a triplet with different numbers of dimensions, which would broadcast.
fn same_rank(op: &'static str, anchor: &Tensor, positive: &Tensor, negative: &Tensor) -> Result<()> {
    match [positive, negative].into_iter().find(|other| other.rank() != anchor.rank()) {
        Some(other) => Err(Error::shapes(op, anchor.shape(), other.shape(), "they must have equally many dimensions")),
        None => Ok(()),
    }
}

/// Scores as `[N, C]`, and whether they were those of a single sample.
fn as_batch(op: &'static str, input: &Tensor) -> Result<(Tensor, bool)> {
    match input.rank() {
        1 => Ok((input.unsqueeze(0)?, true)),
        2 => Ok((input.clone(), false)),
        _ => Err(Error::shape(op, "scores [N, C] or [C]", input.shape())),
    }
}

/// Reduces the losses of samples; for a single sample without a batch, the loss is a scalar.
fn of_samples(losses: Tensor, single: bool, reduction: Reduction) -> Result<Tensor> {
    let losses = if single { losses.squeeze(0)? } else { losses };
    reduced(losses, reduction)
}

#[located(site)]
impl MultiMarginLoss {
    /// The loss for scores `[N, C]` or `[C]` and class indices (`i64`), `[N]` or a single one.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, a class index is out of range, or `p` is neither 1 nor 2.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("multi_margin_loss", [input, target], [], |[input, target], []| {
            const OP: &str = "MultiMarginLoss";
            if !matches!(self.p, 1 | 2) {
                return Err(Error::argument(OP, format!("p is {}; it must be 1 or 2", self.p)));
            }
            let (scores, single) = as_batch(OP, input)?;
            let (n, classes) = scores.dims2()?;
            if target.numel() != n || target.rank() > 1 {
                return Err(Error::shapes(OP, input.shape(), target.shape(), "a class index for each sample"));
            }
            let target = target.reshape([n, 1])?;
            let own = scores.gather(1, &target)?;
            let mut closer = scores.sub(&own)?.add(self.margin)?.clamp_min(0.0)?;
            if self.p == 2 {
                closer = closer.square()?;
            }
            if let Some(weight) = &self.weight {
                closer = closer.mul(&weight.index_select(0, &target.reshape([n])?)?.unsqueeze(1)?)?;
            }
            let is_own = Tensor::arange(0, classes as i64, scores.device())?.eq(&target)?;
            let losses = is_own.where_cond(0.0, &closer)?.sum(1)?.div(classes as f64)?;
            of_samples(losses, single, self.reduction)
        })
    }
}

#[located(site)]
impl MultiLabelMarginLoss {
    /// The loss for scores `[N, C]` or `[C]` and class indices (`i64`) of the same shape: a sample's classes, then -1.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit, or a class index is out of range.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("multilabel_margin_loss", [input, target], [], |[input, target], []| {
            const OP: &str = "MultiLabelMarginLoss";
            same_shape(OP, input, target)?;
            let (scores, single) = as_batch(OP, input)?;
            let (target, _) = as_batch(OP, target)?;
            let classes = scores.size(1)?;
            // Indices after the first -1 are ignored.
            let counts = target.lt(0)?.to_dtype(DType::I64)?.cumsum(1)?.eq(0)?;
            let index = counts.where_cond(&target, 0i64)?;
            let marks = scores.zeros_like()?.detach().scatter_add(1, &index, &counts.to_dtype(scores.dtype())?)?;
            let is_other = marks.eq(0.0)?;
            let own = scores.gather(1, &index)?;
            // Compares each of a sample's classes with each other class.
            let closer = scores.unsqueeze(1)?.sub(&own.unsqueeze(2)?)?.add(1.0)?.clamp_min(0.0)?;
            let pairs = counts.unsqueeze(2)?.logical_and(&is_other.unsqueeze(1)?)?;
            let losses = pairs.where_cond(&closer, 0.0)?.sum([1, 2])?.div(classes as f64)?;
            of_samples(losses, single, self.reduction)
        })
    }
}

#[located(site)]
impl MultiLabelSoftMarginLoss {
    /// The loss for logits `[N, C]` or `[C]` and targets in `[0, 1]` of the same shape.
    ///
    /// # Errors
    /// If shapes, dtypes or devices differ.
    pub fn forward(&self, input: &Tensor, target: &Tensor) -> Result<Tensor> {
        cast_operands("multilabel_soft_margin_loss", [input, target], [], |[input, target], []| {
            same_shape("MultiLabelSoftMarginLoss", input, target)?;
            let yes = target.mul(&input.log_sigmoid()?)?;
            let no = target.neg()?.add(1.0)?.mul(&input.neg()?.log_sigmoid()?)?;
            let mut losses = yes.add(&no)?.neg()?;
            if let Some(weight) = &self.weight {
                losses = losses.mul(&**weight)?;
            }
            reduced(losses.mean(-1)?, self.reduction)
        })
    }
}
