//! Errors of misuse, and looking at the graph.

use kiln_tensor::{DType, Result, Tensor, autograd};

use super::{RETAIN, assert_error, constant, leaf};

#[test]
fn misuse_is_a_readable_error() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    assert_error(x.backward(), &["backward", "one element", "[2]"]);
    assert_error(constant(&[1.0]).backward(), &["backward", "no gradients"]);
    assert_error(x.sum(())?.detach().backward(), &["no gradients"]);
    let y = x.mul(2)?;
    assert_error(y.backward_with(&constant(&[1.0]), RETAIN), &["[1]", "[2]", "cotangent"]);
    assert_error(y.backward_with(&Tensor::ones(2, DType::F32)?, RETAIN), &["f32", "f64"]);
    assert_error(x.set_grad(Some(constant(&[1.0]))), &["set_grad", "[1]", "[2]"]);
    assert_error(y.set_requires_grad(false), &["leaves", "detach"]);
    assert_error(autograd::grad(&[&y.sum(())?], &[&constant(&[1.0])]), &["requires no gradients"]);
    Ok(())
}

#[test]
fn the_graph_can_be_looked_at() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let y = x.mul(2)?.add(&x)?;
    let next: Vec<String> =
        y.grad_fn().unwrap().next_functions().into_iter().flatten().map(|f| f.name().into()).collect();
    assert_eq!(next, ["MulBackward0", "AccumulateGrad"]);
    let accumulate = y.grad_fn().unwrap().next_functions()[1].clone().unwrap();
    assert!(accumulate.variable().unwrap().is_same(&x));
    assert_eq!(
        autograd::graph_text(&y),
        "AddBackward0\n  MulBackward0\n    AccumulateGrad [2]\n  AccumulateGrad [2] (above)\n"
    );
    let dot = autograd::graph_dot(&y);
    assert!(dot.starts_with("digraph") && dot.matches("AccumulateGrad").count() == 1, "{dot}");
    assert_eq!(dot.matches("->").count(), 3, "{dot}");
    Ok(())
}
