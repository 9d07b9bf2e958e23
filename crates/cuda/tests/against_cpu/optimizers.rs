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
                scaled_steps(rule);
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
        },
        OptimRule::Adam {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
            amsgrad: false,
            maximize: true,
        };
    rmsprop:
        OptimRule::RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.1, momentum: 0.5, centered: true, maximize: false },
        OptimRule::RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.0, momentum: 0.5, centered: false, maximize: true },
        OptimRule::RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.0, momentum: 0.0, centered: true, maximize: false },
        OptimRule::RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.0, momentum: 0.0, centered: false, maximize: false };
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
                        OptimSlot {
                            param: param.view_mut(),
                            grad: grad.view(),
                            states,
                            count: count.view_mut(),
                            low: None,
                        }
                    })
                    .collect();
                on.optimizer_step(OptimArgs { rule, lr: lr.view(), scaling: None, slots }.checked()?)?;
            }
            Ok(all.into_iter().flatten().chain(counts).collect())
        });
    }
}

/// Zeros or numbers without gaps, that begin at a multiple of 16 bytes or behind it.
fn dense(on: &dyn Backend, dtype: DType, n: usize, aligned: bool, salt: Option<u64>) -> Tensor {
    let values = salt.map_or_else(|| vec![0.0; n + 1], |salt| numbers(n + 1, salt));
    let whole = Layout::contiguous(Shape::new(&[n + 1]).unwrap());
    let first = usize::from(!aligned);
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout: whole.slice(0, first, first + n, 1) }
}

/// Steps by scaled gradients, of which one is skipped: gradients in half precision, rounded copies of parameters, and operands
/// that do not begin at a multiple of 16 bytes.
fn scaled_steps(rule: OptimRule) {
    const F32: DType = DType::F32;
    // The dtypes of parameters, of the gradients of every third one, and of copies.
    for (dtype, grads, low) in [
        (F32, [F32; 3], None),
        (F32, [F32; 3], Some(DType::F16)),
        (F32, [DType::F16, DType::F16, F32], Some(DType::BF16)),
        (F32, [DType::BF16, DType::BF16, F32], Some(DType::BF16)),
        (F32, [F32, DType::BF16, DType::F16], Some(DType::BF16)),
        (DType::F64, [DType::F64; 3], None),
        (DType::F16, [DType::F16; 3], None),
        (DType::BF16, [DType::BF16; 3], None),
    ] {
        // Which of parameter, gradient, states and copy is not aligned.
        for odd in [None, Some(0), Some(1), Some(2), Some(3)] {
            if (odd == Some(2) && rule.states() == 0) || (odd == Some(3) && low.is_none()) {
                continue;
            }
            same(&format!("{rule:?} {dtype} {grads:?} {low:?} {odd:?}"), |on| {
                let sizes = [1, 0, 7, 8, 4096, 4111, 8192];
                let is_even = |what| odd != Some(what);
                let mut all: Vec<_> = (0u64..)
                    .zip(sizes)
                    .map(|(i, n)| {
                        let states: Vec<Tensor> =
                            (0..rule.states()).map(|_| dense(on, dtype, n, is_even(2), None)).collect();
                        let of_grad = grads[i as usize % 3];
                        let (param, grad) =
                            (dense(on, dtype, n, is_even(0), Some(i)), dense(on, of_grad, n, is_even(1), Some(i + 9)));
                        let low = low.map(|low| dense(on, low, n, is_even(3), None));
                        (param, grad, states, low, filled(on, DType::I64, 0.0))
                    })
                    .collect();
                let (lr, scale) = (filled(on, DType::F64, 0.1), filled(on, DType::F32, 3.0));
                for (found, scale) in [(0.0, Some(&scale)), (1.0, Some(&scale)), (0.0, None)] {
                    let found = filled(on, DType::F32, found);
                    let slots = all
                        .iter_mut()
                        .map(|(param, grad, states, low, count)| OptimSlot {
                            param: param.view_mut(),
                            grad: grad.view(),
                            states: states.iter_mut().map(Tensor::view_mut).collect(),
                            count: count.view_mut(),
                            low: low.as_mut().map(Tensor::view_mut),
                        })
                        .collect();
                    let scaling = Some(OptimScaling { found_inf: found.view(), scale: scale.map(Tensor::view) });
                    on.optimizer_step(OptimArgs { rule, lr: lr.view(), scaling, slots }.checked()?)?;
                }
                let results = all
                    .into_iter()
                    .flat_map(|(param, _, states, low, count)| [param, count].into_iter().chain(states).chain(low));
                Ok(results.collect())
            });
        }
    }
}

/// More gradients than a launch takes, of all dtypes at once.
#[test]
fn unscaled_gradients() {
    for wild in [None, Some((0, 0)), Some((261, 3)), Some((262, 4096)), Some((263, 2))] {
        for scale in [Some(4.0), None] {
            same(&format!("{wild:?} {scale:?}"), |on| {
                let scale = scale.map(|scale| filled(on, DType::F32, scale));
                let mut found = filled(on, DType::F32, 0.0);
                let mut grads: Vec<Tensor> = (0..266)
                    .map(|i| {
                        let n = [5, 0, 8, 4099][if i == 262 { 3 } else { i % 3 }].max(usize::from(i >= 260) * 4);
                        dense(on, FLOATS[i / 3 % 4], n, i % 2 == 0, Some(i as u64))
                    })
                    .collect();
                if let Some((which, at)) = wild {
                    let (dtype, n) = (grads[which].buffer.dtype(), grads[which].layout.numel());
                    let mut values = numbers(n, 1);
                    values[at] = if which % 2 == 0 { f64::NAN } else { f64::NEG_INFINITY };
                    let buffer = on.adopt(host(dtype, &values)).unwrap();
                    grads[which] = Tensor { buffer, layout: Layout::contiguous(Shape::new(&[n]).unwrap()) };
                }
                let args = UnscaleGradsArgs {
                    grads: grads.iter_mut().map(Tensor::view_mut).collect(),
                    scale: scale.as_ref().map(Tensor::view),
                    found_inf: found.view_mut(),
                };
                on.unscale_grads(args.checked()?)?;
                Ok(grads.into_iter().chain([found]).collect())
            });
        }
    }
}

#[test]
fn scales_that_move() {
    for start in [3.0, 3e38, 1e-38] {
        same_bits(&format!("{start}"), |on| {
            let (mut scale, mut tracker) = (filled(on, DType::F32, start), filled(on, DType::I32, 0.0));
            let mut out = Vec::new();
            for inf in [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0] {
                let mut found = filled(on, DType::F32, inf);
                let args = UpdateScaleArgs {
                    scale: scale.view_mut(),
                    growth_tracker: tracker.view_mut(),
                    found_inf: found.view_mut(),
                    growth_factor: 2.1,
                    backoff_factor: 0.3,
                    growth_interval: 2,
                };
                on.update_scale(args.checked()?)?;
                out.extend([
                    found,
                    filled(on, DType::F32, read(on, &scale)[0]),
                    filled(on, DType::I32, read(on, &tracker)[0]),
                ]);
            }
            Ok(out)
        });
    }
}
