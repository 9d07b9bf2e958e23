//! The autograd tutorial (<https://docs.pytorch.org/tutorials/beginner/basics/autogradqs_tutorial.html>)
//! and its blitz sibling, step by step. The numbers are PyTorch's, from `tests/golden/autograd.json`.

use crate::common::{self, compare::floats, golden, values};
use kiln_tensor::{
    DType, Device, PointwiseLossKind, Reduction, Result, Tensor,
    autograd::{self, BackwardOptions, is_grad_enabled},
    no_grad, no_grad_guard,
};
use serde_json::Value;

const RETAIN: BackwardOptions = BackwardOptions::retain_graph();

fn tutorial(key: &str) -> Value {
    golden::json("autograd.json")["tutorial"][key].clone()
}

/// A tensor of nested JSON lists.
fn tensor(value: &Value) -> Tensor {
    fn collect(value: &Value, out: &mut Vec<f32>) {
        match value {
            Value::Array(rows) => rows.iter().for_each(|row| collect(row, out)),
            number => out.push(values::number(number) as f32),
        }
    }
    let (mut values, mut shape, mut at) = (Vec::new(), Vec::new(), value);
    collect(value, &mut values);
    while let Value::Array(rows) = at {
        shape.push(rows.len());
        at = &rows[0];
    }
    Tensor::from_vec(values, shape, Device::Cpu).unwrap()
}

#[track_caller]
fn assert_equal(got: &Tensor, want: &Value) {
    common::compare::assert_close(got, &tensor(want));
}

/// x, y, w, b of the tutorial's one-layer network.
struct OneLayer {
    x: Tensor,
    y: Tensor,
    w: Tensor,
    b: Tensor,
}

impl OneLayer {
    fn new(golden: &Value) -> Result<OneLayer> {
        Ok(OneLayer {
            x: Tensor::ones(5, Device::Cpu)?,
            y: Tensor::zeros(3, Device::Cpu)?,
            w: tensor(&golden["w"]).requires_grad_(true)?,
            b: tensor(&golden["b"]).requires_grad_(true)?,
        })
    }

    fn z(&self) -> Result<Tensor> {
        self.x.matmul(&self.w)?.add(&self.b)
    }

    fn loss(&self) -> Result<Tensor> {
        self.z()?.pointwise_loss(PointwiseLossKind::BceWithLogits, &self.y, None, None, Reduction::Mean)
    }
}

#[test]
fn computational_graph_of_one_layer() -> Result<()> {
    let golden = tutorial("one_layer");
    let net = OneLayer::new(&golden)?;
    let (z, loss) = (net.z()?, net.loss()?);
    assert_equal(&z, &golden["z"]);
    assert_equal(&loss, &golden["loss"]);
    assert_eq!(z.grad_fn().unwrap().name(), "AddBackward0");
    assert_eq!(loss.grad_fn().unwrap().name(), "BinaryCrossEntropyWithLogitsBackward0");
    assert!(net.w.grad_fn().is_none() && net.w.is_leaf() && !z.is_leaf());
    Ok(())
}

#[test]
fn gradients_of_one_layer() -> Result<()> {
    let golden = tutorial("one_layer");
    let net = OneLayer::new(&golden)?;
    assert!(net.w.grad().is_none() && net.b.grad().is_none(), "no gradient before backward");
    net.loss()?.backward()?;
    let (w_grad, b_grad) = (net.w.grad().unwrap(), net.b.grad().unwrap());
    assert_equal(&w_grad, &golden["w_grad"]);
    assert_equal(&b_grad, &golden["b_grad"]);
    assert_eq!(w_grad.to_string(), golden["w_grad_repr"]);
    assert_eq!(b_grad.to_string(), golden["b_grad_repr"]);
    // Every row of w's is b's, which is sigmoid(z) / 3.
    let expected = no_grad(|| net.z()?.sigmoid()?.div(3))?;
    common::compare::assert_close(&b_grad, &expected);
    for row in 0..5 {
        assert_eq!(floats(&w_grad.select(0, row)?), floats(&b_grad));
    }
    assert!(net.x.grad().is_none() && net.y.grad().is_none(), "inputs did not ask for gradients");
    Ok(())
}

#[test]
fn requires_grad_at_creation_or_later() -> Result<()> {
    let at_creation = Tensor::zeros([2, 3], kiln_tensor::TensorOptions::new().requires_grad(true))?;
    let later = Tensor::zeros([2, 3], Device::Cpu)?;
    assert!(at_creation.requires_grad() && !later.requires_grad());
    assert!(!later.mul(2)?.requires_grad());
    later.set_requires_grad(true)?;
    assert!(later.requires_grad() && later.mul(2)?.requires_grad());
    later.set_requires_grad(false)?;
    assert!(!later.mul(2)?.requires_grad());
    let error = Tensor::zeros(2, DType::I64)?.requires_grad_(true).unwrap_err();
    assert!(error.to_string().contains("only floats"), "{error}");
    Ok(())
}

#[test]
fn only_leaves_keep_gradients_unless_retained() -> Result<()> {
    let facts = golden::json("autograd.json")["facts"].clone();
    let leaf = Tensor::ones(2, Device::Cpu)?.requires_grad_(true)?;
    let middle = leaf.mul(2)?;
    let kept = middle.mul(3)?;
    kept.retain_grad()?;
    kept.sum(())?.backward()?;
    assert_equal(&leaf.grad().unwrap(), &facts["leaf_grad"]);
    assert_equal(&kept.grad().unwrap(), &facts["retained_grad"]);
    assert!(middle.grad().is_none());
    assert_eq!(facts["leaf_is_leaf"], leaf.is_leaf());
    assert_eq!(facts["middle_is_leaf"], middle.is_leaf());
    assert_eq!(facts["detached_is_leaf"], middle.detach().is_leaf());
    assert_eq!(facts["no_grad_tensor_is_leaf"], Tensor::ones(2, Device::Cpu)?.is_leaf());
    assert!(middle.detach().shares_memory(&middle));
    Ok(())
}

#[test]
fn disabling_gradient_tracking() -> Result<()> {
    let golden = tutorial("one_layer");
    let net = OneLayer::new(&golden)?;
    assert!(net.z()?.requires_grad());
    let inside = no_grad(|| {
        assert!(!is_grad_enabled());
        net.z()
    })?;
    assert!(!inside.requires_grad() && inside.grad_fn().is_none());
    {
        let _guard = no_grad_guard();
        assert!(!net.z()?.requires_grad());
        assert!(kiln_tensor::enable_grad(|| net.z())?.requires_grad());
    }
    assert!(net.z()?.requires_grad(), "the guard restores the mode");
    assert!(!net.z()?.detach().requires_grad());
    // Also when the closure panics.
    let panicked = std::panic::catch_unwind(|| no_grad(|| panic!("on purpose")));
    assert!(panicked.is_err() && is_grad_enabled());
    Ok(())
}

#[test]
fn detach_shares_data() -> Result<()> {
    let x = Tensor::ones(3, Device::Cpu)?.requires_grad_(true)?;
    let detached = x.detach();
    detached.fill_(5)?;
    assert_eq!(x.to_vec::<f32>()?, [5.0; 3]);
    assert!(x.requires_grad() && !detached.requires_grad());
    Ok(())
}

#[test]
fn backward_twice_is_an_error_unless_retained() -> Result<()> {
    let net = OneLayer::new(&tutorial("one_layer"))?;
    let loss = net.loss()?;
    loss.backward_retain_graph()?;
    let once = net.w.grad().unwrap().copy()?;
    loss.backward()?;
    common::compare::assert_close(&net.w.grad().unwrap(), &once.mul(2)?);
    let error = loss.backward().unwrap_err().to_string();
    assert!(error.contains("second time") && error.contains("retain_graph"), "{error}");
    // Nodes that save nothing can be walked again, as in PyTorch.
    let sum = net.w.sum(())?;
    sum.backward()?;
    sum.backward()
}

#[test]
fn jacobian_products_of_eye() -> Result<()> {
    for (key, rows) in [("eye_5", 5_usize), ("eye_4_5", 4)] {
        let golden = tutorial(key);
        let inp = Tensor::eye([rows, 5], Device::Cpu)?.requires_grad_(true)?;
        let out = inp.add(1)?.pow(2)?.t()?;
        assert_eq!(out.grad_fn().unwrap().name(), golden["out_grad_fn"]);
        assert_eq!(inp.add(1)?.pow(2)?.grad_fn().unwrap().name(), "PowBackward0");
        let ones = out.ones_like()?;
        out.backward_with(&ones, RETAIN)?;
        assert_equal(&inp.grad().unwrap(), &golden["first"]);
        assert_eq!(inp.grad().unwrap().to_string(), golden["first_repr"]);
        out.backward_with(&ones, RETAIN)?;
        assert_equal(&inp.grad().unwrap(), &golden["second"]);
        inp.grad().unwrap().zero_()?;
        out.backward_with(&ones, RETAIN)?;
        assert_equal(&inp.grad().unwrap(), &golden["after_zeroing"]);
        assert_eq!(ones.to_vec::<f32>()?, vec![1.0; 5 * rows], "the cotangent is only read");
    }
    Ok(())
}

#[test]
fn reciprocal_of_eye() -> Result<()> {
    let golden = tutorial("reciprocal_eye_5");
    let inp = Tensor::eye(5, Device::Cpu)?.requires_grad_(true)?;
    (1 / inp.add(1)?.pow(2)?)?.sum(())?.backward()?;
    assert_equal(&inp.grad().unwrap(), &golden["grad"]);
    assert_eq!(inp.grad().unwrap().to_string(), golden["repr"]);
    Ok(())
}

#[test]
fn polynomial_with_two_inputs() -> Result<()> {
    let golden = tutorial("polynomial");
    let a = tensor(&golden["a"]).requires_grad_(true)?;
    let b = tensor(&golden["b"]).requires_grad_(true)?;
    let q = kiln_tensor::calc!(3 * a.pow(3) - b.pow(2))?;
    assert_eq!(q.to_string(), golden["q_repr"]);
    q.backward_with(&Tensor::ones(2, Device::Cpu)?, BackwardOptions::default())?;
    assert_equal(&a.grad().unwrap(), &golden["a_grad"]);
    assert_equal(&b.grad().unwrap(), &golden["b_grad"]);
    Ok(())
}

#[test]
fn gradients_accumulate_until_zeroed() -> Result<()> {
    let golden = tutorial("ones_accumulate");
    let x = Tensor::ones([2, 2], Device::Cpu)?.requires_grad_(true)?;
    x.sum(())?.backward()?;
    assert_equal(&x.grad().unwrap(), &golden["first"]);
    x.sum(())?.backward()?;
    assert_equal(&x.grad().unwrap(), &golden["second"]);
    x.sum(())?.backward()?;
    assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [3.0; 4]);
    x.grad().unwrap().zero_()?;
    assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0.0; 4]);
    x.sum(())?.backward()?;
    assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1.0; 4]);
    x.zero_grad();
    assert!(x.grad().is_none());
    Ok(())
}

#[test]
fn cos_of_a_tracking_tensor_is_cos_of_its_data() -> Result<()> {
    let x = Tensor::rand([3, 4], DType::F64)?.requires_grad_(true)?;
    let (tracked, plain) = (x.cos()?, x.detach().cos()?);
    assert!(tracked.requires_grad() && !plain.requires_grad());
    assert_eq!(floats(&tracked), floats(&plain));
    Ok(())
}

#[test]
fn frozen_parameters_get_no_gradient() -> Result<()> {
    let net = OneLayer::new(&tutorial("one_layer"))?;
    net.w.set_requires_grad(false)?;
    net.loss()?.backward()?;
    assert!(net.w.grad().is_none() && net.b.grad().is_some());
    Ok(())
}

#[test]
fn graphs_are_rebuilt_in_every_iteration() -> Result<()> {
    let w = Tensor::full(1, 2.0, DType::F64)?.requires_grad_(true)?;
    for (iteration, power) in [3, 1, 5].into_iter().enumerate() {
        w.zero_grad();
        // Another depth, and another shape, each time.
        let mut y = w.expand(iteration + 2)?;
        for _ in 1..power {
            y = y.mul(&w)?;
        }
        y.sum(())?.backward()?;
        let expected = (iteration + 2) as f64 * f64::from(power) * 2f64.powi(power - 1);
        assert_eq!(floats(&w.grad().unwrap()), [expected]);
    }
    Ok(())
}

#[test]
fn autograd_grad_leaves_grad_alone() -> Result<()> {
    let x = Tensor::new(&[1.0, 2.0], Device::Cpu)?.requires_grad_(true)?;
    let y = Tensor::new(&[3.0, 4.0], Device::Cpu)?.requires_grad_(true)?;
    let product = x.mul(&y)?;
    let found = autograd::grad(&[&product.sum(())?], &[&x, &y, &product])?;
    assert_eq!(found.iter().map(floats).collect::<Vec<_>>(), [[3.0, 4.0], [1.0, 2.0], [1.0, 1.0]]);
    assert!(x.grad().is_none() && y.grad().is_none());
    let error = autograd::grad(&[&x.sum(())?], &[&y]).unwrap_err().to_string();
    assert!(error.contains("not part of the graph"), "{error}");
    let unused = autograd::grad_with(&[(x.sum(())?, None)], &[&y], RETAIN)?;
    assert!(unused[0].is_none());
    // The same input twice, and an output that is an input.
    let twice = autograd::grad(&[&x.mul(&x)?.sum(())?], &[&x, &x])?;
    assert_eq!((floats(&twice[0]), floats(&twice[1])), (vec![2.0, 4.0], vec![2.0, 4.0]));
    let total = x.sum(())?;
    assert_eq!(floats(&autograd::grad(&[&total], &[&total])?[0]), [1.0]);
    Ok(())
}
