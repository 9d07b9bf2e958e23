//! Tensors print as in PyTorch (`tests/golden/display.json`).

use crate::common::{golden, values};
use kiln_tensor::{
    DType, Device, Element, Result, Scalar, Tensor,
    autograd::{BackwardCtx, Function, FunctionCtx, apply},
};
use serde_json::Value;

/// A function whose node has a given name, for printing it. Kiln writes `Backward` after the name, so the
/// digits that PyTorch has there stand before it; the test swaps them.
struct Named(String);

impl Function for Named {
    fn name(&self) -> &str {
        &self.0
    }
    fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, _: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.clone())])
    }
}

/// The tensor that a golden entry describes, and its expected text; `None` for a dtype Kiln has not.
fn entry(entry: &Value) -> Option<(Tensor, String)> {
    fn make<T: Element>(entry: &Value, shape: &[usize]) -> Result<Tensor> {
        let values: Vec<T> = match entry.get("arange") {
            Some(arange) => {
                let (scale, shift) = (values::number(&arange["scale"]), values::number(&arange["shift"]));
                let count = shape.iter().product();
                (0..count).map(|i: usize| T::from_scalar(Scalar::Float(i as f64 * scale + shift))).collect()
            }
            None => entry["data"].as_array().unwrap().iter().map(|v| T::from_scalar(scalar(v))).collect(),
        };
        Tensor::from_vec(values, shape, Device::Cpu)
    }
    fn scalar(value: &Value) -> Scalar {
        match (value.as_i64(), value.as_bool()) {
            (Some(value), _) => Scalar::Int(value),
            (_, Some(value)) => Scalar::Bool(value),
            _ => Scalar::Float(values::number(value)),
        }
    }
    let dtype = values::dtype(entry["dtype"].as_str().unwrap())?;
    let shape: Vec<usize> = entry["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    let mut tensor = kiln_backend::dispatch_dtype!(dtype, T => make::<T>(entry, &shape)).unwrap();
    let mut want = entry["repr"].as_str().unwrap().to_owned();
    if entry["requires_grad"].as_bool().unwrap() {
        tensor = tensor.requires_grad_(true).unwrap();
    }
    if let Some(name) = entry["grad_fn"].as_str() {
        let (function, digit) = name.split_once("Backward").unwrap();
        let leaf = tensor.requires_grad_(true).unwrap();
        tensor = apply(Named(format!("{function}{digit}")), &[&leaf]).unwrap();
        want = want.replace(name, &format!("{function}{digit}Backward"));
    }
    Some((tensor, want))
}

#[test]
fn every_tensor_prints_as_in_pytorch() {
    let file = golden::json("display.json");
    let (mut failures, mut compared) = (String::new(), 0);
    for case in file["tensors"].as_array().unwrap() {
        let Some((tensor, want)) = entry(case) else { continue };
        let got = tensor.to_string();
        compared += 1;
        if got != want {
            failures += &format!("\n{}: got\n{got}\nexpected\n{want}\n", case["name"]);
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(compared > 200, "only {compared} entries compared");
}

#[test]
fn a_view_prints_its_own_elements() -> Result<()> {
    let x = Tensor::arange(0, 3000, Device::Cpu)?.reshape([30, 100])?.t()?.narrow(0, 1, 90)?;
    assert_eq!(
        x.to_string(),
        "tensor([[   1,  101,  201,  ..., 2701, 2801, 2901],\n        \
                 [   2,  102,  202,  ..., 2702, 2802, 2902],\n        \
                 [   3,  103,  203,  ..., 2703, 2803, 2903],\n        \
                 ...,\n        \
                 [  88,  188,  288,  ..., 2788, 2888, 2988],\n        \
                 [  89,  189,  289,  ..., 2789, 2889, 2989],\n        \
                 [  90,  190,  290,  ..., 2790, 2890, 2990]])"
    );
    Ok(())
}

/// If more than the corners were copied, this would need terabytes.
#[test]
fn only_what_is_printed_is_fetched() -> Result<()> {
    let huge = Tensor::zeros([1, 1], DType::U8)?.expand([1 << 20, 1 << 20])?;
    assert!(huge.to_string().starts_with("tensor([[0, 0, 0,  ..., 0, 0, 0],"));
    Ok(())
}

#[test]
fn debug_is_one_line_without_values() -> Result<()> {
    let x = Tensor::zeros([2, 3], Device::Cpu)?.requires_grad_(true)?;
    assert_eq!(format!("{x:?}"), "Tensor([2, 3] f32 cpu requires_grad=True)");
    assert_eq!(format!("{:?}", x.t()?), "Tensor([3, 2] f32 cpu grad_fn=<TBackward0>)");
    Ok(())
}
