//! Losses.

use kiln_nn::{BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss, NLLLoss};
use kiln_tensor::{Reduction, Tensor};

use crate::case::{Case, Miss, Row, Run};

pub fn reduction(case: &Case<'_>) -> Reduction {
    match case.option("reduction") {
        Some("none") => Reduction::None,
        Some("sum") => Reduction::Sum,
        _ => Reduction::Mean,
    }
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
