//! The gradient that cross-entropy computes along with the loss: used only where this cannot be observed; the gradients
//! always equal the CPU's.

use kiln::{
    DType,
    autograd::{self, BackwardOptions},
    nn::functional::cross_entropy,
    prelude::*,
};

use crate::{
    account::recorded_on,
    support::{TURN, device},
};

/// Scores that are a leaf, a loss of them, and another leaf.
struct Scores {
    x: Tensor,
    loss: Tensor,
    scale: Tensor,
}

impl Scores {
    fn new(device: Device, dtype: DType, dims: [usize; 2]) -> kiln::Result<Scores> {
        manual_seed(5);
        let x = Tensor::randn(dims, Device::Cpu)?.to_dtype(dtype)?.to_device(device)?.requires_grad_(true)?;
        let labels = Tensor::arange(0, dims[0], Device::Cpu)?.remainder(dims[1] as i64)?.to_dtype(DType::I64)?;
        let loss = cross_entropy(&x, &labels.to_device(device)?)?;
        let scale = Tensor::full((), 3.0, (dtype, device))?.requires_grad_(true)?;
        Ok(Scores { x, loss, scale })
    }

    fn grads(&self) -> Vec<Tensor> {
        [&self.x, &self.scale].into_iter().filter_map(Tensor::grad).collect()
    }
}

/// A way to use the loss: tensors to compare.
type Case = fn(&Scores) -> kiln::Result<Vec<Tensor>>;

/// Name, case, and how many launches compute the gradient of the loss, or the 1 that it begins with.
const CASES: &[(&str, Case, usize)] = &[
    (
        "plain",
        |it| {
            it.loss.backward()?;
            Ok(it.grads())
        },
        0,
    ),
    (
        "a gradient that is there already",
        |it| {
            it.x.set_grad(Some(it.x.detach().copy()?))?;
            it.loss.backward()?;
            Ok(it.grads())
        },
        0,
    ),
    ("a leaf as target", |it| autograd::grad(&[&it.loss], &[&it.x]), 0),
    ("the loss as target", |it| autograd::grad(&[&it.loss], &[&it.loss, &it.x]), 2),
    (
        "a hook on the scores",
        |it| {
            let _hook = it.x.register_hook(|grad| Ok(Some(grad.mul(2)?)))?;
            it.loss.backward()?;
            Ok(it.grads())
        },
        0,
    ),
    (
        "a hook on the loss",
        |it| {
            let _hook = it.loss.register_hook(|grad| Ok(Some(grad.mul(2)?)))?;
            it.loss.backward()?;
            Ok(it.grads())
        },
        2,
    ),
    (
        "retain_grad of the loss",
        |it| {
            it.loss.retain_grad()?;
            it.loss.backward()?;
            Ok([it.grads(), it.loss.grad().into_iter().collect()].concat())
        },
        2,
    ),
    (
        "twice, and the gradient is changed in between",
        |it| {
            it.loss.backward_retain_graph()?;
            no_grad(|| it.x.grad().map_or(Ok(()), |grad| grad.mul_(5)))?;
            it.loss.backward()?;
            let again = it.loss.backward().unwrap_err().to_string();
            assert!(again.contains("a second time"), "{again}");
            Ok(it.grads())
        },
        2,
    ),
    (
        "another gradient to begin with",
        |it| {
            it.loss.backward_with(&it.loss.detach(), BackwardOptions::default())?;
            Ok(it.grads())
        },
        1,
    ),
    (
        "a scaled loss",
        |it| {
            it.loss.mul(&it.scale)?.backward()?;
            Ok(it.grads())
        },
        2,
    ),
    (
        "two losses, one of which leads to the other",
        |it| {
            let roots = [(it.loss.clone(), None), (it.loss.mul(&it.scale)?, None)];
            autograd::backward(&roots, BackwardOptions::default())?;
            Ok(it.grads())
        },
        3,
    ),
    (
        "a second derivative",
        |it| {
            let first = autograd::grad_with(&[(it.loss.clone(), None)], &[&it.x], BackwardOptions::create_graph())?;
            let first = first.into_iter().flatten().next().expect("it depends on the scores");
            first.square()?.sum(())?.backward()?;
            Ok([vec![first.detach()], it.grads()].concat())
        },
        usize::MAX,
    ),
    (
        "scores that were changed",
        |it| {
            no_grad(|| it.x.mul_(2))?;
            let error = it.loss.backward().unwrap_err().to_string();
            assert!(error.contains("in-place"), "{error}");
            Ok(it.grads())
        },
        0,
    ),
];

/// The results of a case, and how many kernels for the gradient and its beginning it has launched.
fn run(scores: &Scores, case: Case) -> kiln::Result<(Vec<Vec<f64>>, Option<usize>)> {
    let (out, account) = recorded_on(scores.x.device(), || case(scores))?;
    let launches = account.map(|account| {
        let operations = account["operations"].as_array().unwrap();
        let counts = |name: &str| name.starts_with("class_loss_grad") || name.starts_with("fill");
        operations.iter().filter(|name| name.as_str().is_some_and(counts)).count()
    });
    let values =
        out.iter().map(|t| t.to_dtype(DType::F64)?.flatten(0, -1)?.to_vec::<f64>()).collect::<Result<_, _>>()?;
    Ok((values, launches))
}

#[test]
fn gradients_are_those_of_the_cpu_wherever_they_begin() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for &(name, case, most) in CASES {
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
            for dims in [[64, 10], [1, 3]] {
                let (got, launches) = run(&Scores::new(device, dtype, dims)?, case)?;
                let (want, _) = run(&Scores::new(Device::Cpu, dtype, dims)?, case)?;
                assert_eq!(got.len(), want.len(), "{name}");
                for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                    assert!((got - want).abs() <= tolerance * want.abs().max(1.0), "{name} {dtype}: {got}, not {want}");
                }
                if let Some(launches) = launches.filter(|_| most != usize::MAX) {
                    assert_eq!(launches, most, "{name} {dtype} {dims:?}");
                }
            }
        }
    }
    Ok(())
}
