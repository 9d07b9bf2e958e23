//! How the losses are called with the arguments of golden cases.

use kiln_tensor::{ClassLoss, ClassLossInput, PointwiseLossKind, Reduction, Result, Tensor};

use crate::common::args::Args;

fn reduction(a: &Args) -> Reduction {
    match a.text("reduction") {
        Some("none") => Reduction::None,
        Some("sum") => Reduction::Sum,
        _ => Reduction::Mean,
    }
}

fn pointwise(kind: PointwiseLossKind, x: &[Tensor], a: &Args) -> Result<Tensor> {
    let (weight, pos_weight) = (a.tensor("weight", x), a.tensor("pos_weight", x));
    x[0].pointwise_loss(kind, &x[1], weight, pos_weight, reduction(a))
}

fn class(input: ClassLossInput, x: &[Tensor], a: &Args) -> Result<Tensor> {
    let rule = ClassLoss {
        input,
        reduction: reduction(a),
        ignore_index: a.int("ignore_index").unwrap_or(-100),
        label_smoothing: a.float("label_smoothing").unwrap_or(0.0),
    };
    x[0].class_loss(&x[1], a.tensor("weight", x), &rule)
}

table! {
    mse_loss => |x, a| pointwise(PointwiseLossKind::Mse, x, a)?;
    l1_loss => |x, a| pointwise(PointwiseLossKind::L1, x, a)?;
    binary_cross_entropy_with_logits => |x, a| pointwise(PointwiseLossKind::BceWithLogits, x, a)?;
    nll_loss => |x, a| class(ClassLossInput::LogProbs, x, a)?;
    cross_entropy => |x, a| class(ClassLossInput::Logits, x, a)?;
}
