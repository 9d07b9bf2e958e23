//! Rows of the module tests: losses.

use kiln_nn::{
    AdaptiveLogSoftmaxOptions, AdaptiveLogSoftmaxWithLoss, BCELoss, BCEWithLogitsLoss, CTCLoss, CosineEmbeddingLoss,
    CrossEntropyLoss, GaussianNLLLoss, HingeEmbeddingLoss, HuberLoss, KLDivLoss, L1Loss, MSELoss, MarginRankingLoss,
    MultiLabelMarginLoss, MultiLabelSoftMarginLoss, MultiMarginLoss, NLLLoss, PoissonNLLLoss, SmoothL1Loss,
    SoftMarginLoss, TripletMarginLoss, TripletMarginWithDistanceLoss,
};
use kiln_tensor::{Reduction, Tensor};

use crate::case::{Case, Miss, Row, Run, held};

pub fn reduction(case: &Case<'_>) -> Reduction {
    match case.option("reduction") {
        Some("none") => Reduction::None,
        Some("sum") => Reduction::Sum,
        _ => Reduction::Mean,
    }
}

/// The lengths of a CTC loss: plain numbers, or a tensor.
fn lengths(case: &Case<'_>, i: usize) -> Result<Vec<usize>, Miss> {
    let values = case.forward_value(i);
    if values.is_array() {
        return Ok(serde_json::from_value(values.clone()).unwrap());
    }
    let values = case.x(i)?.to_dtype(kiln_tensor::DType::I64)?.flatten_all()?.to_vec::<i64>()?;
    Ok(values.into_iter().map(|n| n as usize).collect())
}

fn run(out: kiln_tensor::Result<Tensor>) -> Result<Run, Miss> {
    Ok(Run { model: None, outputs: vec![out?] })
}

/// A loss with an optional weight.
macro_rules! weighted {
    ($case:ident, $loss:expr) => {
        match $case.tensor("weight") {
            Some(weight) => $loss.weight(weight),
            None => $loss,
        }
    };
}

macro_rules! loss_rows {
    ($($module:ident |$case:ident, $input:ident, $target:ident| $forward:expr;)*) => {
        &[$(Row {
            module: stringify!($module),
            run: |$case| {
                let ($input, $target) = ($case.x(0)?, $case.x(1)?);
                run($forward)
            },
        }),*]
    };
}

pub const ROWS: &[Row] = loss_rows! {
    BCELoss |case, x, y| weighted!(case, BCELoss::new().reduction(reduction(case))).forward(&x, &y);
    CTCLoss |case, x, y| {
        let loss = CTCLoss::new().reduction(reduction(case)).blank(case.size("blank", 0));
        let loss = loss.zero_infinity(case.flag("zero_infinity", false));
        loss.forward(&x, &y, &lengths(case, 2)?, &lengths(case, 3)?)
    };
    CosineEmbeddingLoss |case, x, y| {
        let loss = CosineEmbeddingLoss::new().reduction(reduction(case)).margin(case.float("margin", 0.0));
        loss.forward(&x, &y, &case.x(2)?)
    };
    GaussianNLLLoss |case, x, y| {
        let loss = GaussianNLLLoss::new().reduction(reduction(case)).full(case.flag("full", false));
        loss.eps(case.float("eps", 1e-6)).forward(&x, &y, &case.x(2)?)
    };
    HingeEmbeddingLoss |case, x, y| {
        HingeEmbeddingLoss::new().reduction(reduction(case)).margin(case.float("margin", 1.0)).forward(&x, &y)
    };
    HuberLoss |case, x, y| {
        HuberLoss::new().reduction(reduction(case)).delta(case.float("delta", 1.0)).forward(&x, &y)
    };
    KLDivLoss |case, x, y| {
        let batch_mean = case.option("reduction") == Some("batchmean");
        let loss = KLDivLoss::new().reduction(reduction(case)).batch_mean(batch_mean);
        loss.log_target(case.flag("log_target", false)).forward(&x, &y)
    };
    MarginRankingLoss |case, x, y| {
        let loss = MarginRankingLoss::new().reduction(reduction(case)).margin(case.float("margin", 0.0));
        loss.forward(&x, &y, &case.x(2)?)
    };
    MultiLabelMarginLoss |case, x, y| MultiLabelMarginLoss::new().reduction(reduction(case)).forward(&x, &y);
    MultiLabelSoftMarginLoss |case, x, y| {
        weighted!(case, MultiLabelSoftMarginLoss::new().reduction(reduction(case))).forward(&x, &y)
    };
    MultiMarginLoss |case, x, y| {
        let loss = MultiMarginLoss::new().reduction(reduction(case)).p(case.int("p", 1) as u32);
        weighted!(case, loss.margin(case.float("margin", 1.0))).forward(&x, &y)
    };
    PoissonNLLLoss |case, x, y| {
        let loss = PoissonNLLLoss::new().reduction(reduction(case)).log_input(case.flag("log_input", true));
        loss.full(case.flag("full", false)).eps(case.float("eps", 1e-8)).forward(&x, &y)
    };
    SmoothL1Loss |case, x, y| {
        SmoothL1Loss::new().reduction(reduction(case)).beta(case.float("beta", 1.0)).forward(&x, &y)
    };
    TripletMarginLoss |case, x, y| {
        let loss = TripletMarginLoss::new().reduction(reduction(case)).margin(case.float("margin", 1.0));
        let loss = loss.p(case.float("p", 2.0)).eps(case.float("eps", 1e-6)).swap(case.flag("swap", false));
        loss.forward(&x, &y, &case.x(2)?)
    };
    SoftMarginLoss |case, x, y| SoftMarginLoss::new().reduction(reduction(case)).forward(&x, &y);
    BCEWithLogitsLoss |case, x, y| {
        weighted!(case, BCEWithLogitsLoss::new().reduction(reduction(case))).forward(&x, &y)
    };
    CrossEntropyLoss |case, x, y| {
        let loss = CrossEntropyLoss::new().reduction(reduction(case)).ignore_index(case.int("ignore_index", -100));
        weighted!(case, loss.label_smoothing(case.float("label_smoothing", 0.0))).forward(&x, &y)
    };
    L1Loss |case, x, y| L1Loss::new().reduction(reduction(case)).forward(&x, &y);
    MSELoss |case, x, y| MSELoss::new().reduction(reduction(case)).forward(&x, &y);
    NLLLoss |case, x, y| {
        let loss = NLLLoss::new().reduction(reduction(case)).ignore_index(case.int("ignore_index", -100));
        weighted!(case, loss).forward(&x, &y)
    };
};

/// With parameters.
pub const ADAPTIVE: &[Row] = &[Row {
    module: "AdaptiveLogSoftmaxWithLoss",
    run: |case| {
        let options = AdaptiveLogSoftmaxOptions::default().div_value(case.float("div_value", 4.0));
        let options = options.head_bias(case.flag("head_bias", false));
        let cutoffs: Vec<usize> = serde_json::from_value(case.arg("cutoffs").unwrap().clone()).unwrap();
        let (features, classes) = (case.size("in_features", 0), case.size("n_classes", 0));
        let model = case.loaded(AdaptiveLogSoftmaxWithLoss::with_options(features, classes, &cutoffs, options)?)?;
        let (output, loss) = model.forward(&case.x(0)?, &case.x(1)?)?;
        held(model, vec![output, loss])
    },
}];

pub const TRIPLETS: &[Row] = &[Row {
    module: "TripletMarginWithDistanceLoss",
    run: |case| {
        let loss = TripletMarginWithDistanceLoss::new().reduction(reduction(case)).margin(case.float("margin", 1.0));
        let loss = case.loaded(loss.swap(case.flag("swap", false)))?;
        let outputs = vec![loss.forward(&case.x(0)?, &case.x(1)?, &case.x(2)?)?];
        Ok(Run { model: Some(Box::new(loss)), outputs })
    },
}];
