//! Autograd on deep graphs with small stacks.

use crate::common::{compare::floats, on_small_stack};
use kiln_tensor::{
    DType, Result, Tensor,
    autograd::{self, BackwardCtx, BackwardOptions, Function, FunctionCtx},
};

const DEPTH: usize = 100_000;

fn scalar() -> Tensor {
    Tensor::full(1, 1.0, DType::F64).unwrap().requires_grad_(true).unwrap()
}

/// `x` after `depth` steps.
fn chain_of(depth: usize, x: &Tensor, step: impl Fn(&Tensor) -> Result<Tensor>) -> Tensor {
    (0..depth).fold(x.clone(), |y, _| step(&y).unwrap())
}

/// `x` after `DEPTH` steps.
fn chain(x: &Tensor, step: impl Fn(&Tensor) -> Result<Tensor>) -> Tensor {
    chain_of(DEPTH, x, step)
}

#[test]
fn a_chain_runs_backward_and_is_dropped() {
    on_small_stack(|| {
        let x = scalar();
        let y = chain(&x, |y| y.add(1.0));
        y.backward().unwrap();
        assert_eq!(floats(&x.grad().unwrap()), [1.0]);
        drop(y);
    });
}

#[test]
fn a_chain_that_saves_tensors_is_dropped_without_a_backward_pass() {
    on_small_stack(|| drop(chain(&scalar(), |y| y.sin())));
}

/// Every node is reached over two edges: a walk that forgets what it has seen takes forever, at this depth as well, which is
/// too much for the stack of a recursive one.
#[test]
fn a_chain_of_diamonds_is_walked_once_a_node() {
    on_small_stack(|| {
        let x = scalar();
        let y = chain_of(DEPTH / 10, &x, |y| y.sub(y)?.add(y));
        let grads = autograd::grad_with(&[(y.clone(), None)], &[&x], BackwardOptions::retain_graph()).unwrap();
        assert_eq!(floats(grads[0].as_ref().unwrap()), [1.0]);
        y.backward().unwrap();
        assert_eq!(floats(&x.grad().unwrap()), [1.0]);
    });
}

#[test]
fn views_and_changes_in_place_make_deep_graphs_too() {
    on_small_stack(|| {
        let x = scalar();
        let y = chain(&x, |y| if y.rank() == 1 { y.unsqueeze(0) } else { y.squeeze(0) });
        y.sum(()).unwrap().backward().unwrap();
        assert_eq!(floats(&x.grad().unwrap()), [1.0]);

        let table = x.expand([4]).unwrap().copy().unwrap();
        for i in 0..DEPTH / 10 {
            table.select(0, (i % 4) as i64).unwrap().add_(1).unwrap();
        }
        table.sum(()).unwrap().backward().unwrap();
        assert_eq!(floats(&x.grad().unwrap()), [5.0]);
    });
}

struct Double;

impl Function for Double {
    fn name(&self) -> &str {
        "Double"
    }
    fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        inputs[0].mul(1)
    }
    fn backward(&self, _: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(grad.mul(1)?)])
    }
}

#[test]
fn custom_functions_hooks_and_retained_gradients_in_a_deep_graph() {
    on_small_stack(|| {
        let x = scalar();
        let y = chain(&x, |y| {
            let next = autograd::apply(Double, &[y])?;
            next.register_hook(|_| Ok(None))?;
            next.retain_grad()?;
            Ok(next)
        });
        y.backward().unwrap();
        assert_eq!(floats(&y.grad().unwrap()), [1.0]);
    });
}

#[test]
fn a_deep_graph_can_be_printed() {
    on_small_stack(|| {
        let y = chain(&scalar(), |y| y.add(1.0));
        assert_eq!(autograd::graph_text(&y).lines().count(), DEPTH + 1);
        assert_eq!(autograd::graph_dot(&y).matches("->").count(), DEPTH);
    });
}

/// What an iteration makes is gone when its tensors are: a training loop does not grow.
#[test]
fn graphs_are_freed() {
    let watched = {
        let x = scalar();
        let y = x.mul(2.0).unwrap().exp().unwrap();
        y.backward_retain_graph().unwrap();
        let marker = std::sync::Arc::new(());
        let weak = std::sync::Arc::downgrade(&marker);
        // The hook lives in the node of `y`, and the marker in the hook.
        y.register_hook(move |_| {
            let _ = &marker;
            Ok(None)
        })
        .unwrap();
        assert!(weak.upgrade().is_some());
        weak
    };
    assert!(watched.upgrade().is_none(), "a cycle keeps the graph alive");
}
