//! Tests of `class_loss`, against direct evaluation of the definitions.

use kiln_backend::{
    Arguments, ClassLoss, ClassLossArgs, ClassLossBackend, ClassLossGradArgs, ClassLossInput, ClassLossOperands, DType,
    ErrorKind, Layout, Reduction, Result,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, epsilon, layouts, numbers, read_layouts, shape};

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];

fn rule(input: ClassLossInput, reduction: Reduction, label_smoothing: f64) -> ClassLoss {
    ClassLoss { input, reduction, ignore_index: -100, label_smoothing }
}

fn operands<'a>(
    rule: &ClassLoss,
    x: &'a Tensor,
    target: &'a Tensor,
    weight: Option<&'a Tensor>,
) -> ClassLossOperands<'a> {
    ClassLossOperands { rule: *rule, x: x.view(), target: target.view(), weight: weight.map(Tensor::view) }
}

struct Output {
    loss: Tensor,
    lse: Tensor,
    total: Tensor,
}

fn run(rule: &ClassLoss, x: &Tensor, target: &Tensor, weight: Option<&Tensor>) -> Result<Output> {
    let dtype = x.view().dtype();
    let &[n, _, s] = x.layout.dims() else { panic!("a test needs three dimensions") };
    let dims: &[usize] = if rule.reduction == Reduction::None { &[n, s] } else { &[] };
    let mut out = Output {
        loss: Tensor::empty(dtype, dims),
        lse: Tensor::empty(dtype.accumulator(), &[n, s]),
        total: Tensor::empty(dtype.accumulator(), &[]),
    };
    let operands = operands(rule, x, target, weight);
    let (loss, lse, total) = (out.loss.view_mut(), out.lse.view_mut(), out.total.view_mut());
    CpuBackend.class_loss(ClassLossArgs { operands, loss, lse, total, grad: None }.checked()?)?;
    Ok(out)
}

/// The gradient into a tensor of the given layout.
fn run_grad(
    rule: &ClassLoss,
    x: &Tensor,
    target: &Tensor,
    weight: Option<&Tensor>,
    forward: &Output,
    grad: &Tensor,
    out: Layout,
) -> Result<Tensor> {
    let mut out = Tensor::with_layout(x.view().dtype(), out, &[]);
    let (operands, lse, total) = (operands(rule, x, target, weight), forward.lse.view(), forward.total.view());
    let args = ClassLossGradArgs { operands, grad: grad.view(), lse, total, out: out.view_mut() };
    CpuBackend.class_loss_grad(args.checked()?)?;
    Ok(out)
}

/// The rows `[N, S]` of `[N, C, S]` values.
fn rows(values: &[f64], [n, c, s]: [usize; 3]) -> Vec<Vec<f64>> {
    (0..n * s).map(|r| (0..c).map(|k| values[(r / s * c + k) * s + r % s]).collect()).collect()
}

/// Losses of rows, their gradients and the divisor of the mean, from PyTorch's formulas in f64. Labels are a
/// one-hot distribution, smoothed; the mean divides by the sum of the labels' weights.
fn naive(
    rule: &ClassLoss,
    x: &[Vec<f64>],
    target: &Tensor,
    w: &[f64],
    dims: [usize; 3],
) -> (Vec<f64>, Vec<Vec<f64>>, f64) {
    let [_, c, _] = dims;
    let values = target.values();
    let labels = target.view().dtype() == DType::I64;
    let probabilities = if labels { Vec::new() } else { rows(&values, dims) };
    let (mut losses, mut grads, mut total) = (Vec::new(), Vec::new(), 0.0);
    for (r, x) in x.iter().enumerate() {
        if labels && values[r] == rule.ignore_index as f64 {
            losses.push(0.0);
            grads.push(vec![0.0; c]);
            continue;
        }
        let distribution: Vec<f64> = (0..c)
            .map(|k| if labels { f64::from(u8::from(values[r] == k as f64)) } else { probabilities[r][k] })
            .collect();
        total += if labels { w[values[r] as usize] } else { 1.0 };
        let eps = rule.label_smoothing;
        let q: Vec<f64> = (0..c)
            .map(|k| {
                // Weights of labels: that of the label for its own part, that of each class for the smoothed.
                w[k] * (distribution[k] * (1.0 - eps) + eps / c as f64)
            })
            .collect();
        if rule.input == ClassLossInput::LogProbs {
            losses.push(-(0..c).filter(|&k| q[k] != 0.0).map(|k| q[k] * x[k]).sum::<f64>());
            grads.push(q.iter().map(|q| -q).collect());
            continue;
        }
        let m = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = x.iter().map(|v| (v - m).exp()).sum();
        let log_p: Vec<f64> = x.iter().map(|v| v - m - sum.ln()).collect();
        losses.push(-(0..c).filter(|&k| q[k] != 0.0).map(|k| q[k] * log_p[k]).sum::<f64>());
        let mass: f64 = q.iter().sum();
        grads.push((0..c).map(|k| mass * log_p[k].exp() - q[k]).collect());
    }
    (losses, grads, total)
}

fn reduce(rule: &ClassLoss, losses: &[f64], total: f64) -> Vec<f64> {
    let sum: f64 = losses.iter().sum();
    match rule.reduction {
        Reduction::None => losses.to_vec(),
        Reduction::Mean => vec![sum / total],
        Reduction::Sum => vec![sum],
    }
}

#[track_caller]
fn check(rule: &ClassLoss, x: &Tensor, target: &Tensor, weight: Option<&Tensor>, out: Layout) {
    let dtype = x.view().dtype();
    let &[n, c, s] = x.layout.dims() else { panic!("a test needs three dimensions") };
    let dims = [n, c, s];
    let w = weight.map_or(vec![1.0; c], Tensor::values);
    let (losses, grads, total) = naive(rule, &rows(&x.values(), dims), target, &w, dims);
    let what = format!("{rule:?} {:?} {:?} weight {}", x.layout, target.layout, weight.is_some());

    let forward = run(rule, x, target, weight).unwrap();
    assert_close(&forward.loss.values(), &reduce(rule, &losses, total), dtype, 16.0, &what);
    assert_close(&forward.total.values(), &[total], dtype.accumulator(), 8.0, &what);

    let incoming: Vec<f64> = match rule.reduction {
        Reduction::None => numbers(n * s, 5),
        Reduction::Mean | Reduction::Sum => vec![-1.5],
    };
    let grad = Tensor::new(dtype, forward.loss.layout.dims(), &incoming);
    let incoming = grad.values();
    let got = run_grad(rule, x, target, weight, &forward, &grad, out).unwrap();
    let scale = if rule.reduction == Reduction::Mean { 1.0 / total } else { 1.0 };
    let want: Vec<f64> = grads
        .iter()
        .enumerate()
        .flat_map(|(r, g)| {
            let g_in = incoming[r % incoming.len()] * scale;
            g.iter().map(move |v| v * g_in)
        })
        .collect();
    let got: Vec<f64> = rows(&got.values(), dims).concat();
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        // A gradient is the difference of two numbers no larger than the weight (at most 2).
        let bound = 16.0 * epsilon(dtype) * (w.abs() + incoming[i / c.max(1) % incoming.len()].abs() * scale.abs());
        assert!((g - w).abs() <= bound, "{what}, element {i}: got {g}, expected {w}");
    }
}

fn labels(dims: &[usize], classes: usize, layout: Layout) -> Tensor {
    let values: Vec<f64> = numbers(dims.iter().product(), 3)
        .iter()
        .enumerate()
        .map(|(i, v)| if i % 5 == 3 { -100.0 } else { ((v + 4.0) * 1000.0).floor() % classes as f64 })
        .collect();
    Tensor::with_layout(DType::I64, layout, &values)
}

fn probabilities(dtype: DType, layout: Layout) -> Tensor {
    let values: Vec<f64> = numbers(layout.numel(), 4).iter().map(|v| v.abs() / 4.0).collect();
    Tensor::with_layout(dtype, layout, &values)
}

const REDUCTIONS: [Reduction; 3] = [Reduction::None, Reduction::Mean, Reduction::Sum];

#[test]
fn every_layout_dtype_and_option() {
    for dtype in FLOATS {
        for dims in [[3, 5, 1], [2, 4, 3], [1, 37, 1], [2, 3, 40], [7, 1, 1]] {
            let [n, c, s] = dims;
            let weight = probabilities(dtype, Layout::contiguous(shape(&[c])));
            for (i, layout) in read_layouts(&dims).into_iter().enumerate() {
                let x = Tensor::with_layout(dtype, layout, &numbers(n * c * s, 1));
                let targets = layouts(&[n, s]);
                let target = labels(&[n, s], c, targets[i % targets.len()]);
                let soft = probabilities(dtype, read_layouts(&dims)[i]);
                let outs = layouts(&dims);
                for (j, reduction) in REDUCTIONS.into_iter().enumerate() {
                    let out = outs[(i + j) % outs.len()];
                    for weight in [None, Some(&weight)] {
                        for smoothing in [0.0, 0.1] {
                            let rule = rule(ClassLossInput::Logits, reduction, smoothing);
                            check(&rule, &x, &target, weight, out);
                            check(&rule, &x, &soft, weight, out);
                        }
                        check(&rule(ClassLossInput::LogProbs, reduction, 0.0), &x, &target, weight, out);
                    }
                }
            }
        }
    }
}

/// Long rows, many rows, many positions: several blocks of each sum.
#[test]
fn large_inputs_give_the_same_bits_on_any_number_of_threads() {
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
    for dims in [[3, 20_000, 1], [3000, 10, 1], [2, 21, 1500]] {
        let [n, c, s] = dims;
        let x = Tensor::new(DType::F32, &dims, &numbers(n * c * s, 1));
        let target = labels(&[n, s], c, Layout::contiguous(shape(&[n, s])));
        let rule = rule(ClassLossInput::Logits, Reduction::Mean, 0.05);
        check(&rule, &x, &target, None, Layout::contiguous(shape(&dims)));
        let grad = Tensor::new(DType::F32, &[], &[1.0]);
        let bits = || {
            let forward = run(&rule, &x, &target, None).unwrap();
            let out = Layout::contiguous(shape(&dims));
            let out = run_grad(&rule, &x, &target, None, &forward, &grad, out).unwrap();
            [forward.loss, forward.lse, out].map(|t| t.bytes().to_vec())
        };
        assert!(alone.install(bits) == many.install(bits), "{dims:?}");
    }
}

/// `(input, probabilities?, smoothing, weights?, losses by reduction none, mean, sum, their gradients)` from
/// PyTorch in float64; a gradient is given by its inner product with 1, 2, 3, … after weighting the losses
/// with 1, 2, 3, ….
type Golden = (ClassLossInput, bool, f64, bool, [f64; 6], [f64; 2], [f64; 3]);

#[test]
fn pytorch_gives_the_same() {
    use ClassLossInput::{LogProbs, Logits};
    let dims = [3, 4, 2];
    let x: Vec<f64> = (0..24).map(|i| f64::from((i * 7) % 11 - 5) * 0.7).collect();
    let p: Vec<f64> = (0..24).map(|i| f64::from((i * 5) % 7) / 6.0).collect();
    let x = Tensor::new(DType::F64, &dims, &x);
    let labels = Tensor::new(DType::I64, &[3, 2], &[0.0, 3.0, -100.0, 1.0, 2.0, 2.0]);
    let soft = Tensor::new(DType::F64, &dims, &p);
    let weight = Tensor::new(DType::F64, &[4], &[0.5, 1.0, 2.0, 0.25]);
    #[rustfmt::skip]
    let golden: [Golden; 10] = [
        (Logits, false, 0.0, false, [6.430403777852, 3.645269941452, 0.0, 5.847244543922, 0.132036410887, 3.747244543922], [3.960439843607, 19.802199218034], [-23.226834694471, -0.425553117171, -2.127765585857]),
        (Logits, true, 0.0, false, [4.439073592728, 5.725449902421, 7.567339629753, 8.592652117124, 9.218763762366, 4.762992725229], [6.717711954937, 40.30627172962], [-4.269725233627, 0.698063573551, 4.188381441304]),
        (Logits, false, 0.0, true, [3.215201888926, 0.911317485363, 0.0, 5.847244543922, 0.264072821774, 7.494489087843], [3.083882752666, 17.732325827828], [-37.706768941824, -0.855396250463, -4.918528440162]),
        (Logits, true, 0.0, true, [6.636876426117, 8.620100721117, 6.374940574216, 8.750394655833, 4.597244039802, 4.124672309265], [6.517371454392, 39.10422872635], [8.379973732033, 1.059136155849, 6.354816935094]),
        (Logits, false, 0.1, false, [6.115403777852, 3.575269941452, 0.0, 5.549744543922, 0.429536410887, 3.659744543922], [3.865939843607, 19.329699218034], [-22.226834694471, -0.405553117171, -2.027765585857]),
        (Logits, true, 0.1, false, [4.32320661124, 5.447431906324, 7.138646044563, 8.020611359804, 8.607591027218, 4.573917907098], [6.351900809374, 38.111404856247], [-4.348623110461, 0.654839626945, 3.929037761671]),
        (Logits, false, 0.1, true, [3.194657054207, 1.161929793838, 0.0, 5.609449265522, 0.390043953118, 7.091969355051], [3.034443377693, 17.448049421736], [-35.288607800248, -0.793678890404, -4.56365361982]),
        (Logits, true, 0.1, true, [6.274164137679, 8.099834706017, 6.038421870968, 8.222284366243, 4.289898049342, 4.059134254331], [6.163956230763, 36.983737384579], [6.936472858646, 0.971893550342, 5.831361302051]),
        (LogProbs, false, 0.0, false, [3.5, 0.0, 0.0, 3.5, -2.1, 0.7], [1.12, 5.6], [-302.0, -12.8, -64.0]),
        (LogProbs, false, 0.0, true, [1.75, 0.0, 0.0, 3.5, -4.2, 1.4], [0.426086956522, 2.45], [-526.5, -17.478260869565, -100.5]),
    ];
    for (input, is_soft, smoothing, weighted, none, [mean, sum], slopes) in golden {
        let (target, weight) = (if is_soft { &soft } else { &labels }, weighted.then_some(&weight));
        for ((reduction, want), slope) in REDUCTIONS.into_iter().zip([&none[..], &[mean], &[sum]]).zip(slopes) {
            let rule = rule(input, reduction, smoothing);
            let forward = run(&rule, &x, target, weight).unwrap();
            assert_close(&forward.loss.values(), want, DType::F64, 1e5, &format!("{rule:?}"));
            let incoming: Vec<f64> = (1..=want.len()).map(|i| i as f64).collect();
            let grad = Tensor::new(DType::F64, forward.loss.layout.dims(), &incoming);
            let grad = run_grad(&rule, &x, target, weight, &forward, &grad, x.layout).unwrap();
            let product: f64 = grad.values().iter().zip(1..).map(|(g, i)| g * f64::from(i)).sum();
            assert_close(&[product], &[slope], DType::F64, 1e5, &format!("gradient of {rule:?}"));
        }
    }
}

#[test]
fn extreme_logits_keep_their_digits() {
    for dtype in [DType::F32, DType::F64] {
        let logits = [1e4, -1e4, 1e4 - 1.0, f64::NEG_INFINITY, -1e4, -1e4 + 1.0, -1e4 + 2.0, -1e4];
        let x = Tensor::new(dtype, &[2, 4, 1], &logits);
        let target = Tensor::new(DType::I64, &[2, 1], &[0.0, 1.0]);
        check(&rule(ClassLossInput::Logits, Reduction::None, 0.0), &x, &target, None, x.layout);
        check(&rule(ClassLossInput::Logits, Reduction::Mean, 0.0), &x, &target, None, x.layout);
        // The true class has probability 0.
        let target = Tensor::new(DType::I64, &[2, 1], &[3.0, 1.0]);
        let loss = run(&rule(ClassLossInput::Logits, Reduction::None, 0.0), &x, &target, None).unwrap().loss;
        assert_eq!(loss.values()[0], f64::INFINITY);
    }
}

#[test]
fn nothing_that_counts_has_no_mean() {
    let x = Tensor::new(DType::F32, &[2, 3, 1], &numbers(6, 1));
    let ignored = Tensor::new(DType::I64, &[2, 1], &[-100.0; 2]);
    for input in [ClassLossInput::Logits, ClassLossInput::LogProbs] {
        let loss = |reduction| run(&rule(input, reduction, 0.0), &x, &ignored, None).unwrap();
        assert!(loss(Reduction::Mean).loss.values()[0].is_nan());
        assert_eq!(loss(Reduction::Sum).loss.values(), [0.0]);
        assert_eq!(loss(Reduction::None).loss.values(), [0.0; 2]);
        let grad = Tensor::new(DType::F32, &[], &[1.0]);
        let (rule, forward) = (rule(input, Reduction::Mean, 0.0), loss(Reduction::Mean));
        let out = run_grad(&rule, &x, &ignored, None, &forward, &grad, x.layout).unwrap();
        assert_eq!(out.values(), [0.0; 6]);
    }
    for dims in [[0, 3, 1], [2, 3, 0]] {
        let x = Tensor::new(DType::F32, &dims, &[]);
        let target = Tensor::new(DType::I64, &[dims[0], dims[2]], &[]);
        let soft = Tensor::new(DType::F32, &dims, &[]);
        for target in [&target, &soft] {
            let forward = run(&rule(ClassLossInput::Logits, Reduction::Mean, 0.0), &x, target, None).unwrap();
            assert!(forward.loss.values()[0].is_nan());
            run(&rule(ClassLossInput::Logits, Reduction::None, 0.0), &x, target, None).unwrap();
        }
    }
}

#[test]
fn a_label_out_of_range_is_an_error_before_anything_is_written() {
    let x = Tensor::new(DType::F32, &[2, 3, 1], &numbers(6, 1));
    for (input, op) in [(ClassLossInput::Logits, "cross_entropy"), (ClassLossInput::LogProbs, "nll_loss")] {
        for bad in [3.0, -1.0] {
            let target = Tensor::new(DType::I64, &[2, 1], &[0.0, bad]);
            let rule = rule(input, Reduction::None, 0.0);
            let mut loss = Tensor::empty(DType::F32, &[2, 1]);
            let (mut lse, mut total) = (Tensor::empty(DType::F32, &[2, 1]), Tensor::empty(DType::F32, &[]));
            let args = ClassLossArgs {
                operands: operands(&rule, &x, &target, None),
                loss: loss.view_mut(),
                lse: lse.view_mut(),
                total: total.view_mut(),
                grad: None,
            };
            let error = CpuBackend.class_loss(args.checked().unwrap()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::IndexOutOfRange { size: 3, .. }), "{error}");
            assert!(error.to_string().starts_with(op), "{error}");
            assert_eq!((loss.values(), lse.values(), total.values()), (vec![77.0; 2], vec![77.0; 2], vec![77.0]));
        }
        let target = Tensor::new(DType::I64, &[2, 1], &[0.0, 7.0]);
        let ignoring = ClassLoss { ignore_index: 7, ..rule(input, Reduction::Mean, 0.0) };
        assert!(run(&ignoring, &x, &target, None).is_ok());
    }
    let soft = Tensor::empty(DType::F32, &[2, 3, 1]);
    assert!(run(&rule(ClassLossInput::LogProbs, Reduction::Mean, 0.0), &x, &soft, None).is_err());
    let short = Tensor::new(DType::I64, &[1, 1], &[0.0]);
    assert!(run(&rule(ClassLossInput::Logits, Reduction::Mean, 0.0), &x, &short, None).is_err());
}
