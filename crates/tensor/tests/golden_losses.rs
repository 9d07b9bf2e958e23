//! Every case of `tests/golden/losses.safetensors`, made by PyTorch: values and gradients.

mod common;

use common::{args::Args, suite::Suite};
use kiln_tensor::{ClassLoss, ClassLossInput, PointwiseLossKind, Reduction, Result, Tensor};

fn reduction(a: &Args) -> Reduction {
    match a.text("reduction") {
        Some("none") => Reduction::None,
        Some("sum") => Reduction::Sum,
        _ => Reduction::Mean,
    }
}

fn pointwise(kind: PointwiseLossKind, x: &[Tensor], a: &Args) -> Result<Vec<Tensor>> {
    let (weight, pos_weight) = (a.tensor("weight", x), a.tensor("pos_weight", x));
    Ok(vec![x[0].pointwise_loss(kind, &x[1], weight, pos_weight, reduction(a))?])
}

fn class(input: ClassLossInput, x: &[Tensor], a: &Args) -> Result<Vec<Tensor>> {
    let rule = ClassLoss {
        input,
        reduction: reduction(a),
        ignore_index: a.int("ignore_index").unwrap_or(-100),
        label_smoothing: a.float("label_smoothing").unwrap_or(0.0),
    };
    Ok(vec![x[0].class_loss(&x[1], a.tensor("weight", x), &rule)?])
}

#[test]
fn losses_are_pytorchs() {
    Suite {
        file: "losses.safetensors",
        ops: &[&[
            ("mse_loss", |x, a| pointwise(PointwiseLossKind::Mse, x, a)),
            ("l1_loss", |x, a| pointwise(PointwiseLossKind::L1, x, a)),
            ("binary_cross_entropy_with_logits", |x, a| pointwise(PointwiseLossKind::BceWithLogits, x, a)),
            ("nll_loss", |x, a| class(ClassLossInput::LogProbs, x, a)),
            ("cross_entropy", |x, a| class(ClassLossInput::Logits, x, a)),
        ]],
        absent: &[
            ("smooth_l1_loss", "not among the losses of Kiln"),
            ("huber_loss", "not among the losses of Kiln"),
            ("binary_cross_entropy", "Kiln has the stable form that takes logits only"),
        ],
        refused: &[("mse_loss_broadcast_mean", "a target of another shape is an error: it is almost always a mistake")],
        accepted: &[],
        different: &[],
    }
    .run();
}
