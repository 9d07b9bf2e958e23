//! ReLU's gradient fused into the product of the next layer: used only where this cannot be observed; the gradients
//! always equal the CPU's.

use kiln::{
    DType,
    autograd::{self, BackwardOptions},
    prelude::*,
};

use crate::{
    account::recorded_on,
    support::{
        TURN, device,
        rounding::{Errors, assert_computed_alike},
    },
};

const RETAIN: BackwardOptions = BackwardOptions::retain_graph();

/// The terms of the longest sum of products.
const LONGEST: usize = 24;

/// Three layers of a network, and what goes in.
struct Net {
    x: Tensor,
    w: [Tensor; 3],
    b: [Tensor; 3],
}

impl Net {
    /// Of the numbers that there are in `dtype`, computed in `computed`.
    fn new(device: Device, dtype: DType, computed: DType, errors: &Errors) -> kiln::Result<Net> {
        manual_seed(3);
        let leaf = |dims: &[usize]| {
            let values = Tensor::randn(dims, Device::Cpu)?.mul(0.5)?;
            let values = values.to_dtype(dtype)?.to_dtype(computed)?.to_device(device)?.detach();
            errors.disturb_leaf(&values, LONGEST)?;
            values.requires_grad_(true)
        };
        Ok(Net {
            x: leaf(&[5, 16])?,
            w: [leaf(&[24, 16])?, leaf(&[24, 24])?, leaf(&[8, 24])?],
            b: [leaf(&[24])?, leaf(&[24])?, leaf(&[8])?],
        })
    }

    fn first(&self) -> kiln::Result<Tensor> {
        self.x.linear_relu(&self.w[0], Some(&self.b[0]))
    }

    fn second(&self, h: &Tensor) -> kiln::Result<Tensor> {
        h.linear_relu(&self.w[1], Some(&self.b[1]))
    }

    fn third(&self, h: &Tensor) -> kiln::Result<Tensor> {
        h.linear(&self.w[2], Some(&self.b[2]))
    }

    /// The gradients of all leaves that have one.
    fn grads(&self) -> Vec<Tensor> {
        [&self.x].into_iter().chain(&self.w).chain(&self.b).filter_map(Tensor::grad).collect()
    }
}

fn freeze(tensors: &[&Tensor]) -> kiln::Result<()> {
    tensors.iter().try_for_each(|&tensor| tensor.clone().requires_grad_(false).map(drop))
}

/// A way to use the network: tensors to compare.
type Case = fn(&Net) -> kiln::Result<Vec<Tensor>>;

fn plain(net: &Net) -> kiln::Result<Vec<Tensor>> {
    let (h1, h2, out);
    h1 = net.first()?;
    h2 = net.second(&h1)?;
    out = net.third(&h2)?;
    out.square()?.sum(())?.backward()?;
    Ok([vec![out], net.grads()].concat())
}

/// Name, case, and how many of its ReLU gradients are launches of their own on a device whose library has the epilogues.
const CASES: &[(&str, Case, usize)] = &[
    ("plain", plain, 0),
    (
        "empty",
        |net| {
            let none = net.x.narrow(0, 0, 0)?.detach().requires_grad_(true)?;
            let out = net.third(&none.linear_relu(&net.w[0], Some(&net.b[0]))?)?;
            out.square()?.sum(())?.backward()?;
            Ok([net.grads(), none.grad().into_iter().collect()].concat())
        },
        0,
    ),
    (
        "without a bias",
        |net| {
            let out = net.x.linear_relu(&net.w[0], None)?.linear(&net.w[1], None)?;
            out.square()?.sum(())?.backward()?;
            Ok(net.grads())
        },
        0,
    ),
    (
        "a frozen bias",
        |net| {
            freeze(&[&net.b[0]])?;
            plain(net)
        },
        0,
    ),
    (
        "a frozen weight",
        |net| {
            freeze(&[&net.w[0], &net.w[1]])?;
            plain(net)
        },
        0,
    ),
    (
        "only the bias",
        |net| {
            freeze(&[&net.x, &net.w[0]])?;
            plain(net)
        },
        0,
    ),
    (
        "three dimensions, so that there are views in between",
        |net| {
            let x = Tensor::stack(&[net.x.mul(1)?, net.x.mul(2)?], 0)?;
            net.third(&net.second(&x.linear_relu(&net.w[0], Some(&net.b[0]))?)?)?.square()?.sum(())?.backward()?;
            Ok(net.grads())
        },
        2,
    ),
    (
        "transposed in between",
        |net| {
            let h = net.first()?.t()?.contiguous()?.t()?;
            net.third(&h)?.square()?.sum(())?.backward()?;
            Ok(net.grads())
        },
        1,
    ),
    (
        "a hook, which is then taken away",
        |net| {
            let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            let h1 = net.first()?;
            let out = net.third(&net.second(&h1)?)?.square()?.sum(())?;
            let hook = h1.register_hook({
                let seen = seen.clone();
                move |grad| {
                    seen.lock().unwrap().push(grad.copy()?);
                    Ok(Some(grad.mul(2)?))
                }
            })?;
            out.backward_retain_graph()?;
            hook.remove();
            out.backward()?;
            let seen = seen.lock().unwrap().clone();
            assert_eq!(seen.len(), 1);
            Ok([seen, net.grads()].concat())
        },
        1,
    ),
    (
        "retain_grad",
        |net| {
            let h1 = net.first()?;
            let h2 = net.second(&h1)?;
            h2.retain_grad()?;
            net.third(&h2)?.square()?.sum(())?.backward()?;
            Ok([vec![h2.grad().unwrap()], net.grads()].concat())
        },
        1,
    ),
    (
        "a target in between",
        |net| {
            let h1 = net.first()?;
            let h2 = net.second(&h1)?;
            let out = net.third(&h2)?.square()?.sum(())?;
            autograd::grad(&[&out], &[&h1, &net.w[0]])
        },
        1,
    ),
    (
        "leaves as targets",
        |net| {
            let out = net.third(&net.second(&net.first()?)?)?.square()?.sum(())?;
            autograd::grad(&[&out], &[&net.w[0], &net.b[1]])
        },
        0,
    ),
    (
        "two that read it",
        |net| {
            let h1 = net.first()?;
            let (a, b) = (net.second(&h1)?, h1.linear(&net.w[1], None)?);
            net.third(&a.add(&b)?)?.square()?.sum(())?.backward()?;
            Ok(net.grads())
        },
        2,
    ),
    (
        "read twice by one operation",
        |net| {
            let square = net.x.narrow(0, 0, 5)?.linear_relu(&net.w[0].narrow(0, 0, 5)?, None)?;
            square.linear(&square, None)?.square()?.sum(())?.backward()?;
            Ok(net.grads())
        },
        1,
    ),
    (
        "a reader that was dropped",
        |net| {
            let h1 = net.first()?;
            drop(h1.exp()?.sum(())?);
            net.third(&net.second(&h1)?)?.square()?.sum(())?.backward()?;
            Ok(net.grads())
        },
        0,
    ),
    (
        "a root of its own",
        |net| {
            let h1 = net.first()?;
            let out = net.third(&net.second(&h1)?)?;
            let ones = (h1.ones_like()?, out.ones_like()?);
            autograd::backward(&[(h1, Some(ones.0)), (out, Some(ones.1))], BackwardOptions::default())?;
            Ok(net.grads())
        },
        1,
    ),
    (
        "twice, from a graph that is kept",
        |net| {
            let out = net.third(&net.second(&net.first()?)?)?.square()?.sum(())?;
            autograd::backward(&[(out.clone(), None)], RETAIN)?;
            out.backward()?;
            let again = out.backward().unwrap_err().to_string();
            assert!(again.contains("a second time"), "{again}");
            Ok(net.grads())
        },
        0,
    ),
    (
        "changed in place after it was read",
        |net| {
            freeze(&[&net.w[1], &net.b[1]])?;
            let h1 = net.first()?;
            let out = h1.linear(&net.w[1], None)?.square()?.sum(())?;
            no_grad(|| h1.mul_(2))?;
            let error = out.backward().unwrap_err().to_string();
            assert!(error.contains("in-place"), "{error}");
            Ok(vec![out])
        },
        0,
    ),
    (
        "changed in place and then read",
        |net| {
            let h1 = net.first()?;
            h1.add_(1)?;
            let error = net.third(&h1)?.square()?.sum(())?.backward().unwrap_err().to_string();
            assert!(error.contains("in-place"), "{error}");
            Ok(vec![h1])
        },
        0,
    ),
];

/// The results of a case, and how many kernels for ReLU's gradient alone it has launched.
fn run(net: &Net, case: Case) -> kiln::Result<(Vec<Vec<f64>>, Option<usize>)> {
    let (out, account) = recorded_on(net.x.device(), || case(net))?;
    let launches = account.map(|account| {
        let operations = account["operations"].as_array().unwrap();
        let relu = |name: &str| name.starts_with("unary_grad_relu") || name.starts_with("relu_bias_grad");
        operations.iter().filter(|name| name.as_str().is_some_and(relu)).count()
    });
    let values =
        out.iter().map(|t| t.to_dtype(DType::F64)?.flatten(0, -1)?.to_vec::<f64>()).collect::<Result<_, _>>()?;
    Ok((values, launches))
}

#[test]
fn gradients_are_those_of_the_cpu_however_they_flow() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for &(name, case, most) in CASES {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let (got, launches) = run(&Net::new(device, dtype, dtype, &Errors::none())?, case)?;
            assert_computed_alike(name, dtype, &got, |errors| {
                Ok(run(&Net::new(Device::Cpu, dtype, errors.computed(), errors)?, case)?.0)
            })?;
            // In double precision the library has no masks.
            if let (Some(launches), true) = (launches, dtype != DType::F64) {
                assert_eq!(launches, most, "{name} {dtype}");
            }
        }
    }
    Ok(())
}
