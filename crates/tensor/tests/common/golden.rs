//! Reads the files of `tests/golden`, which PyTorch generated. The README there describes them.

#[path = "../../../../tests/support/checkout.rs"]
mod checkout;
#[path = "../../../../tests/support/suite_device.rs"]
mod suite_device;

use kiln_tensor::{Element, Tensor};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use super::args::Args;
pub use suite_device::suite_device;

/// A file of `tests/golden`, or one elsewhere by its whole path.
fn read(file: &str) -> Vec<u8> {
    let path = checkout::path("tests/golden").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A JSON file.
pub fn json(file: &str) -> Value {
    serde_json::from_slice(&read(file)).unwrap()
}

/// One call of a PyTorch function.
pub struct Case {
    pub name: String,
    pub op: String,
    pub args: Args,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Tensor>,
    /// The gradient that flows into each output; `None` where none can.
    pub cotangents: Vec<Option<Tensor>>,
    /// The gradient of each input; `None` where PyTorch gives none.
    pub grads: Vec<Option<Tensor>>,
    /// The cotangents of the gradients of the inputs, and the gradients of gradients for them. `None` where there are
    /// none.
    pub second_cotangents: Vec<Option<Tensor>>,
    pub second_grads: Vec<Option<Tensor>>,
    /// In half precision, and of linear algebra among all samples, the outputs, gradients and gradients of gradients that
    /// PyTorch computes in f64 from the same inputs.
    pub exact_outputs: Vec<Option<Tensor>>,
    pub exact_grads: Vec<Option<Tensor>>,
    pub exact_second_grads: Vec<Option<Tensor>>,
    /// What Kiln does not have and the case needs; then it has no tensors.
    pub lacks: Option<String>,
}

impl Case {
    /// A case without tensors.
    fn lacking(name: String, case: &Value, lacks: Option<String>) -> Case {
        let op = case["op"].as_str().unwrap().to_owned();
        let args = Args::new(case["args"].clone());
        let (inputs, outputs, exact_outputs) = (Vec::new(), Vec::new(), Vec::new());
        let (cotangents, grads, exact_grads) = (Vec::new(), Vec::new(), Vec::new());
        let (second_cotangents, second_grads, exact_second_grads) = (Vec::new(), Vec::new(), Vec::new());
        Case {
            name,
            op,
            args,
            inputs,
            outputs,
            cotangents,
            grads,
            second_cotangents,
            second_grads,
            exact_outputs,
            exact_grads,
            exact_second_grads,
            lacks,
        }
    }
}

/// The cases of a `.safetensors` file, in its order.
pub fn cases(file: &str) -> Vec<Case> {
    let bytes = read(file);
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let listed = metadata.metadata().as_ref().unwrap()["cases"].clone();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
    listed
        .into_iter()
        .map(|case| {
            let name = case["name"].as_str().unwrap().to_owned();
            let too_many =
                |key: &str| tensors.tensor(&format!("{name}/{key}")).is_ok_and(|view| view.shape().len() > 8);
            let lacks = if too_many("in0") || too_many("out0") {
                Some("more than 8 dimensions".to_owned())
            } else {
                case["lacks"].as_str().map(str::to_owned)
            };
            if lacks.is_some() {
                return Case::lacking(name, &case, lacks);
            }
            let get = |kind: &str, i: usize| tensors.tensor(&format!("{name}/{kind}{i}")).ok().map(|view| load(&view));
            let all = |kind: &str| (0..).map_while(|i| get(kind, i)).collect::<Vec<_>>();
            let (inputs, outputs) = (all("in"), all("out"));
            Case {
                op: case["op"].as_str().unwrap().to_owned(),
                args: Args::new(case["args"].clone()),
                lacks,
                exact_outputs: (0..outputs.len()).map(|i| get("ref_out", i)).collect(),
                exact_grads: (0..inputs.len()).map(|i| get("ref_grad", i)).collect(),
                exact_second_grads: (0..inputs.len()).map(|i| get("ref_second", i)).collect(),
                cotangents: (0..outputs.len()).map(|i| get("cotangent", i)).collect(),
                grads: (0..inputs.len()).map(|i| get("grad", i)).collect(),
                second_cotangents: (0..inputs.len()).map(|i| get("second_cotangent", i)).collect(),
                second_grads: (0..inputs.len()).map(|i| get("second", i)).collect(),
                inputs,
                outputs,
                name,
            }
        })
        .collect()
}

fn load(view: &TensorView) -> Tensor {
    fn values<T: Element + bytemuck::AnyBitPattern>(view: &TensorView) -> Tensor {
        Tensor::from_vec(bytemuck::pod_collect_to_vec::<u8, T>(view.data()), view.shape(), suite_device()).unwrap()
    }
    match view.dtype() {
        Dtype::F64 => values::<f64>(view),
        Dtype::F32 => values::<f32>(view),
        Dtype::F16 => values::<half::f16>(view),
        Dtype::BF16 => values::<half::bf16>(view),
        Dtype::I64 => values::<i64>(view),
        Dtype::I32 => values::<i32>(view),
        Dtype::U8 => values::<u8>(view),
        Dtype::BOOL => {
            let flags: Vec<bool> = view.data().iter().map(|&byte| byte != 0).collect();
            Tensor::from_vec(flags, view.shape(), suite_device()).unwrap()
        }
        other => panic!("golden files hold no {other:?}"),
    }
}
