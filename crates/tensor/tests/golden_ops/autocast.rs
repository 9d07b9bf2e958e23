//! The dtypes of results in a region of autocast against PyTorch's, for every operation with a golden case.

use std::collections::BTreeSet;

use kiln_tensor::{DType, Tensor, autocast};
use serde_json::Value;

use crate::suite::{self, Miss};

/// Operations whose result has another dtype than on PyTorch's CUDA devices, and why.
const UNLIKE: &[(&str, &str)] = &[("mean", "a mean is computed as a sum is")];

fn dtype(name: &str) -> DType {
    DType::ALL.into_iter().find(|dtype| dtype.torch_name() == name).unwrap()
}

/// The operands of a case, its floats in the dtypes of a variant such as `bf16, f32`.
fn operands(inputs: &[Tensor], variant: &str) -> Vec<Tensor> {
    let named = |name: &str| {
        dtype(match name {
            "f16" => "float16",
            "bf16" => "bfloat16",
            "f32" => "float32",
            _ => "float64",
        })
    };
    let (first, others) = variant.split_once(", ").unwrap_or((variant, variant));
    let mut dtypes = std::iter::once(first).chain(std::iter::repeat(others)).map(named);
    let convert = |x: &Tensor| {
        if x.dtype().is_float() { x.detach().to_dtype(dtypes.next().unwrap()).unwrap() } else { x.clone() }
    };
    inputs.iter().map(convert).collect()
}

#[test]
fn results_have_the_dtypes_of_pytorchs_autocast() {
    let golden: Value = serde_json::from_str(include_str!("../../../../tests/golden/autocast.json")).unwrap();
    let rows = crate::tables();
    let (mut wrong, mut compared, mut unlike) = (Vec::new(), 0, BTreeSet::new());
    for (op, entry) in golden["ops"].as_object().unwrap() {
        let Some(row) = rows.iter().find(|row| row.name() == op) else { continue };
        let case = suite::case(op, entry["case"].as_str().unwrap());
        for (variant, want) in entry["cuda"].as_object().unwrap() {
            // An error in PyTorch: of dtypes that differ, or because values decide over the shape.
            let Some(want) = want.as_str() else { continue };
            let want: Vec<DType> = want.split(' ').map(dtype).collect();
            let inputs = operands(&case.inputs, variant);
            let got = match autocast(DType::BF16, || Ok((row.call)(&inputs, &case.args))).unwrap() {
                Ok(outputs) => outputs.iter().map(Tensor::dtype).collect::<Vec<_>>(),
                // Operands that the operation does not take without autocast, either: it converts neither.
                Err(Miss::Error(_)) if (row.call)(&inputs, &case.args).is_err() => continue,
                Err(Miss::Error(error)) => {
                    wrong.push(format!("{op} of {variant}: {error}"));
                    continue;
                }
                Err(Miss::Lacks(_)) => continue,
            };
            compared += 1;
            if got != want {
                let of_variant = format!("{op} of {variant}");
                if let Some((name, _)) = UNLIKE.iter().find(|(name, _)| name == op || *name == of_variant) {
                    unlike.insert(*name);
                } else {
                    wrong.push(format!("{op} of {variant} ({}): {got:?}, PyTorch has {want:?}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 1350, "only {compared} were compared");
    let unused: Vec<_> = UNLIKE.iter().filter(|(op, _)| !unlike.contains(op)).collect();
    assert!(unused.is_empty(), "as in PyTorch: {unused:?}");
}
