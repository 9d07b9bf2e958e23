//! Tests of the optimizer steps, against the values of `torch.optim`.

use kiln_backend::{Arguments, DType, OptimArgs, OptimBackend, OptimRule, OptimScaling, OptimSlot, Result};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, numbers};

const SGD: OptimRule =
    OptimRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0, maximize: false };
const ADAM: OptimRule = OptimRule::Adam {
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.0,
    decoupled: false,
    amsgrad: false,
    maximize: false,
};

/// Rules with a learning rate, and the parameters that `torch.optim` reaches from `[1, -2, 0.5, 3]` in three steps with
/// the gradients of [`gradient`] (computed in float64).
fn cases() -> Vec<(OptimRule, f64, [f64; 4])> {
    let rms = |weight_decay, momentum, centered, alpha, maximize| OptimRule::RmsProp {
        alpha,
        eps: 1e-8,
        weight_decay,
        momentum,
        centered,
        maximize,
    };
    let sgd = |momentum, dampening, nesterov, weight_decay, maximize| OptimRule::Sgd {
        momentum,
        dampening,
        nesterov,
        weight_decay,
        maximize,
    };
    let amsgrad = OptimRule::Adam {
        beta1: 0.3,
        beta2: 0.99,
        eps: 1e-3,
        weight_decay: 0.1,
        decoupled: false,
        amsgrad: true,
        maximize: false,
    };
    let adamw = OptimRule::Adam {
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        decoupled: true,
        amsgrad: false,
        maximize: true,
    };
    let adagrad = OptimRule::Adagrad { lr_decay: 0.1, weight_decay: 0.05, eps: 1e-10, maximize: false };
    vec![
        (SGD, 0.1, [0.965816198, -1.931632396, 0.400448094, 3.49116063]),
        (sgd(0.0, 0.0, false, 0.02, true), 0.1, [1.0281434144, -2.0562868288, 0.5964117522, 2.4915819192]),
        (sgd(0.9, 0.3, false, 0.02, false), 0.1, [0.933357747192, -1.866715494384, 0.327405592746, 3.802840863696]),
        (sgd(0.9, 0.0, true, 0.0, false), 0.1, [0.902696936282, -1.805393872564, 0.215814003846, 4.40393895177]),
        (ADAM, 0.01, [0.972179170714, -1.972179334279, 0.472116162794, 3.027911399023]),
        (amsgrad, 0.01, [0.971544358698, -1.971455836953, 0.472889510729, 3.025679737897]),
        (adamw, 0.01, [1.024793611408, -2.021796776477, 0.526355504128, 2.963127295231]),
        (rms(0.1, 0.0, false, 0.99, false), 0.01, [0.786528191039, -1.784200590883, 0.295542266648, 3.195513789533]),
        (rms(0.0, 0.9, true, 0.9, false), 0.01, [0.844541181284, -1.844522703073, 0.344973918091, 3.154819267229]),
        (rms(0.0, 0.0, true, 0.99, true), 0.01, [1.205725990827, -2.205632387885, 0.704640146162, 2.795867593511]),
        (adagrad, 0.1, [0.912588515838, -1.864111427926, 0.362229441239, 3.183562201218]),
    ]
}

/// The gradients of the cases: they depend on the parameter, and the last is smaller.
fn gradient(step: usize, param: &[f64]) -> Vec<f64> {
    let base = [0.1, -0.2, 0.3, -1.5];
    let factor = if step == 2 { 0.1 } else { 1.0 };
    (0..param.len()).map(|i| (base[i % 4] * (step + 1) as f64 + 0.01 * param[i] * step as f64) * factor).collect()
}

fn initial_state(rule: &OptimRule) -> f64 {
    if matches!(rule, OptimRule::Adagrad { .. }) { 0.2 } else { 0.0 }
}

struct Param {
    param: Tensor,
    grad: Tensor,
    states: Vec<Tensor>,
    count: Tensor,
}

/// A step with this learning rate.
fn step(rule: &OptimRule, lr: f64, slots: Vec<OptimSlot>) -> Result<()> {
    let lr = Tensor::new(DType::F64, &[], &[lr]);
    CpuBackend.optimizer_step(OptimArgs { rule: *rule, lr: lr.view(), scaling: None, slots }.checked()?)
}

impl Param {
    fn new(dtype: DType, rule: &OptimRule, dims: &[usize], values: &[f64]) -> Param {
        let states = (0..rule.states()).map(|_| Tensor::new(dtype, dims, &vec![initial_state(rule); values.len()]));
        let count = Tensor::new(DType::I64, &[], &[0.0]);
        let (param, grad) = (Tensor::new(dtype, dims, values), Tensor::empty(dtype, dims));
        Param { param, grad, states: states.collect(), count }
    }

    fn slot(&mut self) -> OptimSlot<'_> {
        OptimSlot {
            param: self.param.view_mut(),
            grad: self.grad.view(),
            states: self.states.iter_mut().map(Tensor::view_mut).collect(),
            count: self.count.view_mut(),
            low: None,
        }
    }
}

#[test]
fn three_steps_lead_where_pytorch_goes() {
    for (rule, lr, want) in cases() {
        for (dtype, ulps) in [(DType::F64, 1e5), (DType::F32, 32.0), (DType::F16, 16.0), (DType::BF16, 16.0)] {
            let mut p = Param::new(dtype, &rule, &[4], &[1.0, -2.0, 0.5, 3.0]);
            for i in 0..3 {
                let grad = gradient(i, &p.param.values());
                p.grad = Tensor::new(dtype, &[4], &grad);
                step(&rule, lr, vec![p.slot()]).unwrap();
            }
            assert_eq!(p.count.values(), [3.0]);
            // Printed to 12 decimals: about 1e5 ulps of f64.
            assert_close(&p.param.values(), &want, dtype, ulps, &format!("{rule:?}"));
        }
    }
}

/// Elements must be updated alike wherever they lie: in one tensor or many, at its end or inside, on any thread.
#[test]
fn a_group_is_updated_as_its_elements_would_be_alone() {
    let sizes = [3usize, 0, 70_000, 1, 300, 20_001, 256];
    let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    for (rule, lr, _) in cases() {
        for dtype in [DType::F32, DType::BF16] {
            let mut group: Vec<Param> =
                sizes.iter().map(|&n| Param::new(dtype, &rule, &[n], &numbers(n, n as u64))).collect();
            let all: Vec<f64> = group.iter().flat_map(|p| p.param.values()).collect();
            let mut whole = Param::new(dtype, &rule, &[all.len()], &all);
            for i in 1..3 {
                let grads: Vec<Vec<f64>> = sizes.iter().map(|&n| numbers(n, n as u64 + i)).collect();
                whole.grad = Tensor::new(dtype, &[all.len()], &grads.concat());
                for (p, g) in group.iter_mut().zip(&grads) {
                    p.grad = Tensor::new(dtype, &[g.len()], g);
                }
                step(&rule, lr, vec![whole.slot()]).unwrap();
                let slots: Vec<OptimSlot> = group.iter_mut().map(Param::slot).collect();
                many.install(|| step(&rule, lr, slots)).unwrap();
            }
            let got: Vec<f64> = group.iter().flat_map(|p| p.param.values()).collect();
            assert_close(&got, &whole.param.values(), dtype, 0.0, &format!("{rule:?}"));
        }
    }
}

#[test]
fn parameters_of_a_group_may_differ_in_dtype_and_step() {
    let mut a = Param::new(DType::F32, &ADAM, &[2], &[1.0, 2.0]);
    let mut b = Param::new(DType::F64, &ADAM, &[], &[1.0]);
    a.grad = Tensor::new(DType::F32, &[2], &[1.0, -1.0]);
    b.grad = Tensor::new(DType::F64, &[], &[1.0]);
    step(&ADAM, 0.1, vec![a.slot(), b.slot()]).unwrap();
    // The first step of Adam is the learning rate, against the gradient's sign.
    assert_close(&a.param.values(), &[0.9, 2.1], DType::F32, 4.0, "f32");
    assert_close(&b.param.values(), &[0.9], DType::F64, 1e8, "f64");
    step(&ADAM, 0.1, vec![]).unwrap();
}

/// Gradients in half precision, unscaled, with a rounded copy of the parameter; and steps that are skipped.
#[test]
fn scaled_steps() {
    for (rule, lr, _) in cases() {
        for (half, low) in [(DType::F16, DType::BF16), (DType::BF16, DType::F16), (DType::F32, DType::F16)] {
            for len in [1, 7, 513, 5000] {
                let values = numbers(len, 1);
                let new = || Param::new(DType::F32, &rule, &[len], &values);
                let (mut got, mut want) = (new(), new());
                let (mut copy, what) = (Tensor::empty(low, &[len]), format!("{rule:?} {half} {low} {len}"));
                for round in 0..4 {
                    // Numbers that both types hold.
                    let grad: Vec<f64> = numbers(len, 7 + round).iter().map(|x| (x * 8.0).round() / 8.0).collect();
                    let scaled: Vec<f64> = grad.iter().map(|x| x * 16.0).collect();
                    got.grad = Tensor::new(half, &[len], &scaled);
                    want.grad = Tensor::new(DType::F32, &[len], &grad);
                    let skipped = round == 2;
                    let found = Tensor::new(DType::F32, &[], &[f64::from(u8::from(skipped))]);
                    let (lr, scale) = (Tensor::new(DType::F64, &[], &[lr]), Tensor::new(DType::F32, &[], &[16.0]));
                    let scaling = Some(OptimScaling { found_inf: found.view(), scale: Some(scale.view()) });
                    let slots = vec![OptimSlot { low: Some(copy.view_mut()), ..got.slot() }];
                    let args = OptimArgs { rule, lr: lr.view(), scaling, slots };
                    CpuBackend.optimizer_step(args.checked().unwrap()).unwrap();
                    if !skipped {
                        step(&rule, lr.values()[0], vec![want.slot()]).unwrap();
                    }
                    assert_eq!(got.count.values(), want.count.values(), "{what}");
                    assert_eq!(got.param.bytes(), want.param.bytes(), "{what}");
                    let rounded = Tensor::new(low, &[len], &want.param.values());
                    assert_eq!(copy.bytes(), rounded.bytes(), "{what}");
                    for (got, want) in got.states.iter().zip(&want.states) {
                        assert_eq!(got.bytes(), want.bytes(), "{what}");
                    }
                }
            }
        }
    }
}
