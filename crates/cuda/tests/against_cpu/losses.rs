//! Losses and their gradients against the CPU.

use kiln_backend::*;

use crate::support::*;

/// The losses of a class loss of `[N, C, S]`, and what is saved for the gradient: a number per row, and the divisor.
pub fn class_loss(on: &dyn Backend, operands: ClassLossOperands) -> Result<[Tensor; 3]> {
    class_loss_in(on, operands, operands.x.dtype())
}

/// [`class_loss`] with the losses in this dtype.
fn class_loss_in(on: &dyn Backend, operands: ClassLossOperands, loss: DType) -> Result<[Tensor; 3]> {
    let (dtype, dims) = (operands.x.dtype(), operands.x.layout.dims());
    let rows = [dims[0], dims[2]];
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let loss_dims: &[usize] = if operands.rule.reduction == Reduction::None { &rows } else { &[] };
    let [mut loss, mut lse, mut total] = [(loss, loss_dims), (wide, &rows), (wide, &[])]
        .map(|(dtype, dims)| target(on, dtype, dims, MemoryLayout::Dense));
    let (to, kept, sum) = (loss.view_mut(), lse.view_mut(), total.view_mut());
    on.class_loss(ClassLossArgs { operands, loss: to, lse: kept, total: sum, grad: None }.checked()?)?;
    Ok([loss, lse, total])
}

/// The gradient with respect to the input, from the results of [`class_loss`].
pub fn class_loss_grad(on: &dyn Backend, operands: ClassLossOperands, results: &[Tensor; 3]) -> Result<Tensor> {
    let [loss, lse, total] = results;
    let (dtype, dims) = (operands.x.dtype(), operands.x.layout.dims());
    let grad = tensor(on, loss.view().dtype(), loss.layout.dims(), MemoryLayout::Dense, 7);
    let mut dx = target(on, dtype, dims, MemoryLayout::Dense);
    let (grad, lse, total, out) = (grad.view(), lse.view(), total.view(), dx.view_mut());
    on.class_loss_grad(ClassLossGradArgs { operands, grad, lse, total, out }.checked()?)?;
    Ok(dx)
}

/// An element-wise loss, and its gradient with respect to the input.
fn pointwise_loss_and_grad(on: &dyn Backend, loss: PointwiseLoss) -> Result<Vec<Tensor>> {
    let (dtype, dims) = (loss.input.dtype(), loss.input.layout.dims());
    let loss_dims: &[usize] = if loss.reduction == Reduction::None { dims } else { &[] };
    let grad = tensor(on, dtype, loss_dims, MemoryLayout::Dense, 4);
    let [mut out, mut dx] = [loss_dims, dims].map(|dims| target(on, dtype, dims, MemoryLayout::Dense));
    on.pointwise_loss(PointwiseLossArgs { loss, out: out.view_mut() }.checked()?)?;
    on.pointwise_loss_grad(PointwiseLossGradArgs { loss, grad: grad.view(), out: dx.view_mut() }.checked()?)?;
    Ok(vec![out, dx])
}

#[test]
fn cross_entropy() {
    for dtype in FLOATS {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            for (dims, smoothing) in [([64, 10, 1], 0.0), ([3, 5, 4], 0.1), ([700, 10, 1], 0.0)] {
                let rule =
                    ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: 2, label_smoothing: smoothing };
                same(&format!("{rule:?} {dims:?}"), |on| {
                    let x = tensor(on, dtype, &dims, MemoryLayout::Dense, 1);
                    let rows = [dims[0], dims[2]];
                    let (labels, weight) =
                        (index(on, &rows, dims[1]), tensor(on, dtype, &[dims[1]], MemoryLayout::Dense, 5));
                    let weight = (smoothing > 0.0).then_some(weight.view());
                    let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight };
                    let results = class_loss(on, operands)?;
                    let dx = class_loss_grad(on, operands, &results)?;
                    let [loss, _, total] = results;
                    Ok(vec![loss, total, dx])
                });
            }
        }
    }
}

/// Losses in f32 of scores in half precision, by both kinds of kernels, in one block and in several.
#[test]
fn cross_entropy_of_half_precision_in_f32() {
    for dtype in [DType::F16, DType::BF16] {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            for dims in [[30, 10, 1], [3, 5, 4], [5000, 10, 1], [7, 200, 1], [900, 200, 1], [0, 70, 1]] {
                let rule =
                    ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: 2, label_smoothing: 0.0 };
                same(&format!("{rule:?} {dims:?}"), |on| {
                    let x = tensor(on, dtype, &dims, MemoryLayout::Dense, 1);
                    let labels = index(on, &[dims[0], dims[2]], dims[1]);
                    let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
                    let results = class_loss_in(on, operands, DType::F32)?;
                    let dx = class_loss_grad(on, operands, &results)?;
                    let [loss, _, total] = results;
                    Ok(vec![loss, total, dx])
                });
            }
        }
    }
}

/// The gradient that comes with the loss is that of a launch of its own.
#[test]
fn cross_entropy_with_its_gradient() {
    let (given, logits) = (std::cell::Cell::new(0), ClassLossInput::Logits);
    for dtype in FLOATS {
        for (dims, input, reduction, ignore_index, label_smoothing, layout) in [
            ([64, 10, 1], logits, Reduction::Mean, 2, 0.0, MemoryLayout::Dense),
            ([5, 10, 3], logits, Reduction::Sum, 2, 0.1, MemoryLayout::Turned),
            ([7, 3, 1], ClassLossInput::LogProbs, Reduction::Mean, -100, 0.0, MemoryLayout::Dense),
            ([1, 1000, 1], logits, Reduction::Mean, -100, 0.1, MemoryLayout::Dense),
            ([2, 7000, 1], logits, Reduction::Mean, -100, 0.0, MemoryLayout::Dense),
            ([0, 10, 1], logits, Reduction::Mean, -100, 0.0, MemoryLayout::Dense),
            ([700, 10, 1], logits, Reduction::Mean, -100, 0.0, MemoryLayout::Dense),
        ] {
            let rule = ClassLoss { input, reduction, ignore_index, label_smoothing };
            same(&format!("{rule:?} {dims:?}"), |on| {
                let (x, rows) = (tensor(on, dtype, &dims, layout, 1), [dims[0], dims[2]]);
                let (labels, weight) = (index(on, &rows, dims[1]), tensor(on, dtype, &[dims[1]], layout, 5));
                let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                let to = |dtype, dims: &[usize]| target(on, dtype, dims, MemoryLayout::Dense);
                let (mut loss, mut lse, mut total, mut dx) =
                    (to(dtype, &[]), to(wide, &rows), to(wide, &[]), target(on, dtype, &dims, layout));
                let weight = (reduction == Reduction::Sum).then_some(weight.view());
                let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight };
                let gives = on.class_loss_gives_grad(&operands);
                let args = ClassLossArgs {
                    operands,
                    loss: loss.view_mut(),
                    lse: lse.view_mut(),
                    total: total.view_mut(),
                    grad: gives.then(|| dx.view_mut()),
                };
                on.class_loss(args.checked()?)?;
                if gives {
                    given.set(given.get() + 1);
                } else {
                    let one = Tensor { buffer: on.adopt(host(dtype, &[1.0])).unwrap(), layout: loss.layout };
                    let (grad, lse, total, out) = (one.view(), lse.view(), total.view(), dx.view_mut());
                    on.class_loss_grad(ClassLossGradArgs { operands, grad, lse, total, out }.checked()?)?;
                }
                Ok(vec![loss, total, dx])
            });
        }
    }
    // All but the empty one and the one of many blocks.
    assert!(device().is_none() || given.get() == 5 * FLOATS.len(), "{}", given.get());
}

fn pointwise(kind: PointwiseLossKind) {
    for dtype in FLOATS {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            same(&format!("{kind:?} {reduction:?}"), |on| {
                let dims = [60, 100];
                let (x, t) = (
                    tensor(on, dtype, &dims, MemoryLayout::Turned, 1),
                    tensor(on, dtype, &dims, MemoryLayout::Dense, 2),
                );
                let w = tensor(on, dtype, &dims, MemoryLayout::Dense, 3);
                let loss = PointwiseLoss {
                    kind,
                    reduction,
                    input: x.view(),
                    target: t.view(),
                    weight: Some(w.view()),
                    pos_weight: None,
                };
                pointwise_loss_and_grad(on, loss)
            });
        }
    }
}

#[test]
fn mse_loss() {
    pointwise(PointwiseLossKind::Mse);
}

#[test]
fn l1_loss() {
    pointwise(PointwiseLossKind::L1);
}

#[test]
fn binary_cross_entropy_with_logits() {
    pointwise(PointwiseLossKind::BceWithLogits);
}

/// Targets that are probabilities, inputs that are logarithms, weights of the positive class.
#[test]
fn cross_entropy_of_probabilities_and_nll_loss() {
    for dtype in FLOATS {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            for (input, probabilities) in [(ClassLossInput::Logits, true), (ClassLossInput::LogProbs, false)] {
                let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing: 0.0 };
                same(&format!("{rule:?} {probabilities}"), |on| {
                    let (dims, rows) = ([30, 7, 2], [30, 2]);
                    let (x, mut p) = (
                        tensor(on, dtype, &dims, MemoryLayout::Dense, 1),
                        target(on, dtype, &dims, MemoryLayout::Dense),
                    );
                    on.softmax(
                        SoftmaxArgs {
                            x: tensor(on, dtype, &dims, MemoryLayout::Dense, 2).view(),
                            dim: 1,
                            log: false,
                            out: p.view_mut(),
                        }
                        .checked()?,
                    )?;
                    let labels = if probabilities { p } else { index(on, &rows, 7) };
                    let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
                    let results = class_loss(on, operands)?;
                    let dx = class_loss_grad(on, operands, &results)?;
                    let [loss, _, total] = results;
                    Ok(vec![loss, total, dx])
                });
            }
            same(&format!("positive weights, {reduction:?}"), |on| {
                let dims = [30, 20];
                let (x, t) = (
                    tensor(on, dtype, &dims, MemoryLayout::Sliced, 1),
                    tensor(on, dtype, &dims, MemoryLayout::Dense, 2),
                );
                let weights = tensor(on, dtype, &[1, 20], MemoryLayout::Dense, 3);
                let spread = weights.layout.expand("t", t.layout.shape())?;
                let pos_weight = Some(View { buffer: &*weights.buffer, layout: &spread });
                let kind = PointwiseLossKind::BceWithLogits;
                let loss =
                    PointwiseLoss { kind, reduction, input: x.view(), target: t.view(), weight: None, pos_weight };
                pointwise_loss_and_grad(on, loss)
            });
        }
    }
}

/// Rows that are read 16 bytes at a time, wherever they begin: labels at both ends and outside of packs, an ignored row, infinite
/// logits and NaN. Nothing is written beside the gradient's rows.
#[test]
fn cross_entropy_in_packs() {
    // Classes, the distance between rows, and where the rows of the input and of its gradient begin.
    let shapes = [
        (64, 64, 0, 0),
        (65, 65, 0, 0),
        (70, 75, 3, 3),
        (77, 80, 1, 1),
        (200, 207, 2, 5),
        (1003, 1003, 0, 0),
        (5000, 5001, 1, 1),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (classes, pitch, begin, other) in shapes {
            for reduction in [Reduction::None, Reduction::Mean] {
                let (input, ignore_index) = (ClassLossInput::Logits, 7);
                let rule = ClassLoss { input, reduction, ignore_index, label_smoothing: 0.0 };
                same(&format!("{dtype} {reduction:?} {classes} of {pitch} from {begin} and {other}"), |on| {
                    let labels = [0, 7, 14, classes - 1, classes / 2, 3, classes - 2, 1, 5].map(|label| label as i64);
                    let rows = labels.len();
                    let labels = Tensor {
                        buffer: on.adopt(HostVec::I64(labels.to_vec())).unwrap(),
                        layout: Layout::contiguous(Shape::new(&[rows, 1])?),
                    };
                    let part = |whole: &Layout, from: usize| whole.slice(1, from, from + classes, 1).unsqueeze(2);
                    let mut x = tensor(on, dtype, &[rows, pitch], MemoryLayout::Dense, 1);
                    // Where a reduction would make NaN of all.
                    if reduction == Reduction::None {
                        let special = [(2, 0, 40, f64::NEG_INFINITY), (4, 0, pitch, f64::NEG_INFINITY)];
                        let more =
                            [(5, 50, 51, f64::NAN), (6, 20, 21, f64::INFINITY), (8, 9, pitch, f64::NEG_INFINITY)];
                        for (row, from, to, value) in special.into_iter().chain(more) {
                            let some = x.layout.slice(0, row, row + 1, 1).slice(1, from, to, 1);
                            on.fill(Scalar::Float(value), ViewMut { buffer: &mut *x.buffer, layout: &some })?;
                        }
                    }
                    let x = Tensor { layout: part(&x.layout, begin)?, ..x };
                    let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
                    let [loss, lse, total] = class_loss(on, operands)?;
                    let mut dx = tensor(on, dtype, &[rows, pitch], MemoryLayout::Dense, 2);
                    let to = part(&dx.layout, other)?;
                    let out = ViewMut { buffer: &mut *dx.buffer, layout: &to };
                    let grad = tensor(on, dtype, loss.layout.dims(), MemoryLayout::Dense, 7);
                    let (grad, kept, sum) = (grad.view(), lse.view(), total.view());
                    on.class_loss_grad(ClassLossGradArgs { operands, grad, lse: kept, total: sum, out }.checked()?)?;
                    Ok(vec![loss, total, dx])
                });
            }
        }
    }
}

/// Logits up to ±1e4, where exponentials overflow and differences cancel.
#[test]
fn cross_entropy_of_huge_logits() {
    let huge = |on: &dyn Backend, dtype: DType, dims: &[usize], salt: u64| {
        let values: Vec<_> = numbers(dims.iter().product(), salt).into_iter().map(|v| (v * 5e3).round()).collect();
        Tensor {
            buffer: on.adopt(host(dtype, &values)).unwrap(),
            layout: Layout::contiguous(Shape::new(dims).unwrap()),
        }
    };
    let finite = |on: &dyn Backend, tensors: Vec<Tensor>| {
        assert!(tensors.iter().all(|tensor| read(on, tensor).iter().all(|v| v.is_finite())));
        Ok(tensors)
    };
    for dtype in FLOATS {
        // In half precision a sum of these would be no number of its type.
        for reduction in [Reduction::None, Reduction::Mean] {
            for dims in [[64, 10, 1], [5, 300, 1], [2, 3, 40]] {
                let rule =
                    ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: 1, label_smoothing: 0.0 };
                same(&format!("{dtype} {reduction:?} {dims:?}"), |on| {
                    let (x, rows) = (huge(on, dtype, &dims, 1), [dims[0], dims[2]]);
                    let labels = index(on, &rows, dims[1]);
                    let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
                    let results = class_loss(on, operands)?;
                    let dx = class_loss_grad(on, operands, &results)?;
                    let [loss, ..] = results;
                    finite(on, vec![loss, dx])
                });
            }
            same(&format!("{dtype} {reduction:?} bce"), |on| {
                let dims = [30, 20];
                let (x, weights) = (huge(on, dtype, &dims, 1), tensor(on, dtype, &dims, MemoryLayout::Dense, 3));
                let t = index(on, &dims, 2);
                let mut truth = target(on, dtype, &dims, MemoryLayout::Dense);
                on.copy(CopyArgs { x: t.view(), out: truth.view_mut() }.checked()?)?;
                let (kind, pos_weight) = (PointwiseLossKind::BceWithLogits, Some(weights.view()));
                let loss =
                    PointwiseLoss { kind, reduction, input: x.view(), target: truth.view(), weight: None, pos_weight };
                let loss_dims: &[usize] = if reduction == Reduction::None { &dims } else { &[] };
                let (mut out, mut dx) =
                    (target(on, dtype, loss_dims, MemoryLayout::Dense), target(on, dtype, &dims, MemoryLayout::Dense));
                on.pointwise_loss(PointwiseLossArgs { loss, out: out.view_mut() }.checked()?)?;
                on.pointwise_loss_grad(
                    PointwiseLossGradArgs {
                        loss,
                        grad: tensor(on, dtype, loss_dims, MemoryLayout::Dense, 4).view(),
                        out: dx.view_mut(),
                    }
                    .checked()?,
                )?;
                finite(on, vec![out, dx])
            });
        }
    }
}
