//! The multilayer perceptron of the quickstart tutorial.

use kiln_models::Mlp;
use kiln_nn::{Module, ModuleTree};
use kiln_tensor::{Device, Tensor};

#[test]
fn prints_as_a_tree() {
    let text = Mlp::new(&[784, 512, 512, 10]).unwrap().to_string();
    let want = "Mlp(\n  (flatten): Flatten(start_dim=1, end_dim=-1)\n  (linear_relu_stack): Sequential(\n    \
                (0): Linear(in_features=784, out_features=512, bias=True)\n    (1): ReLU()\n    \
                (2): Linear(in_features=512, out_features=512, bias=True)\n    (3): ReLU()\n    \
                (4): Linear(in_features=512, out_features=10, bias=True)\n  )\n)";
    assert_eq!(text, want);
}

#[test]
fn images_become_logits() {
    let model = Mlp::new(&[12, 5, 3]).unwrap();
    let logits = model.forward(&Tensor::rand([7, 1, 3, 4], Device::Cpu).unwrap()).unwrap();
    assert_eq!(logits.dims(), [7, 3]);
    assert!(model.forward(&Tensor::rand([7, 5], Device::Cpu).unwrap()).is_err());
    assert!(Mlp::new(&[3]).is_err());
    assert_eq!(model.named_parameters().len(), 4);
}
