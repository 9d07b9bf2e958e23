//! Rules of autograd beyond the tutorial: in-place changes, hooks, custom functions, errors.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::compare::{assert_close, floats};
use kiln_tensor::{
    DType, Device, Error, Result, Tensor,
    autograd::{self, BackwardCtx, BackwardOptions, Function, FunctionCtx, apply, gradcheck},
    no_grad,
};
use parking_lot::Mutex;

const RETAIN: BackwardOptions = BackwardOptions::retain_graph();

fn leaf(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, values.len(), Device::Cpu).unwrap().requires_grad_(true).unwrap()
}

fn constant(values: &[f64]) -> Tensor {
    leaf(values).detach()
}

#[track_caller]
fn assert_error(result: Result<impl Sized>, words: &[&str]) {
    let message = match result {
        Ok(_) => panic!("no error"),
        Err(error) => error.to_string(),
    };
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

// ---- in-place changes ----

#[test]
fn leaves_and_their_views_are_not_changed_while_recording() -> Result<()> {
    let w = leaf(&[1.0, 2.0, 3.0]);
    assert_error(w.add_(1), &["add_", "leaf", "no_grad"]);
    assert_error(w.zero_(), &["zero_", "leaf"]);
    assert_error(w.narrow(0, 0, 2)?.mul_(2), &["mul_", "view of a leaf"]);
    assert_error(w.copy_(&constant(&[0.0; 3])), &["copy_", "leaf"]);
    assert_error(w.clone().t_(), &["t_", "leaf"]);
    assert_eq!(floats(&w), [1.0, 2.0, 3.0], "an error changes nothing");
    no_grad(|| w.sub_(1))?;
    no_grad(|| w.narrow(0, 0, 1)?.fill_(9))?;
    assert_eq!(floats(&w), [9.0, 1.0, 2.0]);
    assert!(w.is_leaf() && w.requires_grad());
    Ok(())
}

#[test]
fn a_changed_saved_tensor_is_an_error_not_a_wrong_number() -> Result<()> {
    let x = leaf(&[0.5, 1.0]);
    // exp saves its output, sin its input.
    let y = x.exp()?;
    y.add_(1)?;
    assert_error(y.sum(())?.backward(), &["ExpBackward0", "in-place", "version 1", "version 0"]);
    let y = x.sin()?;
    no_grad(|| x.mul_(2))?;
    assert_error(y.sum(())?.backward(), &["SinBackward0", "in-place"]);
    // add saves nothing: the change does no harm.
    let y = x.add(&x)?;
    no_grad(|| x.mul_(2))?;
    y.sum(())?.backward()?;
    // A change through a view or a detached handle counts as well.
    let y = x.sin()?;
    x.detach().narrow(0, 0, 1)?.zero_()?;
    assert_error(y.sum(())?.backward(), &["SinBackward0"]);
    Ok(())
}

#[test]
fn a_change_becomes_part_of_the_history() -> Result<()> {
    let names = ["AddBackward0", "SubBackward0", "MulBackward0", "DivBackward0"];
    let ops: [fn(&Tensor, &Tensor) -> Result<()>; 4] =
        [|y, w| y.add_(w), |y, w| y.sub_(w), |y, w| y.mul_(w), |y, w| y.div_(w)];
    for (name, op) in names.into_iter().zip(ops) {
        let f = |inputs: &[Tensor]| {
            let y = inputs[0].mul(2)?;
            op(&y, &inputs[1])?;
            Ok(y)
        };
        gradcheck(f, &[&constant(&[1.0, 2.0]), &constant(&[3.0, 0.5])])?;
        // Also a tensor that had no history, and an operand that broadcasts.
        let started_plain = |inputs: &[Tensor]| {
            let y = Tensor::ones([3, 2], DType::F64)?;
            op(&y, &inputs[0])?;
            assert!(y.requires_grad() == inputs[0].requires_grad());
            Ok(y)
        };
        gradcheck(started_plain, &[&constant(&[1.0, 2.0])])?;
        let y = leaf(&[1.0]).mul(1)?;
        op(&y, &constant(&[2.0]))?;
        assert_eq!(y.grad_fn().unwrap().name(), name);
    }
    Ok(())
}

#[test]
fn a_tensor_added_to_itself_in_place() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let y = x.mul(3)?;
    y.add_(&y)?;
    assert_eq!(floats(&y), [6.0, 12.0]);
    y.sum(())?.backward()?;
    assert_eq!(floats(&x.grad().unwrap()), [6.0, 6.0]);
    Ok(())
}

#[test]
fn overwriting_cuts_the_gradient() -> Result<()> {
    for overwrite in [|y: &Tensor| y.zero_(), |y: &Tensor| y.fill_(3), |y: &Tensor| y.uniform_(0.0, 1.0)] {
        let x = leaf(&[1.0, 2.0]);
        let y = x.mul(3)?;
        overwrite(&y)?;
        y.sum(())?.backward()?;
        assert_eq!(floats(&x.grad().unwrap()), [0.0, 0.0]);
    }
    Ok(())
}

#[test]
fn a_change_through_a_view_changes_the_gradient_of_the_base() -> Result<()> {
    // y = 3x; y[1..3] *= w; the gradient of x is 3 outside and 3w inside, that of w is 3x inside.
    let x = leaf(&[1.0, 2.0, 3.0, 4.0]);
    let w = leaf(&[10.0, 20.0]);
    let y = x.mul(3)?;
    y.narrow(0, 1, 2)?.mul_(&w)?;
    assert_eq!(floats(&y), [3.0, 60.0, 180.0, 12.0]);
    assert_eq!(y.grad_fn().unwrap().name(), "CopySlices");
    y.sum(())?.backward()?;
    assert_eq!(floats(&x.grad().unwrap()), [3.0, 30.0, 60.0, 3.0]);
    assert_eq!(floats(&w.grad().unwrap()), [6.0, 9.0]);
    Ok(())
}

#[test]
fn views_of_changed_bases_check_against_differences() -> Result<()> {
    let (x, w) = (Tensor::rand([3, 4], DType::F64)?, Tensor::rand([3], DType::F64)?);
    type Change = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let changes: [(&str, Change); 7] = [
        ("column", |y, w| {
            y.select(1, 2)?.mul_(w)?;
            Ok(y.clone())
        }),
        ("a view of a view", |y, w| {
            y.t()?.narrow(0, 1, 2)?.select(0, 1)?.add_(w)?;
            y.mul(y)
        }),
        ("the view that changed is used", |y, w| {
            let view = y.select(1, 0)?;
            view.mul_(w)?;
            view.mul(&view)
        }),
        ("another view of the same elements is used", |y, w| {
            let (seen, changed) = (y.narrow(1, 0, 2)?, y.select(1, 1)?);
            changed.copy_(w)?;
            seen.mul(&seen)
        }),
        ("the base changed, a view is used", |y, w| {
            let view = y.t()?;
            y.mul_(&w.unsqueeze(1)?)?;
            view.mul(&view)
        }),
        ("an expanded view of a changed base", |y, w| {
            let view = y.select(1, 3)?.unsqueeze(0)?.expand([2, 3])?;
            y.select(1, 3)?.mul_(w)?;
            view.mul(&view)
        }),
        ("changed twice", |y, w| {
            y.select(1, 1)?.mul_(w)?;
            y.narrow(1, 0, 3)?.mul_(&w.unsqueeze(1)?)?;
            y.mul(y)
        }),
    ];
    for (name, change) in changes {
        gradcheck(|inputs| change(&inputs[0].mul(2)?, &inputs[1]), &[&x, &w])
            .map_err(|error| Error::argument("test", format!("{name}: {error}")))?;
    }
    Ok(())
}

#[test]
fn a_plain_tensor_filled_row_by_row_from_tracked_ones() -> Result<()> {
    let rows: Vec<Tensor> = (0..3).map(|i| leaf(&[f64::from(i), 2.0])).collect();
    let table = Tensor::zeros([3, 2], DType::F64)?;
    for (i, row) in rows.iter().enumerate() {
        table.select(0, i as i64)?.copy_(row)?;
    }
    table.mul(&table)?.sum(())?.backward()?;
    for row in &rows {
        assert_close(&row.grad().unwrap(), &no_grad(|| row.mul(2))?);
    }
    Ok(())
}

#[test]
fn in_place_errors_say_what_is_wrong() -> Result<()> {
    let y = leaf(&[1.0, 2.0]).mul(1)?;
    assert_error(y.unsqueeze(0)?.expand([3, 2])?.add_(1), &["add_", "broadcast view", "[3, 2]"]);
    assert_error(y.add_(&constant(&[1.0, 2.0, 3.0])), &["[2]", "[3]"]);
    let wide = Tensor::zeros([3, 2], DType::F64)?;
    assert_error(y.add_(&wide), &["add_", "[2]", "[3, 2]"]);
    let ints = Tensor::zeros(2, DType::I64)?;
    assert_error(ints.add_(0.5), &["add_", "i64"]);
    assert_error(ints.div_(2), &["div_", "i64"]);
    let hidden = no_grad(|| y.narrow(0, 0, 1))?;
    assert_error(hidden.add_(&leaf(&[1.0])), &["without recording"]);
    assert_eq!(floats(&y), [1.0, 2.0]);
    Ok(())
}

// ---- hooks, retained gradients ----

#[test]
fn a_leaf_hook_sees_the_whole_gradient_once() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    x.register_hook(move |grad| {
        log.lock().push(floats(grad));
        Ok(None)
    })?;
    // Two paths lead to the leaf.
    x.mul(2)?.add(x.mul(3)?)?.sum(())?.backward()?;
    assert_eq!(*seen.lock(), [[5.0, 5.0]]);
    autograd::grad(&[&x.mul(2)?.add(&x)?.sum(())?], &[&x])?;
    assert_eq!(seen.lock().len(), 2);
    assert_eq!(floats(&x.grad().unwrap()), [5.0, 5.0]);
    Ok(())
}

#[test]
fn hooks_replace_gradients_and_can_be_removed() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = x.mul(2)?;
    let doubled = y.register_hook(|grad| grad.mul(2).map(Some))?;
    y.register_hook(|grad| grad.add(1).map(Some))?;
    let z = y.mul(3)?.sum(())?;
    z.backward_retain_graph()?;
    // (3 * 2 + 1) * 2
    assert_eq!(floats(&x.grad().unwrap()), [14.0]);
    doubled.remove();
    x.zero_grad();
    z.backward_retain_graph()?;
    assert_eq!(floats(&x.grad().unwrap()), [8.0]);
    y.register_hook(|_| Tensor::zeros([2, 2], DType::F64).map(Some))?;
    assert_error(z.backward_retain_graph(), &["hook", "[1]", "[2, 2]"]);
    assert_error(constant(&[1.0]).register_hook(|_| Ok(None)), &["register_hook", "no gradients"]);
    Ok(())
}

#[test]
fn a_retained_gradient_is_what_flows_on() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = x.mul(2)?;
    y.retain_grad()?;
    y.retain_grad()?; // asked for twice, kept once
    y.register_hook(|grad| grad.mul(10).map(Some))?;
    y.mul(3)?.sum(())?.backward()?;
    assert_eq!(floats(&y.grad().unwrap()), [30.0]);
    assert_eq!(floats(&x.grad().unwrap()), [60.0]);
    // The wish follows the tensor through an in-place change.
    let y = x.mul(2)?;
    y.retain_grad()?;
    y.mul_(5)?;
    y.sum(())?.backward()?;
    assert_eq!(floats(&y.grad().unwrap()), [1.0]);
    assert_error(constant(&[1.0]).retain_grad(), &["retain_grad", "no gradients"]);
    Ok(())
}

#[test]
fn gradients_are_not_shared_by_accident() -> Result<()> {
    let (x, y) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]));
    let cotangent = constant(&[1.0, 1.0]);
    x.add(&y)?.backward_with(&cotangent, RETAIN)?;
    x.grad().unwrap().fill_(7)?;
    assert_eq!(floats(&y.grad().unwrap()), [1.0, 1.0]);
    assert_eq!(floats(&cotangent), [1.0, 1.0]);
    // An identity hands the cotangent itself down to the leaf.
    let z = leaf(&[0.0, 0.0]);
    z.reshape([1, 2])?.backward_with(&cotangent.reshape([1, 2])?, RETAIN)?;
    z.grad().unwrap().fill_(9)?;
    assert_eq!(floats(&cotangent), [1.0, 1.0]);
    Ok(())
}

// ---- functions of the user's own ----

/// x · y with its gradient written by hand.
struct Product {
    backward_calls: Arc<AtomicUsize>,
}

impl Function for Product {
    fn name(&self) -> &str {
        "Product"
    }
    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        inputs.iter().for_each(|input| ctx.save(input));
        inputs[0].mul(&inputs[1])
    }
    fn backward(&self, ctx: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        self.backward_calls.fetch_add(1, Ordering::Relaxed);
        let first = if ctx.needs(0) { Some(grad.mul(ctx.saved(1)?)?) } else { None };
        let second = if ctx.needs(1) { Some(grad.mul(ctx.saved(0)?)?) } else { None };
        Ok(vec![first, second])
    }
}

/// Passes its input on; `backward` does what the closure says.
struct Identity(fn(&Tensor) -> Result<Vec<Option<Tensor>>>);

impl Function for Identity {
    fn name(&self) -> &str {
        "Identity"
    }
    fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, _: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        (self.0)(grad)
    }
}

#[test]
fn custom_functions_are_part_of_the_graph() -> Result<()> {
    let calls = Arc::new(AtomicUsize::new(0));
    let product = |inputs: &[Tensor]| {
        apply(Product { backward_calls: calls.clone() }, &[&inputs[0], &inputs[1]])?.mul(&inputs[0])
    };
    gradcheck(product, &[&constant(&[1.0, 2.0]), &constant(&[3.0, 4.0])])?;
    assert!(calls.load(Ordering::Relaxed) > 0);
    let (x, y) = (leaf(&[1.0]), constant(&[2.0]));
    let out = apply(Product { backward_calls: calls.clone() }, &[&x, &y])?;
    assert_eq!(out.grad_fn().unwrap().name(), "ProductBackward");
    let inside = no_grad(|| apply(Product { backward_calls: calls.clone() }, &[&x, &y]))?;
    assert!(!inside.requires_grad());
    no_grad(|| y.add_(1))?;
    assert_error(out.backward(), &["ProductBackward", "in-place"]);
    Ok(())
}

#[test]
fn gradient_reversal_and_wrong_gradients() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let reversed = apply(Identity(|grad| Ok(vec![Some(grad.neg()?)])), &[&x])?;
    assert!(!reversed.is_leaf() && x.is_leaf());
    reversed.sum(())?.backward()?;
    assert_eq!(floats(&x.grad().unwrap()), [-1.0, -1.0]);
    // The output shares the input's memory: changing it in place would go past the input's history.
    assert_error(apply(Identity(|_| Ok(vec![None])), &[&x])?.add_(1), &["add_"]);
    let run = |f| apply(Identity(f), &[&x])?.sum(())?.backward();
    assert_error(run(|_| Ok(vec![])), &["IdentityBackward", "0 gradients for 1 inputs"]);
    assert_error(run(|_| Ok(vec![Some(Tensor::zeros(3, DType::F64)?)])), &["IdentityBackward", "[3]", "[2]"]);
    assert_error(run(|grad| Ok(vec![Some(grad.to_dtype(DType::F32)?)])), &["IdentityBackward", "f32", "f64"]);
    assert_error(run(|_| Err(Error::argument("mine", "went wrong"))), &["mine: went wrong"]);
    run(|_| Ok(vec![None]))
}

// ---- errors ----

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
fn gradcheck_finds_wrong_gradients() -> Result<()> {
    let x = constant(&[1.0, 2.0]);
    let wrong = |inputs: &[Tensor]| apply(Identity(|grad| Ok(vec![Some(grad.mul(1.01)?)])), &[&inputs[0]]);
    assert_error(gradcheck(wrong, &[&x]), &["gradcheck", "input 0", "element 0", "1.01", "differences"]);
    let missing = |inputs: &[Tensor]| apply(Identity(|_| Ok(vec![None])), &[&inputs[0]])?.add(&inputs[0].mul(0)?);
    assert_error(gradcheck(missing, &[&x]), &["is 0 by"]);
    assert_error(gradcheck(|inputs| inputs[0].detach().mul(2), &[&x]), &["does not depend"]);
    assert_error(gradcheck(|inputs| inputs[0].mul(2), &[&x.to_dtype(DType::F32)?]), &["f64"]);
    gradcheck(|inputs| inputs[0].mul(2), &[&x])
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

/// As PyTorch's `register_post_accumulate_grad_hook`: once a pass, after the last of
/// several gradients, while other leaves still wait for theirs.
#[test]
fn post_accumulate_hooks_see_whole_gradients() -> Result<()> {
    let leaf = |value: f32| Tensor::new([value, 2.0], Device::Cpu)?.requires_grad_(true);
    let (first, last, other) = (leaf(3.0)?, leaf(5.0)?, leaf(0.0)?);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let watch = |name: &'static str, tensor: &Tensor, another: &Tensor| {
        let (calls, another) = (calls.clone(), another.clone());
        tensor.register_post_accumulate_grad_hook(move |leaf, pass| {
            let grad = leaf.grad().unwrap().to_vec::<f32>()?;
            calls.lock().push((name, grad, pass.reaches(&another)));
            let end = calls.clone();
            pass.at_end(move || {
                end.lock().push(("end", Vec::new(), false));
                Ok(())
            });
            Ok(())
        })
    };
    watch("first", &first, &last)?;
    let handle = watch("last", &last, &other)?;
    watch("other", &other, &first)?;
    // `last` is read three times, at the end and at the beginning.
    let forward = || first.mul(&last)?.mul(&last)?.add(&last)?.sum(());
    forward()?.backward()?;
    // d/dlast = 2 first last + 1, d/dfirst = last².
    let expected = [
        ("first", vec![25., 4.], true),
        ("last", vec![31., 9.], false),
        ("end", Vec::new(), false),
        ("end", Vec::new(), false),
    ];
    // The order among the two is that of the tape, which adds the last gradient of each in one node.
    let mut seen = std::mem::take(&mut *calls.lock());
    seen.sort_by_key(|(name, ..)| ["first", "last", "end"].iter().position(|known| known == name));
    assert_eq!(seen, expected);

    // Also beside a hook that changes the gradient, and no more after it is removed.
    handle.remove();
    first.zero_grad();
    first.register_hook(|grad| grad.mul(10.0).map(Some))?;
    forward()?.backward()?;
    let seen = std::mem::take(&mut *calls.lock());
    assert_eq!((seen[0].0, &seen[0].1, seen[1].0, seen.len()), ("first", &vec![250., 40.], "end", 2));
    // Gradients that are only returned are added to nothing.
    autograd::grad(&[&forward()?], &[&first])?;
    assert!(calls.lock().is_empty());
    Ok(())
}

#[test]
fn post_accumulate_hooks_of_leaves_that_get_fewer_gradients_than_edges_run_at_the_end() -> Result<()> {
    /// Hands on a gradient for its first input only.
    struct First;
    impl Function for First {
        fn name(&self) -> &str {
            "First"
        }
        fn forward(&self, _: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
            inputs[0].add(&inputs[1])
        }
        fn backward(&self, _: &BackwardCtx, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
            Ok(vec![Some(grad.clone()), None])
        }
    }
    let leaf = |value: f32| Tensor::new(value, Device::Cpu)?.requires_grad_(true);
    let (x, y, calls) = (leaf(2.0)?, leaf(3.0)?, Arc::new(Mutex::new(Vec::new())));
    for (name, tensor) in [("x", &x), ("y", &y)] {
        let calls = calls.clone();
        tensor.register_post_accumulate_grad_hook(move |leaf, _| {
            calls.lock().push((name, leaf.grad().unwrap().item::<f32>()?));
            Ok(())
        })?;
    }
    // x has two edges, of which one brings a gradient; y has one, which brings none.
    apply(First, &[&x, &y.mul(&x)?])?.backward()?;
    assert_eq!(*calls.lock(), [("x", 1.0)]);
    // An error of a hook is that of the pass.
    x.register_post_accumulate_grad_hook(|_, _| Err(Error::argument("hook", "no")))?;
    assert_eq!(x.square()?.backward().unwrap_err().to_string(), "hook: no");
    assert!(x.square()?.register_post_accumulate_grad_hook(|_, _| Ok(())).is_err());
    assert!(x.detach().register_post_accumulate_grad_hook(|_, _| Ok(())).is_err());
    Ok(())
}

// ---- ReLU's gradient as part of the next convolution's backward pass ----

/// Nobody can tell: gradients are those of the operations apart, whoever else uses or watches what is between.
#[test]
fn gradients_through_stacked_convolutions() -> Result<()> {
    use kiln_tensor::Conv2d;
    let rule = Conv2d { padding: [1, 1], ..Conv2d::default() };
    let leaf = |dims: &[usize], salt: usize| -> Result<Tensor> {
        let count = dims.iter().product::<usize>();
        let values: Vec<f64> = (0..count).map(|i| ((i * 7 + salt) % 11) as f64 / 5.0 - 1.0).collect();
        Tensor::from_vec(values, dims, Device::Cpu)?.requires_grad_(true)
    };
    type Watch = fn(&Tensor) -> Result<Option<Tensor>>;
    let watches: [Watch; 5] = [
        |_| Ok(None),
        |h| h.register_hook(|grad| grad.mul(2).map(Some)).map(|_| None),
        |h| h.retain_grad().map(|()| None),
        |h| h.mul(3)?.sum(()).map(Some),
        |h| Ok(Some(h.narrow(0, 0, 1)?.sum(())?)),
    ];
    for (i, watch) in watches.into_iter().enumerate() {
        for (bias, frozen, last) in [(true, false, false), (true, true, true), (false, false, true)] {
            let run = |fused: bool| -> Result<Vec<Tensor>> {
                let (x, w, v) = (leaf(&[2, 2, 4, 3], 1)?, leaf(&[3, 2, 3, 3], 2)?, leaf(&[2, 3, 3, 3], 3)?);
                let b = leaf(&[3], 4)?.requires_grad_(!frozen)?;
                let b = bias.then_some(&b);
                let input = if last { x.channels_last()? } else { x.clone() };
                let h = if fused { input.conv2d_relu(&w, b, &rule)? } else { input.conv2d(&w, b, &rule)?.relu()? };
                let more = watch(&h)?;
                let y = h.conv2d(&v, None, &rule)?;
                let mut loss = y.mul(&y)?.sum(())?;
                if let Some(more) = more {
                    loss = loss.add(&more)?;
                }
                let roots = [(loss.clone(), None)];
                let mut asked = autograd::grad_with(&roots, &[&h, &w], RETAIN)?;
                asked.extend(autograd::grad_with(&roots, &[&w], RETAIN)?);
                loss.backward()?;
                let of_leaves = [&x, &w, &v].into_iter().chain(b).chain([&h]).filter_map(Tensor::grad);
                Ok(asked.into_iter().flatten().chain(of_leaves).collect())
            };
            let (got, want) = (run(true)?, run(false)?);
            assert_eq!(got.len(), want.len(), "{i} {bias} {frozen}");
            got.iter().zip(&want).for_each(|(got, want)| assert_close(got, want));
        }
    }
    Ok(())
}
