//! Every primitive on the device against the CPU backend, over layouts and dtypes.
//!
//! Needs a device: a GPU, or the simulated one. Without any it passes, unless `KILN_REQUIRE_DEVICE` is set, as where it
//! is run for what it compares.

#![cfg(feature = "kernels")]

use kiln_backend::*;
use parking_lot::RwLock;

#[path = "against_cpu/layers.rs"]
mod layers;

/// What the modules of this test share.
mod support {
    pub(crate) use super::{FLOATS, Lie, RECORD, Tensor, device, host, index, numbers, read, same, target, tensor};
}

/// A tensor of a test: values in a buffer, and a layout over it.
struct Tensor {
    buffer: Box<dyn Buffer>,
    layout: Layout,
}

impl Tensor {
    fn view(&self) -> View<'_> {
        View { buffer: &*self.buffer, layout: &self.layout }
    }

    fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut *self.buffer, layout: &self.layout }
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    Dense,
    /// With the last two dimensions exchanged in memory.
    Turned,
    /// Behind an offset and with gaps.
    Sliced,
}

const LIES: [Lie; 3] = [Lie::Dense, Lie::Turned, Lie::Sliced];

fn layout(dims: &[usize], lie: Lie) -> (Layout, usize) {
    let shape = Shape::new(dims).unwrap();
    let (rank, n) = (dims.len(), shape.numel());
    match lie {
        Lie::Turned if rank >= 2 => {
            let mut turned = dims.to_vec();
            turned.swap(rank - 1, rank - 2);
            (Layout::contiguous(Shape::new(&turned).unwrap()).transpose(rank - 1, rank - 2), n)
        }
        Lie::Sliced if rank >= 1 => {
            let mut wide = dims.to_vec();
            wide[rank - 1] = 2 * wide[rank - 1] + 1;
            let whole = Layout::contiguous(Shape::new(&wide).unwrap());
            let len = whole.numel();
            (whole.slice(rank - 1, 1, wide[rank - 1], 2), len)
        }
        _ => (Layout::contiguous(shape), n),
    }
}

/// Numbers that are not all alike, the same on every device.
fn numbers(n: usize, salt: u64) -> Vec<f64> {
    (0..n as u64)
        .map(|i| {
            let mixed = (i + salt * 1000 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
            (mixed % 2001) as f64 / 500.0 - 2.0
        })
        .collect()
}

fn host(dtype: DType, values: &[f64]) -> HostVec {
    dispatch_dtype!(dtype, T => {
        T::into_host(values.iter().map(|&v| T::from_scalar(if dtype == DType::Bool { Scalar::Bool(v > 0.0) } else { Scalar::Float(v) })).collect())
    })
}

fn tensor(on: &dyn Backend, dtype: DType, dims: &[usize], lie: Lie, salt: u64) -> Tensor {
    let (layout, len) = layout(dims, lie);
    let mut values = numbers(len, salt);
    if dtype == DType::U8 {
        values.iter_mut().for_each(|v| *v = (*v * 4.0).abs());
    }
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// Zeros to write to, lying like the inputs.
fn target(on: &dyn Backend, dtype: DType, dims: &[usize], lie: Lie) -> Tensor {
    let (layout, len) = layout(dims, lie);
    Tensor { buffer: on.adopt(host(dtype, &vec![0.0; len])).unwrap(), layout }
}

fn index(on: &dyn Backend, dims: &[usize], size: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let values = (0..n).map(|i| (i * 7 + i / 3) as i64 % size as i64).collect();
    Tensor { buffer: on.adopt(HostVec::I64(values)).unwrap(), layout: Layout::contiguous(Shape::new(dims).unwrap()) }
}

/// All of a buffer, as numbers.
fn read(on: &dyn Backend, tensor: &Tensor) -> Vec<f64> {
    let dtype = tensor.buffer.dtype();
    dispatch_dtype!(dtype, T => {
        T::read_vec(tensor.buffer.len(), |bytes| on.download(&*tensor.buffer, 0, bytes))
            .unwrap()
            .into_iter()
            .map(|v| v.to_scalar().to_f64())
            .collect()
    })
}

fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-5,
        DType::F16 => 2e-3,
        DType::BF16 => 2e-2,
        _ => 0.0,
    }
}

/// What kernels find out is reported to whoever waits for the device next, so the test that provokes it has to be alone.
static RECORD: RwLock<()> = RwLock::new(());

/// The device, if there is one.
fn device() -> Option<&'static kiln_cuda::CudaBackend> {
    let device = kiln_cuda::backend(0);
    if let Err(error) = &device {
        assert!(std::env::var_os("KILN_REQUIRE_DEVICE").is_none(), "a device is required: {error}");
    }
    device.ok()
}

/// Runs `case` on the device and on the CPU and compares everything that it returns.
fn same(name: &str, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
    let Some(device) = device() else { return };
    let _others_too = RECORD.read();
    let cpu = kiln_cpu::backend();
    let run = |on: &dyn Backend| -> Vec<(DType, Vec<f64>)> {
        let out = case(on).unwrap_or_else(|error| panic!("{name} on {on:?}: {error}"));
        out.iter().map(|tensor| (tensor.buffer.dtype(), read(on, tensor))).collect()
    };
    let (got, want) = (run(device), run(cpu));
    let kinds = |all: &[(DType, Vec<f64>)]| all.iter().map(|(dtype, of)| (*dtype, of.len())).collect::<Vec<_>>();
    assert_eq!(kinds(&got), kinds(&want), "{name}");
    for ((dtype, got), (_, want)) in got.iter().zip(&want) {
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let close = (g - w).abs() <= tolerance(*dtype) * w.abs().max(1.0);
            assert!(g == w || (g.is_nan() && w.is_nan()) || close, "{name} {dtype}: element {i} is {g}, not {w}");
        }
    }
}

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

#[test]
fn the_device_is_named() {
    match device() {
        Some(device) => {
            let info = device.info();
            assert!(!info.name.is_empty() && info.total_memory > 0 && info.compute_capability.0 > 0, "{info:?}");
            println!("on {device:?}: {info:?}");
        }
        None => println!("nothing is compared"),
    }
}

#[test]
fn filling_and_copies() {
    for dtype in DType::ALL {
        for lie in LIES {
            same(&format!("fill {lie:?}"), |on| {
                let mut out = target(on, dtype, &[3, 5], lie);
                on.fill(Scalar::Int(1), out.view_mut())?;
                Ok(vec![out])
            });
            for to in DType::ALL {
                same(&format!("copy {dtype} {lie:?}"), |on| {
                    let (x, mut out) = (tensor(on, dtype, &[3, 5], lie, 1), target(on, to, &[3, 5], Lie::Dense));
                    on.copy(x.view(), out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
        same("ramp", |on| {
            let mut out = target(on, dtype, &[7], Lie::Dense);
            on.ramp(Ramp { start: Scalar::Int(2), step: Scalar::Int(3) }, out.view_mut())?;
            Ok(vec![out])
        });
    }
}

/// Without elements, without dimensions, and broadcast by strides of 0.
#[test]
fn shapes_at_the_edge() {
    for dtype in [DType::F32, DType::F64, DType::I64] {
        for dims in [&[0usize, 3][..], &[3, 0], &[0], &[], &[1, 1]] {
            same(&format!("{dtype} {dims:?}"), |on| {
                let (x, y) = (tensor(on, dtype, dims, Lie::Dense, 1), tensor(on, dtype, dims, Lie::Dense, 2));
                let [mut copy, mut squared, mut sum] = [0, 1, 2].map(|_| target(on, dtype, dims, Lie::Dense));
                on.copy(x.view(), copy.view_mut())?;
                on.unary(UnaryOp::Square, x.view(), squared.view_mut())?;
                on.binary(BinaryOp::Add, Operand::Tensor(x.view()), Operand::Tensor(y.view()), sum.view_mut())?;
                let ones = vec![1; dims.len()];
                let mut total = target(on, dtype, &ones, Lie::Dense);
                on.reduce(ReduceOp::Sum, x.view(), total.view_mut())?;
                let mut running = target(on, dtype, dims, Lie::Dense);
                on.cumsum(x.view(), 0, running.view_mut())?;
                Ok(vec![copy, squared, sum, total, running])
            });
        }
        same(&format!("{dtype} broadcast"), |on| {
            let (row, column) = (tensor(on, dtype, &[1, 5], Lie::Dense, 1), tensor(on, dtype, &[4, 1], Lie::Sliced, 2));
            let shape = Shape::new(&[4, 5])?;
            let (a, b) = (row.layout.expand("t", &shape)?, column.layout.expand("t", &shape)?);
            let (a, b) = (View { buffer: &*row.buffer, layout: &a }, View { buffer: &*column.buffer, layout: &b });
            let mut out = target(on, dtype, &[4, 5], Lie::Turned);
            on.binary(BinaryOp::Mul, Operand::Tensor(a), Operand::Tensor(b), out.view_mut())?;
            let mut total = target(on, dtype, &[1, 5], Lie::Dense);
            on.reduce(ReduceOp::Sum, b, total.view_mut())?;
            Ok(vec![out, total])
        });
    }
    for reduction in [Reduction::Mean, Reduction::Sum] {
        let rule = ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: -100, label_smoothing: 0.0 };
        same(&format!("no samples, {reduction:?}"), |on| {
            let (x, labels) = (tensor(on, DType::F32, &[0, 4, 1], Lie::Dense, 1), index(on, &[0, 1], 4));
            let [mut loss, mut total] = [0, 1].map(|_| target(on, DType::F32, &[], Lie::Dense));
            let mut lse = target(on, DType::F32, &[0, 1], Lie::Dense);
            let (to, kept, sum) = (loss.view_mut(), lse.view_mut(), total.view_mut());
            on.class_loss(&rule, x.view(), labels.view(), None, to, kept, sum)?;
            Ok(vec![loss, total])
        });
    }
}

#[test]
fn random_numbers() {
    let state = RandomState { seed: 42, offset: 5 };
    for dtype in FLOATS {
        for distribution in [
            Distribution::Uniform { low: -1.0, high: 3.0 },
            Distribution::Normal { mean: 1.0, std: 2.0 },
            Distribution::Bernoulli { p: 0.3 },
            Distribution::Integers { low: 0, high: 100 },
        ] {
            same(&format!("{distribution:?}"), |on| {
                let mut out = target(on, dtype, &[1003], Lie::Dense);
                on.random(distribution, state, out.view_mut())?;
                Ok(vec![out])
            });
        }
        same("dropout", |on| {
            let (x, mut out) = (tensor(on, dtype, &[21, 5], Lie::Turned, 1), target(on, dtype, &[21, 5], Lie::Dense));
            on.dropout(0.4, state, x.view(), out.view_mut())?;
            Ok(vec![out])
        });
    }
}

#[test]
fn element_wise() {
    for dtype in FLOATS {
        for &op in UnaryOp::ALL {
            for lie in LIES {
                same(&format!("{op:?} {lie:?}"), |on| {
                    let (x, g) = (tensor(on, dtype, &[4, 9], lie, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                    let [mut out, mut grad] = [0, 1].map(|_| target(on, dtype, &[4, 9], lie));
                    on.unary(op, x.view(), out.view_mut())?;
                    on.unary_grad(op, g.view(), Some(x.view()), grad.view_mut())?;
                    Ok(vec![out, grad])
                });
            }
        }
        for &op in BinaryOp::ARITHMETIC {
            for lie in LIES {
                same(&format!("{op:?} {lie:?}"), |on| {
                    let (a, b) = (tensor(on, dtype, &[4, 9], lie, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                    let g = tensor(on, dtype, &[4, 9], Lie::Turned, 3);
                    let [mut out, mut da, mut db] = [0, 1, 2].map(|_| target(on, dtype, &[4, 9], lie));
                    let (x, y) = (Operand::Tensor(a.view()), Operand::Tensor(b.view()));
                    on.binary(op, x, y, out.view_mut())?;
                    on.binary_assign(op, Operand::Scalar(Scalar::Float(1.5)), out.view_mut())?;
                    on.binary_grad(op, SideOf::Lhs, g.view(), x, y, da.view_mut())?;
                    on.binary_grad(op, SideOf::Rhs, g.view(), x, Operand::Scalar(Scalar::Int(2)), db.view_mut())?;
                    Ok(vec![out, da, db])
                });
            }
        }
    }
    for dtype in DType::ALL {
        for op in [BinaryOp::Eq, BinaryOp::Ne, BinaryOp::Lt, BinaryOp::Le, BinaryOp::Gt, BinaryOp::Ge] {
            same(&format!("{op:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &[4, 9], Lie::Turned, 1), tensor(on, dtype, &[4, 9], Lie::Dense, 2));
                let mut out = target(on, DType::Bool, &[4, 9], Lie::Dense);
                on.binary(op, Operand::Tensor(a.view()), Operand::Tensor(b.view()), out.view_mut())?;
                Ok(vec![out])
            });
        }
        same("select and triangle", |on| {
            let condition = tensor(on, DType::Bool, &[4, 9], Lie::Turned, 1);
            let a = tensor(on, dtype, &[4, 9], Lie::Sliced, 2);
            let [mut out, mut low] = [0, 1].map(|_| target(on, dtype, &[4, 9], Lie::Dense));
            let (x, y) = (Operand::Tensor(a.view()), Operand::Scalar(Scalar::Int(1)));
            on.select(condition.view(), x, y, out.view_mut())?;
            on.triangle(false, 1, a.view(), low.view_mut())?;
            Ok(vec![out, low])
        });
    }
}

#[test]
fn reductions() {
    use ReduceOp as R;
    for dtype in FLOATS {
        for op in [R::Sum, R::Mean, R::Prod, R::Max, R::Min, R::Var { correction: 1.0 }, R::LogSumExp, R::Any, R::All] {
            for (dims, to) in [([5, 300], [5, 1]), ([300, 5], [1, 5]), ([40, 40], [1, 1]), ([3, 4], [3, 4])] {
                if op == R::Prod && dims[0] * dims[1] > 12 || matches!(op, R::Var { .. }) && dims == to {
                    continue;
                }
                same(&format!("{op:?} {dims:?}"), |on| {
                    let x = tensor(on, dtype, &dims, Lie::Turned, 1);
                    let kind = if matches!(op, R::Any | R::All) { DType::Bool } else { dtype };
                    let mut out = target(on, kind, &to, Lie::Dense);
                    on.reduce(op, x.view(), out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
        for log in [false, true] {
            same("softmax", |on| {
                let (x, g) = (tensor(on, dtype, &[6, 50], Lie::Sliced, 1), tensor(on, dtype, &[6, 50], Lie::Dense, 2));
                let [mut y, mut dx] = [0, 1].map(|_| target(on, dtype, &[6, 50], Lie::Dense));
                on.softmax(x.view(), 1, log, y.view_mut())?;
                on.softmax_grad(g.view(), y.view(), 1, log, dx.view_mut())?;
                Ok(vec![y, dx])
            });
        }
    }
    for dtype in DType::ALL {
        same("arg_reduce, sort, search, cumsum", |on| {
            let x = tensor(on, dtype, &[6, 50], Lie::Turned, 1);
            let (mut best, mut at) =
                (target(on, dtype, &[6, 1], Lie::Dense), target(on, DType::I64, &[6, 1], Lie::Dense));
            on.arg_reduce(ArgReduceOp::Max, x.view(), 1, Some(best.view_mut()), at.view_mut())?;
            let (mut values, mut order) =
                (target(on, dtype, &[6, 50], Lie::Dense), target(on, DType::I64, &[6, 50], Lie::Dense));
            on.sort(x.view(), 1, true, values.view_mut(), order.view_mut())?;
            on.sort(x.view(), 1, false, values.view_mut(), order.view_mut())?;
            let mut places = target(on, DType::I64, &[6, 50], Lie::Dense);
            on.search_sorted(values.view(), x.view(), true, places.view_mut())?;
            let kind = if dtype.is_float() { dtype } else { DType::I64 };
            let mut sums = target(on, kind, &[6, 50], Lie::Dense);
            on.cumsum(x.view(), 0, sums.view_mut())?;
            Ok(vec![best, at, values, order, places, sums])
        });
    }
}

#[test]
fn indexing() {
    for dtype in [DType::F32, DType::F16, DType::I64, DType::U8] {
        for dim in 0..2 {
            same("indexing", |on| {
                let x = tensor(on, dtype, &[6, 7], Lie::Turned, 1);
                let rows = index(on, &[5], 6);
                let mut dims = [6, 7];
                dims[dim] = 5;
                let mut taken = target(on, dtype, &dims, Lie::Dense);
                on.index_select(x.view(), dim, rows.view(), taken.view_mut())?;
                let mut added = tensor(on, dtype, &[6, 7], Lie::Dense, 2);
                on.index_add(taken.view(), dim, rows.view(), added.view_mut())?;
                let each = index(on, &[4, 3], 6);
                let mut gathered = target(on, dtype, &[4, 3], Lie::Sliced);
                on.gather(x.view(), dim, each.view(), gathered.view_mut())?;
                let [mut set, mut sum] = [0, 1].map(|_| tensor(on, dtype, &[6, 7], Lie::Turned, 3));
                on.scatter(ScatterMode::Set, Operand::Tensor(gathered.view()), dim, each.view(), set.view_mut())?;
                on.scatter(ScatterMode::Add, Operand::Scalar(Scalar::Int(2)), dim, each.view(), sum.view_mut())?;
                Ok(vec![taken, added, gathered, set, sum])
            });
        }
    }
}

#[test]
fn wild_indices_are_reported_when_the_device_is_waited_for() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    let x = tensor(device, DType::F32, &[6, 7], Lie::Dense, 1);
    let (wild, mut out) = (index(device, &[5], 9), target(device, DType::F32, &[5, 7], Lie::Dense));
    device.index_select(x.view(), 0, wild.view(), out.view_mut()).unwrap();
    let error = device.synchronize().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "index_select", size: 6, .. }), "{error}");
    device.synchronize().unwrap();
}

#[test]
fn losses() {
    for dtype in FLOATS {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            for (dims, smoothing) in [([64, 10, 1], 0.0), ([3, 5, 4], 0.1), ([700, 10, 1], 0.0)] {
                let rule =
                    ClassLoss { input: ClassLossInput::Logits, reduction, ignore_index: 2, label_smoothing: smoothing };
                same(&format!("{rule:?} {dims:?}"), |on| {
                    let x = tensor(on, dtype, &dims, Lie::Dense, 1);
                    let rows = [dims[0], dims[2]];
                    let (labels, weight) = (index(on, &rows, dims[1]), tensor(on, dtype, &[dims[1]], Lie::Dense, 5));
                    let loss_dims: &[usize] = if reduction == Reduction::None { &rows } else { &[] };
                    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                    let (mut loss, mut lse) =
                        (target(on, dtype, loss_dims, Lie::Dense), target(on, wide, &rows, Lie::Dense));
                    let mut total = target(on, wide, &[], Lie::Dense);
                    let weight = (smoothing > 0.0).then_some(weight.view());
                    on.class_loss(
                        &rule,
                        x.view(),
                        labels.view(),
                        weight,
                        loss.view_mut(),
                        lse.view_mut(),
                        total.view_mut(),
                    )?;
                    let (g, mut dx) =
                        (tensor(on, dtype, loss_dims, Lie::Dense, 7), target(on, dtype, &dims, Lie::Dense));
                    let (l, t) = (lse.view(), total.view());
                    on.class_loss_grad(&rule, g.view(), x.view(), labels.view(), weight, l, t, dx.view_mut())?;
                    Ok(vec![loss, total, dx])
                });
            }
            for kind in [PointwiseLossKind::Mse, PointwiseLossKind::L1, PointwiseLossKind::BceWithLogits] {
                same(&format!("{kind:?} {reduction:?}"), |on| {
                    let dims = [60, 100];
                    let (x, t) = (tensor(on, dtype, &dims, Lie::Turned, 1), tensor(on, dtype, &dims, Lie::Dense, 2));
                    let w = tensor(on, dtype, &dims, Lie::Dense, 3);
                    let loss = PointwiseLoss {
                        kind,
                        reduction,
                        input: x.view(),
                        target: t.view(),
                        weight: Some(w.view()),
                        pos_weight: None,
                    };
                    let loss_dims: &[usize] = if reduction == Reduction::None { &dims } else { &[] };
                    let (mut out, g) =
                        (target(on, dtype, loss_dims, Lie::Dense), tensor(on, dtype, loss_dims, Lie::Dense, 4));
                    let mut dx = target(on, dtype, &dims, Lie::Dense);
                    on.pointwise_loss(&loss, out.view_mut())?;
                    on.pointwise_loss_grad(&loss, g.view(), dx.view_mut())?;
                    Ok(vec![out, dx])
                });
            }
        }
    }
}

#[test]
fn optimizers() {
    let rules = [
        OptimRule::Sgd { momentum: 0.9, dampening: 0.1, nesterov: false, weight_decay: 0.01, maximize: false },
        OptimRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0, maximize: true },
        OptimRule::Adam {
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            decoupled: true,
            amsgrad: true,
            maximize: false,
        },
        OptimRule::RmsProp { alpha: 0.9, eps: 1e-3, weight_decay: 0.1, momentum: 0.5, centered: true, maximize: false },
        OptimRule::Adagrad { lr_decay: 0.1, weight_decay: 0.1, eps: 1e-3, maximize: false },
    ];
    for rule in rules {
        for dtype in [DType::F32, DType::F64] {
            same(&format!("{rule:?}"), |on| {
                // More parameters than a launch takes.
                let mut all: Vec<Vec<Tensor>> = (0..60)
                    .map(|i| {
                        (0..2).map(|j| tensor(on, dtype, &[3 + 100 * (i % 3)], Lie::Dense, i as u64 + j)).collect()
                    })
                    .collect();
                for tensors in &mut all {
                    for _ in 0..rule.states() {
                        let zero = target(on, dtype, &[tensors[0].layout.numel()], Lie::Dense);
                        tensors.push(zero);
                    }
                }
                for step in 1..4 {
                    let mut slots: Vec<OptimSlot> = all
                        .iter_mut()
                        .map(|tensors| {
                            let (param, rest) = tensors.split_first_mut().unwrap();
                            let (grad, states) = rest.split_first_mut().unwrap();
                            let states = states.iter_mut().map(Tensor::view_mut).collect();
                            OptimSlot { param: param.view_mut(), grad: grad.view(), states, step }
                        })
                        .collect();
                    on.optimizer_step(&rule, 0.1, &mut slots)?;
                }
                Ok(all.into_iter().flatten().collect())
            });
        }
    }
}

#[test]
fn products() {
    for dtype in [DType::I64, DType::I32, DType::U8] {
        same("integer matmul", |on| {
            let (a, b) =
                (tensor(on, dtype, &[2, 20, 33], Lie::Turned, 1), tensor(on, dtype, &[2, 33, 18], Lie::Dense, 2));
            let mut out = target(on, dtype, &[2, 20, 18], Lie::Sliced);
            on.matmul(a.view(), b.view(), out.view_mut())?;
            Ok(vec![out])
        });
    }
    for dtype in FLOATS {
        for (la, lb, lo) in [(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 0), (2, 0, 2), (0, 2, 1)] {
            let (la, lb, lo) = (LIES[la], LIES[lb], LIES[lo]);
            same(&format!("matmul {la:?} {lb:?} {lo:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &[3, 8, 16], la, 1), tensor(on, dtype, &[3, 16, 24], lb, 2));
                let mut out = target(on, dtype, &[3, 8, 24], lo);
                on.matmul(a.view(), b.view(), out.view_mut())?;
                Ok(vec![out])
            });
            for relu in [false, true] {
                same(&format!("linear {la:?} {lb:?} {lo:?} {relu}"), |on| {
                    let (x, w) = (tensor(on, dtype, &[8, 16], la, 1), tensor(on, dtype, &[24, 16], lb, 2));
                    let (bias, mut out) = (tensor(on, dtype, &[24], lo, 3), target(on, dtype, &[8, 24], lo));
                    on.linear(x.view(), w.view(), Some(bias.view()), relu, out.view_mut())?;
                    on.linear(x.view(), w.view(), None, relu, out.view_mut())?;
                    Ok(vec![out])
                });
            }
        }
    }
}
