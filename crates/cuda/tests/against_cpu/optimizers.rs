//! Optimizer steps against the CPU.

use kiln_backend::*;

use crate::support::*;

/// One number.
fn filled(on: &dyn Backend, dtype: DType, value: f64) -> Tensor {
    Tensor { buffer: on.adopt(host(dtype, &[value])).unwrap(), layout: Layout::contiguous(Shape::new(&[]).unwrap()) }
}

macro_rules! optimizers {
    ($($name:ident: $($rule:expr),+;)*) => {$(
        #[test]
        fn $name() {
            for rule in [$($rule),+] {
                steps(rule);
            }
        }
    )*};
}

optimizers! {
    sgd:
        OptimRule::Sgd { momentum: 0.9, dampening: 0.1, nesterov: false, weight_decay: 0.01, maximize: false },
        OptimRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0, maximize: true };
    adam:
        OptimRule::Adam {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            decoupled: true,
            amsgrad: true,
            maximize: false,
        };
    rmsprop:
        OptimRule::RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.1, momentum: 0.5, centered: true, maximize: false };
    adagrad:
        OptimRule::Adagrad { lr_decay: 0.1, weight_decay: 0.1, eps: 1e-3, maximize: false };
}

fn steps(rule: OptimRule) {
    for dtype in FLOATS {
        same(&format!("{rule:?}"), |on| {
            // More parameters than a launch takes, some of them without elements.
            let mut all: Vec<Vec<Tensor>> = (0..75)
                .map(|i| {
                    // Without elements, of a block of them or two, or with some left over.
                    let dims = [match i {
                        6 | 20 | 74 => 0,
                        5 => 4096,
                        9 => 8192,
                        73 => 4097,
                        _ => 3 + 100 * (i % 3),
                    }];
                    (0..2).map(|j| tensor(on, dtype, &dims, MemoryLayout::Dense, i as u64 + j)).collect()
                })
                .collect();
            for tensors in &mut all {
                for _ in 0..rule.states() {
                    let zero = target(on, dtype, &[tensors[0].layout.numel()], MemoryLayout::Dense);
                    tensors.push(zero);
                }
            }
            let lr = filled(on, DType::F64, 0.1);
            let mut counts: Vec<Tensor> = (0..75).map(|_| filled(on, DType::I64, 0.0)).collect();
            for _ in 0..3 {
                let slots: Vec<OptimSlot> = all
                    .iter_mut()
                    .zip(&mut counts)
                    .map(|(tensors, count)| {
                        let (param, rest) = tensors.split_first_mut().unwrap();
                        let (grad, states) = rest.split_first_mut().unwrap();
                        let states = states.iter_mut().map(Tensor::view_mut).collect();
                        OptimSlot { param: param.view_mut(), grad: grad.view(), states, count: count.view_mut() }
                    })
                    .collect();
                on.optimizer_step(OptimArgs { rule, lr: lr.view(), slots }.checked()?)?;
            }
            Ok(all.into_iter().flatten().chain(counts).collect())
        });
    }
}
