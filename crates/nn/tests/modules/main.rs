//! Modules against PyTorch's own module tests (module_db), or samples of ours where it has none: how they print, names,
//! outputs, gradients of inputs and parameters, updated buffers. `tests/golden/make_modules.py` generates the samples.
//!
//! The samples in the repository are one of each form. All samples of all of PyTorch's modules are counted by
//!
//! ```text
//! python3 tests/golden/make_modules.py DIRECTORY
//! KILN_MODULES=DIRECTORY cargo test -p kiln-nn --test modules -- --ignored --nocapture module_samples
//! ```

#[path = "../common/mod.rs"]
mod common;
#[path = "../../../../tests/support/outcome.rs"]
mod outcome;

mod activation;
mod attention;
mod case;
mod convolution;
mod losses;
mod pad;
mod rnn;
mod shape;
mod upsample;

use case::{Case, Row, outcome};
use common::Golden;
use outcome::Outcome;
use std::collections::BTreeMap;

/// All modules with a row, a list for each file.
const ROWS: &[&[Row]] = &[
    activation::ROWS,
    attention::ROWS,
    convolution::AVERAGES,
    convolution::BATCH_NORMS,
    convolution::CONVOLUTIONS,
    convolution::FRACTIONAL,
    convolution::INSTANCE_NORMS,
    convolution::MAXIMA,
    convolution::ROWS,
    losses::ROWS,
    pad::ROWS,
    rnn::ROWS,
    losses::ADAPTIVE,
    losses::TRIPLETS,
    shape::BAGS,
    shape::PAIRS,
    shape::ROWS,
    shape::UNPOOLS,
    upsample::ROWS,
];

fn row(module: &str) -> Option<&'static Row> {
    ROWS.iter().flat_map(|rows| rows.iter()).find(|row| row.module == module)
}

/// What Kiln answers differently on purpose: the module, a part of what is reported, and why.
const UNLIKE: &[(&str, &str, &str)] = &[
    ("Hardsigmoid", "gradient of in0", "PyTorch multiplies by 1/6 as f32 has it"),
    (
        "PoissonNLLLoss",
        "gradient of in1",
        "of a count of 1 or less, to which the constant term is not added, PyTorch's gradient is NaN",
    ),
];

fn is_unlike(case: &Case<'_>, outcome: &Outcome) -> bool {
    UNLIKE.iter().any(|(module, reports, _)| *module == case.module() && outcome.to_string().contains(reports))
}

/// Every module with a row has samples, and all agree.
#[test]
fn checked_in_samples_agree() {
    let golden = Golden::open("modules.safetensors");
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut failures = Vec::new();
    for case in &golden.cases {
        let case = Case::new(&golden, case);
        let Some(row) = row(case.module()) else {
            failures.push(format!("{} has no row", case.module()));
            continue;
        };
        *seen.entry(row.module).or_default() += 1;
        let outcome = outcome(&case, row);
        if !matches!(outcome, Outcome::Agrees) && !is_unlike(&case, &outcome) {
            failures.push(format!("{}: {outcome}", case.title()));
        }
    }
    for row in ROWS.iter().flat_map(|rows| rows.iter()) {
        if !seen.contains_key(row.module) {
            failures.push(format!("no sample of {} is checked in", row.module));
        }
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), golden.cases.len(), failures.join("\n"));
}

/// The list from which the samples are chosen is that of the rows.
#[test]
fn names_are_listed_for_the_script() {
    let mut names: Vec<&str> = ROWS.iter().flat_map(|rows| rows.iter()).map(|row| row.module).collect();
    names.sort_unstable();
    assert_eq!(names.join("\n") + "\n", include_str!("names.txt"), "crates/nn/tests/modules/names.txt");
}

#[test]
#[ignore = "needs all samples, which are large"]
fn module_samples() {
    let folder = std::env::var("KILN_MODULES").expect("KILN_MODULES names the folder");
    for dtype in ["float32", "float64"] {
        let golden = Golden::open(&format!("{folder}/{dtype}.safetensors"));
        let (mut whole, mut totals) = (BTreeMap::<&str, bool>::new(), [0; 4]);
        for case in &golden.cases {
            let case = Case::new(&golden, case);
            let outcome = row(case.module()).map_or(Outcome::Lacks("module".to_owned()), |row| outcome(&case, row));
            let kind = match &outcome {
                Outcome::Agrees => 0,
                other if is_unlike(&case, other) => 0,
                Outcome::Differs(_) => 1,
                Outcome::Refused(_) => 2,
                Outcome::Lacks(_) => 3,
            };
            totals[kind] += 1;
            *whole.entry(case.module()).or_insert(true) &= kind == 0;
            if kind > 0 && row(case.module()).is_some() {
                println!("{}: {outcome}", case.title());
            }
        }
        let agree = whole.values().filter(|&&all| all).count();
        println!("{dtype}: modules whose samples all agree: {agree} of {}", whole.len());
        let missing: Vec<&str> = whole.iter().filter(|(_, all)| !**all).map(|(name, _)| *name).collect();
        println!("others: {}", missing.join(" "));
        let [agree, wrong, refused, lacking] = totals;
        println!("samples: {agree} agree, {wrong} wrong, {refused} errors, {lacking} not expressible");
    }
}
