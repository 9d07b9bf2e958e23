//! Folds and stratified splits against scikit-learn's.

use crate::checkout;
use kiln_data::{Samples, k_fold, stratified_k_fold, stratified_split};
use kiln_tensor::Result;
use serde_json::{Value, json};

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(checkout::path("tests/golden/splits.json")).unwrap()).unwrap()
}

fn samples(len: usize) -> Samples<usize> {
    (0..len).collect()
}

fn labels(case: &Value) -> Vec<i64> {
    serde_json::from_value(case["labels"].clone()).unwrap()
}

fn size(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap() as usize
}

#[test]
fn folds_hold_out_the_same_samples() -> Result<()> {
    let golden = golden();
    for case in golden["folds"].as_array().unwrap() {
        let folds = k_fold(samples(size(case, "len")), size(case, "k"), None)?;
        let valid: Vec<&[usize]> = folds.iter().map(|fold| fold.valid.indices()).collect();
        assert_eq!(json!(valid), case["valid"]);
    }
    for case in golden["stratified"].as_array().unwrap() {
        let labels = labels(case);
        let folds = stratified_k_fold(samples(labels.len()), &labels, size(case, "k"), None)?;
        let valid: Vec<&[usize]> = folds.iter().map(|fold| fold.valid.indices()).collect();
        assert_eq!(json!(valid), case["valid"], "{labels:?}");
    }
    Ok(())
}

#[test]
fn stratified_parts_have_as_many_of_each_class() -> Result<()> {
    for case in golden()["splits"].as_array().unwrap() {
        let (labels, first) = (labels(case), size(case, "first"));
        let mut classes = labels.clone();
        classes.sort_unstable();
        classes.dedup();
        let parts = stratified_split(samples(labels.len()), &labels, [first, labels.len() - first], 5)?;
        let count = |part: &[usize], class: i64| part.iter().filter(|sample| labels[**sample] == class).count();
        let counts = parts
            .each_ref()
            .map(|part| classes.iter().map(|class| count(part.indices(), *class)).collect::<Vec<usize>>());
        assert_eq!(json!(counts), case["counts"]);
    }
    Ok(())
}
