//! Tests of `pointwise_loss`.

use kiln_backend::{
    Arguments, DType, Layout, PointwiseLoss, PointwiseLossArgs, PointwiseLossBackend, PointwiseLossGradArgs,
    PointwiseLossKind, Reduction, Result, View, ViewMut,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts, shape};

const KINDS: [PointwiseLossKind; 3] = [PointwiseLossKind::Mse, PointwiseLossKind::L1, PointwiseLossKind::BceWithLogits];
const REDUCTIONS: [Reduction; 3] = [Reduction::None, Reduction::Mean, Reduction::Sum];

fn pointwise_loss(loss: PointwiseLoss, out: ViewMut) -> Result<()> {
    CpuBackend.pointwise_loss(PointwiseLossArgs { loss, out }.checked()?)
}

fn pointwise_loss_grad(loss: PointwiseLoss, grad: View, out: ViewMut) -> Result<()> {
    CpuBackend.pointwise_loss_grad(PointwiseLossGradArgs { loss, grad, out }.checked()?)
}

/// Input, target, weight, weight of positives.
type Four<'a> = [&'a Tensor; 4];

fn loss<'a>(kind: PointwiseLossKind, reduction: Reduction, x: Four<'a>, weighted: bool) -> PointwiseLoss<'a> {
    let [input, target, weight, pos_weight] = x.map(Tensor::view);
    let weighted = weighted && kind == PointwiseLossKind::BceWithLogits;
    let (weight, pos_weight) = (weighted.then_some(weight), weighted.then_some(pos_weight));
    PointwiseLoss { kind, reduction, input, target, weight, pos_weight }
}

/// Loss and slope of one element, in f64.
fn naive(kind: PointwiseLossKind, x: f64, t: f64, w: f64, p: f64) -> (f64, f64) {
    match kind {
        PointwiseLossKind::Mse => ((x - t).powi(2), 2.0 * (x - t)),
        PointwiseLossKind::L1 => ((x - t).abs(), if x == t { 0.0 } else { (x - t).signum() }),
        PointwiseLossKind::BceWithLogits => {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            let softplus = |v: f64| v.max(0.0) + (-v.abs()).exp().ln_1p();
            (w * (p * t * softplus(-x) + (1.0 - t) * softplus(x)), w * ((1.0 - t + p * t) * sigmoid - p * t))
        }
    }
}

#[track_caller]
fn check(kind: PointwiseLossKind, reduction: Reduction, operands: Four, weighted: bool, out: Layout) {
    let dtype = operands[0].view().dtype();
    let rule = loss(kind, reduction, operands, weighted);
    let [x, t, w, p] = operands.map(Tensor::values);
    let n = x.len();
    let one = |i: usize| {
        let (w, p) = if weighted { (w[i], p[i]) } else { (1.0, 1.0) };
        naive(kind, x[i], t[i], w, p)
    };
    let losses: Vec<f64> = (0..n).map(|i| one(i).0).collect();
    let sum: f64 = losses.iter().sum();
    let what = format!("{kind:?} {reduction:?} {:?} weights {weighted}", operands[0].layout);
    let (scale, want, dims) = match reduction {
        Reduction::None => (1.0, losses, out.dims()),
        Reduction::Mean => (1.0 / n as f64, vec![sum / n as f64], &[][..]),
        Reduction::Sum => (1.0, vec![sum], &[][..]),
    };
    let layout = if reduction == Reduction::None { out } else { Layout::contiguous(shape(&[])) };
    let mut got = Tensor::with_layout(dtype, layout, &[]);
    pointwise_loss(rule, got.view_mut()).unwrap();
    // The reference adds one by one, which loses digits even in f64.
    assert_close(&got.values(), &want, dtype, 64.0 + n as f64 / 4.0, &what);

    let count = shape(dims).numel();
    let grad = Tensor::new(dtype, dims, &numbers(count, 9));
    let g = grad.values();
    let mut got = Tensor::with_layout(dtype, out, &[]);
    pointwise_loss_grad(rule, grad.view(), got.view_mut()).unwrap();
    // Relative to the two terms of a slope, which may cancel.
    let slopes: Vec<f64> = (0..n).map(|i| one(i).1 * g[i % count.max(1)] * scale).collect();
    let bound = |v: &f64, s: &f64| v + 16.0 * s.signum() * scale;
    let got: Vec<f64> = got.values().iter().zip(&slopes).map(|(v, s)| bound(v, s)).collect();
    let slopes: Vec<f64> = slopes.iter().map(|s| bound(s, s)).collect();
    assert_close(&got, &slopes, dtype, 16.0, &what);
}

fn operands(dtype: DType, layouts: [Layout; 4]) -> [Tensor; 4] {
    let [x, t, w, p] = layouts;
    let positive = |n, seed| numbers(n, seed).iter().map(|v| v.abs() / 4.0).collect::<Vec<_>>();
    [
        Tensor::with_layout(dtype, x, &numbers(x.numel(), 1)),
        Tensor::with_layout(dtype, t, &positive(t.numel(), 2)),
        Tensor::with_layout(dtype, w, &positive(w.numel(), 3)),
        Tensor::with_layout(dtype, p, &positive(p.numel(), 4)),
    ]
}

#[test]
fn every_layout_and_dtype() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for dims in [&[][..], &[5], &[4, 3], &[2, 3, 5], &[3, 700], &[17_000]] {
            let all = read_layouts(dims);
            let outs = layouts(dims);
            for i in 0..all.len() {
                let owned = operands(dtype, std::array::from_fn(|k| all[(i + k) % all.len()]));
                let operands = [&owned[0], &owned[1], &owned[2], &owned[3]];
                for kind in KINDS {
                    for reduction in REDUCTIONS {
                        check(kind, reduction, operands, i % 2 == 0, outs[i % outs.len()]);
                    }
                }
            }
        }
    }
}

#[test]
fn extremes_and_ties() {
    let c = |values: &[f64]| Tensor::new(DType::F32, &[values.len()], values);
    let x = c(&[1e4, -1e4, 1e4, -1e4, 0.0, 100.0, -100.0]);
    let t = c(&[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    let out = x.layout;
    for reduction in REDUCTIONS {
        check(PointwiseLossKind::BceWithLogits, reduction, [&x, &t, &t, &t], false, out);
    }
    // Equal elements have gradient 0.
    let mut grad = Tensor::empty(DType::F32, &[7]);
    let rule = loss(PointwiseLossKind::L1, Reduction::Sum, [&t, &t, &t, &t], false);
    pointwise_loss_grad(rule, Tensor::new(DType::F32, &[], &[3.0]).view(), grad.view_mut()).unwrap();
    assert_eq!(grad.values(), [0.0; 7]);
}

/// From PyTorch in float64: losses, and gradients after weighting the losses with 1, 2, 3, ….
#[test]
fn pytorch_gives_the_same() {
    let c = |values: [f64; 6]| Tensor::new(DType::F64, &[6], &values);
    let x = c([-3.5, 1.4, -1.4, 3.5, 0.7, -2.1]);
    let t = c([0.0, 5.0, 3.0, 1.0, 6.0, 4.0].map(|v| v / 6.0));
    let (w, p) = (c([1.0, 2.0, 0.5, 1.0, 0.0, 3.0]), c([2.0, 1.0, 0.5, 3.0, 1.0, 4.0]));
    #[rustfmt::skip]
    let golden = [
        (PointwiseLossKind::Mse, false, [12.25, 0.321111111111, 3.61, 11.111111111111, 0.09, 7.654444444444], [-7.0, 2.266666666667, -11.4, 26.666666666667, -3.0, -33.2], 5.839444444444),
        (PointwiseLossKind::L1, false, [3.5, 0.566666666667, 1.9, 3.333333333333, 0.3, 2.766666666667], [-1.0, 2.0, -3.0, 4.0, -5.0, -6.0], 2.061111111111),
        (PointwiseLossKind::BceWithLogits, true, [0.029750418273, 0.907501486504, 0.257656528719, 2.95633389103, 0.0, 17.839675708618], [0.029312230751, -0.124597779099, -0.152456874628, 3.177001435993, 0.0, -42.108771655437], 3.665153005524),
        (PointwiseLossKind::BceWithLogits, false, [0.029750418273, 0.453750743252, 0.920417409918, 2.946417084939, 0.403186048885, 1.51551952318], [0.029312230751, -0.06229888955, -0.906551665676, 3.216084410328, -1.659061139159, -3.345419072826], 1.044840204741),
    ];
    for (kind, weighted, losses, slopes, mean) in golden {
        let four = [&x, &t, &w, &p];
        let mut out = Tensor::empty(DType::F64, &[6]);
        pointwise_loss(loss(kind, Reduction::None, four, weighted), out.view_mut()).unwrap();
        assert_close(&out.values(), &losses, DType::F64, 1e5, &format!("{kind:?}"));
        let incoming = c([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        pointwise_loss_grad(loss(kind, Reduction::None, four, weighted), incoming.view(), out.view_mut()).unwrap();
        assert_close(&out.values(), &slopes, DType::F64, 1e5, &format!("gradient of {kind:?}"));
        let mut out = Tensor::empty(DType::F64, &[]);
        pointwise_loss(loss(kind, Reduction::Mean, four, weighted), out.view_mut()).unwrap();
        assert_close(&out.values(), &[mean], DType::F64, 1e5, &format!("mean of {kind:?}"));
    }
}

#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    let owned = operands(DType::F32, [Layout::contiguous(shape(&[300_001])); 4]);
    let four = [&owned[0], &owned[1], &owned[2], &owned[3]];
    let run = || {
        let mut out = Tensor::empty(DType::F32, &[]);
        pointwise_loss(loss(PointwiseLossKind::BceWithLogits, Reduction::Mean, four, true), out.view_mut()).unwrap();
        out.bytes().to_vec()
    };
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    assert_eq!(pool(1).install(run), pool(5).install(run));
}

#[test]
fn empty_operands() {
    let empty = Tensor::empty(DType::F32, &[0]);
    let four = [&empty; 4];
    let mut out = Tensor::empty(DType::F32, &[]);
    pointwise_loss(loss(PointwiseLossKind::Mse, Reduction::Mean, four, false), out.view_mut()).unwrap();
    assert!(out.values()[0].is_nan());
    pointwise_loss(loss(PointwiseLossKind::Mse, Reduction::Sum, four, false), out.view_mut()).unwrap();
    assert_eq!(out.values(), [0.0]);
}
