//! Regions of autocast: what they convert, what they keep, and how gradients come back.

use std::sync::{Arc, Mutex};

use kiln_tensor::{
    BatchNorm, Conv2d, DType, Device, ErrorKind, Result, Running, Tensor, autocast, autocast_dtype, autocast_guard,
    autocast_off,
    autograd::{self, BackwardCtx, BackwardOptions, Function, FunctionCtx, apply, trace_with_reads},
    is_autocast_enabled, no_grad,
};

const LOW: [DType; 2] = [DType::BF16, DType::F16];

fn randn(shape: &[usize]) -> Tensor {
    Tensor::randn(shape, Device::Cpu).unwrap()
}

fn parameter(shape: &[usize]) -> Tensor {
    randn(shape).requires_grad_(true).unwrap()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().to_vec().unwrap()
}

/// The values, of which NaN is one.
fn bits(x: &Tensor) -> Vec<u32> {
    values(x).into_iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

/// How often a call converts a dtype.
fn casts(f: impl FnOnce() -> Result<()>) -> usize {
    let ((), trace) = trace_with_reads(f).unwrap();
    trace.steps().iter().filter(|step| step.op == Some("cast")).count()
}

#[test]
fn operations_compute_as_their_operands_were_converted() -> Result<()> {
    for low in LOW {
        let (x, w, b) = (randn(&[5, 7]), randn(&[3, 7]), randn(&[3]));
        let to = |t: &Tensor| t.to_dtype(low);
        let explicit = to(&x)?.linear(&to(&w)?, Some(&to(&b)?))?;
        let y = autocast(low, || x.linear(&w, Some(&b)))?;
        assert_eq!((y.dtype(), values(&y)), (low, values(&explicit)));
        let (s, y) = autocast(low, || Ok((y.softmax(-1)?, y)))?;
        assert_eq!((s.dtype(), values(&s)), (DType::F32, values(&y.to_dtype(DType::F32)?.softmax(-1)?)));
        let sum = autocast(low, || y.add(&x.narrow(1, 0, 3)?))?;
        assert_eq!(sum.dtype(), DType::F32, "the widest");
    }
    Ok(())
}

#[test]
fn regions_nest_and_end_with_errors_and_panics() -> Result<()> {
    let x = randn(&[2, 2]);
    let product = || x.matmul(&x).map(|y| y.dtype());
    let dtypes = autocast(DType::BF16, || {
        let inner = autocast(DType::F16, product)?;
        let off = autocast_off(product)?;
        let again = autocast_off(|| autocast(DType::F16, product))?;
        Ok([product()?, inner, off, again, product()?])
    })?;
    assert_eq!(dtypes, [DType::BF16, DType::F16, DType::F32, DType::F16, DType::BF16]);
    assert!(autocast(DType::BF16, || x.matmul(&randn(&[3, 2]))).is_err());
    let panicked = std::panic::catch_unwind(|| autocast(DType::BF16, || -> Result<()> { panic!("inside") }));
    assert!(panicked.is_err() && !is_autocast_enabled());
    {
        let _guard = autocast_guard(DType::F16)?;
        assert_eq!((autocast_dtype(), product()?), (Some(DType::F16), DType::F16));
    }
    assert_eq!((autocast_dtype(), product()?), (None, DType::F32));
    Ok(())
}

#[test]
fn other_threads_are_not_in_the_region() -> Result<()> {
    let x = randn(&[2, 2]);
    let theirs = autocast(DType::BF16, || {
        let own = x.clone();
        let thread = std::thread::spawn(move || -> Result<_> {
            let outside = own.matmul(&own)?.dtype();
            let inside = autocast(DType::F16, || own.matmul(&own))?.dtype();
            Ok([outside, inside])
        });
        let theirs = thread.join().unwrap()?;
        assert_eq!(x.matmul(&x)?.dtype(), DType::BF16);
        Ok(theirs)
    })?;
    assert_eq!(theirs, [DType::F32, DType::F16]);
    Ok(())
}

#[test]
fn regions_of_other_dtypes_are_errors_at_the_users_line() {
    for dtype in [DType::F32, DType::F64, DType::I64, DType::Bool] {
        let error = autocast(dtype, || Ok(())).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DType { op: "autocast", .. }), "{error}");
        assert_eq!(error.location().unwrap().file(), file!());
        assert!(autocast_guard(dtype).is_err());
    }
}

#[test]
fn integers_truth_values_and_f64_are_not_converted() -> Result<()> {
    let (wide, counts) = (randn(&[3, 3]).to_dtype(DType::F64)?, Tensor::arange(0, 9, (DType::I64, Device::Cpu))?);
    autocast(DType::BF16, || {
        assert_eq!(wide.matmul(&wide)?.dtype(), DType::F64);
        assert_eq!(wide.softmax(0)?.dtype(), DType::F64);
        assert_eq!(counts.reshape([3, 3])?.matmul(&counts.reshape([3, 3])?)?.dtype(), DType::I64);
        assert_eq!(counts.sum(())?.dtype(), DType::I64);
        assert_eq!(counts.square()?.dtype(), DType::I64);
        assert_eq!(counts.gt(3)?.sum(())?.dtype(), DType::I64);
        let error = wide.matmul(&randn(&[3, 3])).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DTypeMismatch { .. }), "{error}");
        Ok(())
    })
}

#[test]
fn half_precision_of_either_kind_is_taken() -> Result<()> {
    let (bf16, f16) = (randn(&[2, 2]).to_dtype(DType::BF16)?, randn(&[2, 2]).to_dtype(DType::F16)?);
    autocast(DType::BF16, || {
        assert_eq!(bf16.matmul(&f16)?.dtype(), DType::BF16);
        assert_eq!(bf16.dot_of_rows(&f16)?, DType::F32);
        Ok(())
    })
}

trait DotOfRows {
    fn dot_of_rows(&self, other: &Tensor) -> Result<DType>;
}

impl DotOfRows for Tensor {
    fn dot_of_rows(&self, other: &Tensor) -> Result<DType> {
        Ok(self.select(0, 0)?.dot(&other.select(0, 0)?)?.dtype())
    }
}

#[test]
fn in_place_operations_keep_the_dtype() -> Result<()> {
    let (low, wide) = (randn(&[4]).to_dtype(DType::BF16)?, randn(&[4]));
    let (before, other) = (values(&low), values(&wide));
    autocast(DType::F16, || {
        low.add_(&wide)?;
        wide.mul_(&low)?;
        let sums = Tensor::zeros([2, 2], DType::BF16)?;
        sums.scatter_add_(0, &Tensor::zeros([2, 2], DType::I64)?, &Tensor::ones([2, 2], DType::BF16)?)?;
        assert_eq!((low.dtype(), wide.dtype(), sums.dtype()), (DType::BF16, DType::F32, DType::BF16));
        Ok(())
    })?;
    for i in 0..4 {
        assert!((values(&low)[i] - before[i] - other[i]).abs() < 0.05);
    }
    Ok(())
}

#[test]
fn empty_batches_and_strided_operands() -> Result<()> {
    let (w, kernel) = (parameter(&[3, 4]), parameter(&[2, 4, 3, 3]));
    autocast(DType::BF16, || {
        let empty = Tensor::zeros([0, 4], Device::Cpu)?.linear(&w, None)?;
        assert_eq!((empty.dims(), empty.dtype()), (&[0, 3][..], DType::BF16));
        let images = Tensor::zeros([0, 4, 5, 5], Device::Cpu)?.conv2d(&kernel, None, &Conv2d::default())?;
        assert_eq!((images.dims(), images.dtype()), (&[0, 2, 3, 3][..], DType::BF16));
        empty.sum(())?.add(&images.sum(())?)?.backward()
    })?;
    assert_eq!((w.grad().unwrap().dtype(), values(&w.grad().unwrap())), (DType::F32, vec![0.0; 12]));
    let x = randn(&[4, 6]).t()?.slice(0, 0, 6, 2)?;
    let y = autocast(DType::BF16, || x.linear(&w.detach(), None))?;
    assert_eq!(values(&y), values(&autocast(DType::BF16, || x.contiguous()?.linear(&w.detach(), None))?));
    Ok(())
}

#[test]
fn gradients_arrive_in_the_parameters_dtype() -> Result<()> {
    for low in LOW {
        let (x, w, b) = (randn(&[5, 7]), parameter(&[3, 7]), parameter(&[3]));
        let loss = autocast(low, || x.linear(&w, Some(&b))?.square()?.mean(()))?;
        assert_eq!(loss.dtype(), DType::F32);
        loss.backward()?;
        let grads = [&w, &b].map(|t| t.grad().unwrap());
        assert_eq!(grads.each_ref().map(Tensor::dtype), [DType::F32; 2]);
        // The same, converted by hand; the backward pass may run in the region.
        let own = [&w, &b].map(|t| t.detach().requires_grad_(true).unwrap());
        let y = x.to_dtype(low)?.linear(&own[0].to_dtype(low)?, Some(&own[1].to_dtype(low)?))?;
        let loss = y.to_dtype(DType::F32)?.square()?.mean(())?;
        autocast(low, || loss.backward())?;
        for (grad, own) in grads.iter().zip(&own) {
            assert_eq!(values(grad), values(&own.grad().unwrap()));
        }
    }
    Ok(())
}

/// The loss of a linear layer in half precision.
fn loss(x: &Tensor, w: &Tensor, low: DType) -> Result<Tensor> {
    autocast(low, || x.linear(w, None)?.square()?.mean(()))
}

#[test]
fn gradients_are_converted_when_they_are_read() -> Result<()> {
    for low in LOW {
        let (x, w) = (randn(&[5, 7]), parameter(&[3, 7]));
        loss(&x, &w, low)?.backward()?;
        let computed = w.unconverted_grad().unwrap();
        assert_eq!(computed.dtype(), low);
        let grad = w.grad().unwrap();
        assert_eq!((grad.dtype(), values(&grad)), (DType::F32, values(&computed)));
        assert!(w.grad().unwrap().is_same(&grad) && w.unconverted_grad().unwrap().is_same(&grad), "only once");
        // What is added to it is added in f32: twice the gradient, and that of an operand that is not in the region.
        loss(&x, &w, low)?.backward()?;
        assert!(w.grad().unwrap().is_same(&grad), "in place");
        assert_eq!(values(&grad), values(&computed.to_dtype(DType::F32)?.mul(2.0)?));
        w.zero_grad();
        loss(&x, &w, low)?.backward()?;
        loss(&x, &w, low)?.backward()?;
        assert_eq!(values(&w.grad().unwrap()), values(&grad), "not read in between");
        // A sum that half precision would round.
        let other = randn(&[5, 7]);
        w.zero_grad();
        loss(&other, &w, low)?.backward()?;
        let want = w.grad().unwrap().add(&computed.to_dtype(DType::F32)?)?;
        assert_ne!(values(&want), values(&want.to_dtype(low)?), "{low}");
        w.zero_grad();
        loss(&x, &w, low)?.backward()?;
        loss(&other, &w, low)?.backward()?;
        assert_eq!((w.unconverted_grad().unwrap().dtype(), values(&w.grad().unwrap())), (DType::F32, values(&want)));
        for wide_first in [false, true] {
            w.zero_grad();
            let mut losses = [loss(&x, &w, low)?, w.mul(0.123)?.sum(())?];
            if wide_first {
                losses.reverse();
            }
            losses[0].add(&losses[1])?.backward()?;
            let want = computed.to_dtype(DType::F32)?.add(&w.detach().zeros_like()?.add(0.123)?)?;
            assert_eq!(
                (w.unconverted_grad().unwrap().dtype(), values(&w.grad().unwrap())),
                (DType::F32, values(&want))
            );
        }
    }
    Ok(())
}

#[test]
fn hooks_and_callers_see_gradients_in_the_parameters_dtype() -> Result<()> {
    let (x, w) = (randn(&[5, 7]), parameter(&[3, 7]));
    loss(&x, &w, DType::BF16)?.backward()?;
    let want = values(&w.grad().unwrap());
    w.zero_grad();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let hook = w.register_hook(move |grad| {
        noted.lock().unwrap().push((grad.dtype(), values(grad)));
        Ok(Some(grad.mul(2.0)?))
    })?;
    let noted = seen.clone();
    let after = w.register_post_accumulate_grad_hook(move |w, _| {
        let grad = w.grad().unwrap();
        noted.lock().unwrap().push((grad.dtype(), values(&grad)));
        Ok(())
    })?;
    loss(&x, &w, DType::BF16)?.backward()?;
    let twice: Vec<f32> = want.iter().map(|value| value * 2.0).collect();
    assert_eq!(*seen.lock().unwrap(), [(DType::F32, want.clone()), (DType::F32, twice)]);
    hook.remove();
    w.zero_grad();
    seen.lock().unwrap().clear();
    loss(&x, &w, DType::BF16)?.backward()?;
    assert_eq!(*seen.lock().unwrap(), [(DType::F32, want.clone())]);
    after.remove();
    w.zero_grad();
    let [grad] = &autograd::grad(&[&loss(&x, &w, DType::BF16)?], &[&w])?[..] else { unreachable!("one input") };
    assert_eq!((grad.dtype(), values(grad)), (DType::F32, want.clone()));
    assert!(w.grad().is_none());
    // A pass that is recorded converts, and the conversion has a history.
    loss(&x, &w, DType::BF16)?.backward_with(&Tensor::ones((), Device::Cpu)?, BackwardOptions::create_graph())?;
    let grad = w.unconverted_grad().unwrap();
    assert_eq!((grad.dtype(), grad.requires_grad()), (DType::F32, true));
    Ok(())
}

#[test]
fn gradients_of_parameters_that_threads_share_are_added_up() -> Result<()> {
    let (x, w) = (randn(&[5, 7]), parameter(&[3, 7]));
    loss(&x, &w, DType::BF16)?.backward()?;
    let once = w.grad().unwrap().copy()?;
    for _ in 0..20 {
        w.zero_grad();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    loss(&x, &w, DType::BF16).and_then(|loss| loss.backward()).unwrap();
                    w.grad().unwrap();
                });
            }
        });
        assert_eq!(values(&w.grad().unwrap()), values(&once.mul(4.0)?));
    }
    Ok(())
}

#[test]
fn losses_read_scores_in_half_precision() -> Result<()> {
    use kiln_tensor::{ClassLoss, ClassLossInput, Reduction};
    let labels = Tensor::new([1i64, 0, 3, 70, -100], Device::Cpu)?;
    for (low, input) in [(DType::BF16, ClassLossInput::Logits), (DType::F16, ClassLossInput::LogProbs)] {
        for (reduction, label_smoothing) in [(Reduction::Mean, 0.0), (Reduction::Sum, 0.1), (Reduction::None, 0.0)] {
            let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing };
            let scores = randn(&[5, 80]).to_dtype(low)?.requires_grad_(true)?;
            let loss = autocast(low, || scores.class_loss(&labels, None, &rule))?;
            let own = scores.detach().to_dtype(DType::F32)?.requires_grad_(true)?;
            let want = own.class_loss(&labels, None, &rule)?;
            assert_eq!((loss.dtype(), values(&loss)), (DType::F32, values(&want)), "{rule:?}");
            for loss in [&loss, &want] {
                loss.mul(3.0)?.sum(())?.backward()?;
            }
            let grad = scores.grad().unwrap();
            assert_eq!((grad.dtype(), values(&grad)), (low, values(&own.grad().unwrap().to_dtype(low)?)), "{rule:?}");
            // Weights and probabilities are converted along with the scores.
            let weight = Tensor::ones(80, Device::Cpu)?;
            assert_eq!(autocast(low, || scores.class_loss(&labels, Some(&weight), &rule))?.dtype(), DType::F32);
        }
    }
    Ok(())
}

#[test]
fn a_parameter_is_converted_once_until_it_changes() -> Result<()> {
    let (x, w) = (randn(&[4, 4]).to_dtype(DType::BF16)?, parameter(&[4, 4]));
    let copies = autocast(DType::BF16, || {
        let first = x.matmul(&w)?;
        let second = x.matmul(&w)?;
        assert_eq!(values(&first), values(&second));
        first.add(&second)?.sum(())?.backward()?;
        // Twice the gradient of one product, added once.
        let grad = values(&w.grad().unwrap());
        w.zero_grad();
        autocast_off(|| x.matmul(&w.to_dtype(DType::BF16)?)?.mul(2.0)?.sum(()))?.backward()?;
        assert_eq!(grad, values(&w.grad().unwrap()));
        no_grad(|| w.mul_(2.0))?;
        let third = x.matmul(&w)?;
        assert_eq!(values(&third), values(&first.mul(2.0)?));
        // What was changed afterwards is not in the graph of before: its gradient is of the new values.
        third.sum(())?.backward()?;
        Ok(w.version())
    })?;
    assert_eq!(copies, 1);
    Ok(())
}

/// The cache is not used in traces, which name what each operation reads, so copies are counted by their memory.
#[test]
fn uses_of_one_parameter_share_a_copy() -> Result<()> {
    let (x, w) = (randn(&[4, 4]).to_dtype(DType::BF16)?, parameter(&[4, 4]));
    let cast_of = |y: &Tensor| y.grad_fn().unwrap().next_functions()[1].as_ref().unwrap().id();
    autocast(DType::BF16, || {
        let (a, b) = (x.matmul(&w)?, x.matmul(&w)?);
        assert_eq!(cast_of(&a), cast_of(&b));
        let nested = autocast(DType::F16, || x.matmul(&w))?;
        let back = x.matmul(&w)?;
        assert!(cast_of(&nested) != cast_of(&a) && cast_of(&back) == cast_of(&a));
        no_grad(|| w.add_(1.0))?;
        assert_ne!(cast_of(&x.matmul(&w)?), cast_of(&a));
        Ok(())
    })?;
    let counted = casts(|| autocast(DType::BF16, || x.matmul(&w)?.add(&x.matmul(&w)?).map(drop)));
    assert_eq!(counted, 2);
    Ok(())
}

#[test]
fn copies_made_without_recording_do_not_cut_gradients() -> Result<()> {
    let (x, w) = (randn(&[4, 4]), parameter(&[4, 4]));
    autocast(DType::BF16, || {
        no_grad(|| x.matmul(&w))?;
        x.matmul(&w)?.sum(())?.backward()?;
        assert!(w.grad().is_some());
        // Frozen, it takes no part any more.
        w.set_requires_grad(false)?;
        assert!(!x.matmul(&w)?.requires_grad());
        Ok(())
    })
}

#[test]
fn second_derivatives() -> Result<()> {
    let (x, w) = (randn(&[3, 4]), parameter(&[4, 4]));
    let penalty = |explicit: bool, w: &Tensor| -> Result<Tensor> {
        let product = |x: &Tensor| {
            if explicit { x.to_dtype(DType::BF16)?.matmul(&w.to_dtype(DType::BF16)?) } else { x.matmul(w) }
        };
        let loss = if explicit {
            product(&product(&x)?.tanh()?)?.to_dtype(DType::F32)?.square()?.mean(())?
        } else {
            autocast(DType::BF16, || product(&product(&x)?.tanh()?)?.square()?.mean(()))?
        };
        let grad = autograd::grad_with(&[(loss, None)], &[w], BackwardOptions::create_graph())?.remove(0).unwrap();
        assert_eq!(grad.dtype(), DType::F32);
        grad.square()?.sum(())?.backward()?;
        Ok(w.grad().unwrap())
    };
    let got = penalty(false, &w)?;
    let want = penalty(true, &w.detach().requires_grad_(true)?)?;
    assert_eq!(got.dtype(), DType::F32);
    let scale = values(&want).iter().fold(0f32, |most, v| most.max(v.abs()));
    // The copies' gradients are summed in another order.
    assert!(values(&got.sub(&want)?).iter().all(|v| v.abs() < 0.03 * scale), "{got:?} {want:?}");
    assert!(scale > 0.0);
    Ok(())
}

/// `a · b`, whose gradient is written with products, too.
struct Product;

impl Function for Product {
    fn name(&self) -> &str {
        "Product"
    }

    fn forward(&self, ctx: &mut FunctionCtx, inputs: &[Tensor]) -> Result<Tensor> {
        inputs.iter().for_each(|input| ctx.save(input));
        inputs[0].matmul(&inputs[1])
    }

    fn backward(&self, ctx: &BackwardCtx<'_>, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (ctx.saved(0)?, ctx.saved(1)?);
        Ok(vec![Some(grad.matmul(&b.t()?)?), Some(a.t()?.matmul(grad)?)])
    }
}

#[test]
fn custom_functions_run_in_the_region_in_both_directions() -> Result<()> {
    let (a, b) = (parameter(&[3, 4]), parameter(&[4, 2]));
    let y = autocast(DType::BF16, || apply(Product, &[&a, &b]))?;
    assert_eq!(y.dtype(), DType::BF16);
    y.sum(())?.backward()?;
    let grads = [&a, &b].map(|t| t.grad().unwrap());
    assert_eq!(grads.each_ref().map(Tensor::dtype), [DType::F32; 2]);
    let (own_a, own_b) = (a.detach().requires_grad_(true)?, b.detach().requires_grad_(true)?);
    autocast(DType::BF16, || own_a.matmul(&own_b)?.sum(()))?.backward()?;
    assert_eq!(grads.each_ref().map(values), [own_a, own_b].map(|t| values(&t.grad().unwrap())));
    // Outside of regions the dtypes stay those that there are.
    assert_eq!(apply(Product, &[&a, &b])?.dtype(), DType::F32);
    Ok(())
}

/// As PyTorch's kernels read them: neither parameters nor their gradients are rounded to the dtype of the images.
#[test]
fn normalizations_do_not_round_their_parameters() -> Result<()> {
    let (running, count) = ([randn(&[3]), randn(&[3]).exp()?], Tensor::zeros((), DType::I64)?);
    type Norm<'a> = &'a dyn Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<Tensor>;
    let with = |training: bool, x: &Tensor, w: &Tensor, b: &Tensor, before: &Tensor| {
        let [mean, var] = [running[0].copy()?, running[1].copy()?];
        let residual = x.mul(0.5)?;
        x.batch_norm_with(&BatchNorm {
            weight: Some(w),
            bias: Some(b),
            running: Some(Running { mean: &mean, var: &var }),
            count: Some(&count),
            training,
            momentum: 0.1,
            eps: 1e-5,
            bias_before: training.then_some(before),
            residual: training.then_some(&residual),
            relu: true,
        })
    };
    let norms: [Norm<'_>; 6] = [
        &|x, w, b, _| x.batch_norm(Some(w), Some(b), None, true, 0.1, 1e-5),
        &|x, w, _, _| x.batch_norm(Some(w), None, None, true, 0.1, 1e-5),
        &|x, _, b, _| x.batch_norm(None, Some(b), None, true, 0.1, 1e-5),
        &|x, w, b, before| with(true, x, w, b, before),
        &|x, w, b, before| with(false, x, w, b, before),
        &|x, w, b, _| x.instance_norm(None, Some(w), Some(b), true, 0.1, 1e-5),
    ];
    for (i, norm) in norms.iter().enumerate() {
        for low in LOW {
            for dims in [&[4, 3, 5, 5][..], &[0, 3, 5, 5], &[6, 3, 4]] {
                // Numbers that half precision does not have.
                let vectors = || [1.0001, 1.0002, 1.0003].map(|value| Tensor::full(3, value, Device::Cpu).unwrap());
                let images = randn(dims).to_dtype(low)?;
                let run = |wide: bool, second: bool| -> Result<(Tensor, Vec<Option<Tensor>>)> {
                    let [w, b, before] = vectors().map(|t| t.requires_grad_(true).unwrap());
                    let x = images.detach().requires_grad_(true)?;
                    let y = if wide {
                        norm(&x.to_dtype(DType::F32)?, &w, &b, &before)?.to_dtype(low)?
                    } else {
                        autocast(low, || norm(&x, &w, &b, &before))?
                    };
                    assert_eq!(y.dtype(), low);
                    let loss = y.to_dtype(DType::F32)?.square()?.sum(())?;
                    let all = [&x, &w, &b, &before];
                    if second {
                        let grads = autograd::grad_with(&[(loss, None)], &all, BackwardOptions::create_graph())?;
                        return Ok((y, grads));
                    }
                    loss.backward()?;
                    Ok((y, all.map(Tensor::grad).into()))
                };
                let (want, want_grads) = run(true, false)?;
                let (got, grads) = run(false, false)?;
                assert_eq!(bits(&got), bits(&want), "{i}, {low}, {dims:?}");
                for (at, (grad, want)) in grads.iter().zip(&want_grads).enumerate() {
                    let Some((grad, want)) = grad.as_ref().zip(want.as_ref()) else {
                        assert!(grad.is_none() && want.is_none(), "{i}, gradient {at}");
                        continue;
                    };
                    assert_eq!(grad.dtype(), if at == 0 { low } else { DType::F32 }, "{i}, gradient {at}");
                    if at > 0 {
                        // Only where ReLU lets a rounded 0 through may they differ.
                        assert_eq!(bits(grad), bits(want), "{i}, {low}, {dims:?}, gradient {at}");
                    }
                }
                let (_, recorded) = run(false, true)?;
                for (at, (grad, own)) in recorded.iter().zip(&grads).enumerate() {
                    let Some((grad, own)) = grad.as_ref().zip(own.as_ref()) else { continue };
                    assert_eq!(grad.dtype(), own.dtype(), "{i}, recorded gradient {at}");
                    let largest = values(own).iter().fold(1e-3f32, |most, value| most.max(value.abs()));
                    let far = values(&grad.sub(own)?).iter().fold(0f32, |most, value| most.max(value.abs()));
                    assert!(
                        largest.is_nan() || far <= 0.02 * largest,
                        "{i}, {low}, {dims:?}, recorded gradient {at}: {far} of {largest}"
                    );
                }
            }
        }
    }
    // Outside regions as well; but not one of the two alone.
    let (x, w) = (randn(&[4, 3, 5, 5]).to_dtype(DType::F16)?, randn(&[3]));
    assert_eq!(x.batch_norm(Some(&w), Some(&w), None, true, 0.1, 1e-5)?.dtype(), DType::F16);
    let error = x.batch_norm(Some(&w), Some(&w.to_dtype(DType::F16)?), None, true, 0.1, 1e-5).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::DTypeMismatch { .. }), "{error}");
    Ok(())
}

#[test]
fn batch_normalization_keeps_the_dtype_of_its_images() -> Result<()> {
    let (x, w, b) = (randn(&[4, 3, 5, 5]), parameter(&[3]), parameter(&[3]));
    let low = x.to_dtype(DType::BF16)?;
    let y = autocast(DType::BF16, || low.batch_norm(Some(&w), Some(&b), None, true, 0.1, 1e-5))?;
    assert_eq!(y.dtype(), DType::BF16);
    let want = x.batch_norm(Some(&w), Some(&b), None, true, 0.1, 1e-5)?;
    assert!(values(&y.sub(&want)?).iter().all(|difference| difference.abs() < 0.06));
    let wide = autocast(DType::BF16, || x.batch_norm(Some(&w), Some(&b), None, true, 0.1, 1e-5))?;
    assert_eq!((wide.dtype(), values(&wide)), (DType::F32, values(&want)));
    Ok(())
}
