//! Tests of the normalizations, against direct evaluation of the definitions.

use kiln_backend::{
    Affine, Arguments, BatchNormArgs, BatchNormBackend, BatchNormEvalArgs, BatchNormGradArgs, BatchNormGradThen,
    BatchNormThen, DType, LayerNormArgs, LayerNormBackend, LayerNormGradArgs, NormGrads, ReluAfterNorm, Result,
    RunningStats,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts};

const EPS: f64 = 1e-3;

/// Mean, inverse standard deviation, output, and gradients of input, scale and shift of one normalized set; `w` and `b`
/// have one number for each element.
struct Want {
    mean: f64,
    inv_std: f64,
    y: Vec<f64>,
    dx: Vec<f64>,
}

fn want(x: &[f64], w: &[f64], b: &[f64], g: &[f64]) -> Want {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let inv_std = 1.0 / (var + EPS).sqrt();
    let hat: Vec<f64> = x.iter().map(|x| (x - mean) * inv_std).collect();
    let gw: Vec<f64> = g.iter().zip(w).map(|(g, w)| g * w).collect();
    let (a, d) = (gw.iter().sum::<f64>() / n, gw.iter().zip(&hat).map(|(g, h)| g * h).sum::<f64>() / n);
    let y = hat.iter().zip(w).zip(b).map(|((h, w), b)| h * w + b).collect();
    let dx = gw.iter().zip(&hat).map(|(g, h)| (g - a - h * d) * inv_std).collect();
    Want { mean, inv_std, y, dx }
}

fn batch_norm(args: BatchNormArgs) -> Result<()> {
    CpuBackend.batch_norm(args.checked()?)
}

fn batch_norm_grad(args: BatchNormGradArgs) -> Result<()> {
    CpuBackend.batch_norm_grad(args.checked()?)
}

#[test]
fn batches_in_every_layout_and_dtype() {
    for dims in [[3usize, 5, 4, 3], [2, 20, 1, 7], [1, 2, 40, 41], [2, 1, 33, 33]] {
        let [n, c, h, w] = dims;
        let total = n * c * h * w;
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let acc = dtype.accumulator();
            for (i, from) in read_layouts(&dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }).enumerate()
            {
                let x = Tensor::with_layout(dtype, from, &numbers(total, 1));
                let g = Tensor::with_layout(dtype, read_layouts(&dims)[(i + 1) % 3], &numbers(total, 2));
                let (weight, bias) =
                    (Tensor::new(dtype, &[c], &numbers(c, 3)), Tensor::new(dtype, &[c], &numbers(c, 4)));
                let (xs, gs, ws, bs) = (x.values(), g.values(), weight.values(), bias.values());
                let [mut mean, mut inv] = [(); 2].map(|()| Tensor::empty(acc, &[c]));
                let (mut rm, mut rv) = (Tensor::new(acc, &[c], &vec![1.0; c]), Tensor::new(acc, &[c], &vec![2.0; c]));
                let mut y = Tensor::with_layout(dtype, layouts(&dims)[i % 3], &vec![1.0; total]);
                let affine = Affine { weight: Some(weight.view()), bias: Some(bias.view()) };
                let running =
                    RunningStats { mean: rm.view_mut(), var: rv.view_mut(), momentum: 0.25, count: None, shift: None };
                batch_norm(BatchNormArgs {
                    then: BatchNormThen::default(),
                    x: x.view(),
                    affine,
                    running: Some(running),
                    eps: EPS,
                    out: y.view_mut(),
                    mean: mean.view_mut(),
                    inv_std: inv.view_mut(),
                })
                .unwrap();
                let mut dx = Tensor::with_layout(dtype, layouts(&dims)[(i + 2) % 3], &vec![1.0; total]);
                let [mut dw, mut db] = [(); 2].map(|()| Tensor::empty(dtype, &[c]));
                let grads =
                    NormGrads { input: Some(dx.view_mut()), weight: Some(dw.view_mut()), bias: Some(db.view_mut()) };
                let (grad, xv, scale) = (g.view(), x.view(), Some(weight.view()));
                let (m, i) = (mean.view(), inv.view());
                batch_norm_grad(BatchNormGradArgs {
                    then: BatchNormGradThen::default(),
                    training: true,
                    grad,
                    x: xv,
                    weight: scale,
                    mean: m,
                    inv_std: i,
                    grads,
                })
                .unwrap();

                for channel in 0..c {
                    let of = |v: &[f64]| -> Vec<f64> {
                        (0..n).flat_map(|n| v[(n * c + channel) * h * w..][..h * w].to_vec()).collect()
                    };
                    let m = n * h * w;
                    let want = want(&of(&xs), &vec![ws[channel]; m], &vec![bs[channel]; m], &of(&gs));
                    let bound = if dtype == acc { 4000.0 } else { 40.0 };
                    assert_close(&of(&y.values()), &want.y, dtype, bound, "batch norm");
                    assert_close(&of(&dx.values()), &want.dx, dtype, bound * want.inv_std, "gradient");
                    let unbiased = (want.inv_std.powi(-2) - EPS) * m as f64 / (m as f64 - 1.0);
                    for (got, want) in [
                        (&mean, want.mean),
                        (&inv, want.inv_std),
                        (&rm, 0.75 + 0.25 * want.mean),
                        (&rv, 1.5 + 0.25 * unbiased),
                    ] {
                        assert_close(&[got.values()[channel]], &[want], acc, 40.0, "statistics");
                    }
                    let sums = of(&gs);
                    assert_close(&[db.values()[channel]], &[sums.iter().sum()], dtype, 4000.0, "shift");
                    let hat = of(&xs).iter().zip(&sums).map(|(x, g)| (x - want.mean) * want.inv_std * g).sum();
                    assert_close(&[dw.values()[channel]], &[hat], dtype, 4000.0, "scale");
                }

                let affine = Affine { weight: Some(weight.view()), bias: None };
                let (mean, var) = (rm.view(), rv.view());
                let args = BatchNormEvalArgs {
                    then: BatchNormThen::default(),
                    x: xv,
                    affine,
                    mean,
                    var,
                    eps: EPS,
                    out: y.view_mut(),
                };
                CpuBackend.batch_norm_eval(args.checked().unwrap()).unwrap();
                let grads = NormGrads { input: Some(dx.view_mut()), ..NormGrads::default() };
                batch_norm_grad(BatchNormGradArgs {
                    then: BatchNormGradThen::default(),
                    training: false,
                    grad,
                    x: xv,
                    weight: scale,
                    mean,
                    inv_std: i,
                    grads,
                })
                .unwrap();
                let at = |i: usize| i / (h * w) % c;
                let (rm, rv, inv) = (rm.values(), rv.values(), inv.values());
                let plain = |i: usize| (xs[i] - rm[at(i)]) / (rv[at(i)] + EPS).sqrt() * ws[at(i)];
                let want: Vec<f64> = (0..total).map(plain).collect();
                assert_close(&y.values(), &want, dtype, 400.0, "evaluation");
                let want: Vec<f64> = (0..total).map(|i| gs[i] * inv[at(i)] * ws[at(i)]).collect();
                assert_close(&dx.values(), &want, dtype, 400.0, "evaluation gradient");
            }
        }
    }
}

#[test]
fn rows_in_every_layout_and_dtype() {
    for dims in [[3usize, 5], [150, 7], [2, 2500], [4, 1], [0, 3]] {
        let [m, n] = dims;
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let acc = dtype.accumulator();
            for (i, from) in read_layouts(&dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }).enumerate()
            {
                let x = Tensor::with_layout(dtype, from, &numbers(m * n, 1));
                let g = Tensor::with_layout(dtype, read_layouts(&dims)[(i + 1) % 3], &numbers(m * n, 2));
                let (weight, bias) =
                    (Tensor::new(dtype, &[n], &numbers(n, 3)), Tensor::new(dtype, &[n], &numbers(n, 4)));
                let (xs, gs, ws, bs) = (x.values(), g.values(), weight.values(), bias.values());
                let [mut mean, mut inv] = [(); 2].map(|()| Tensor::empty(acc, &[m]));
                let [mut y, mut dx] =
                    [0, 1].map(|k| Tensor::with_layout(dtype, layouts(&dims)[(i + k) % 3], &vec![1.0; m * n]));
                let affine = Affine { weight: Some(weight.view()), bias: Some(bias.view()) };
                let args = LayerNormArgs {
                    x: x.view(),
                    affine,
                    eps: EPS,
                    out: y.view_mut(),
                    mean: mean.view_mut(),
                    inv_std: inv.view_mut(),
                };
                CpuBackend.layer_norm(args.checked().unwrap()).unwrap();
                let [mut dw, mut db] = [(); 2].map(|()| Tensor::empty(dtype, &[n]));
                let grads =
                    NormGrads { input: Some(dx.view_mut()), weight: Some(dw.view_mut()), bias: Some(db.view_mut()) };
                let args = LayerNormGradArgs {
                    grad: g.view(),
                    x: x.view(),
                    weight: Some(weight.view()),
                    mean: mean.view(),
                    inv_std: inv.view(),
                    grads,
                };
                CpuBackend.layer_norm_grad(args.checked().unwrap()).unwrap();
                let (mut want_w, mut want_b) = (vec![0.0; n], vec![0.0; n]);
                let bound = if dtype == acc { 4000.0 } else { 40.0 };
                for row in 0..m {
                    let of = |v: &[f64]| v[row * n..(row + 1) * n].to_vec();
                    let want = want(&of(&xs), &ws, &bs, &of(&gs));
                    assert_close(&of(&y.values()), &want.y, dtype, bound, "layer norm");
                    assert_close(&of(&dx.values()), &want.dx, dtype, bound * want.inv_std, "gradient");
                    assert_close(
                        &[mean.values()[row], inv.values()[row]],
                        &[want.mean, want.inv_std],
                        acc,
                        40.0,
                        "stats",
                    );
                    for i in 0..n {
                        want_b[i] += gs[row * n + i];
                        want_w[i] += gs[row * n + i] * (xs[row * n + i] - want.mean) * want.inv_std;
                    }
                }
                assert_close(&dw.values(), &want_w, dtype, 4000.0, "scale");
                assert_close(&db.values(), &want_b, dtype, 4000.0, "shift");
            }
        }
    }
}

#[test]
fn large_means_cost_no_precision() {
    let values: Vec<f64> = numbers(4096, 1).iter().map(|v| v / 64.0 + 1000.0).collect();
    let x = Tensor::new(DType::F32, &[4, 1, 32, 32], &values);
    let stored = x.values();
    let mean = stored.iter().sum::<f64>() / 4096.0;
    let var = stored.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4096.0;
    let [mut got, mut inv, mut y] = [&[1usize][..], &[1], &[4, 1, 32, 32]].map(|d| Tensor::empty(DType::F32, d));
    batch_norm(BatchNormArgs {
        then: BatchNormThen::default(),
        x: x.view(),
        affine: Affine::default(),
        running: None,
        eps: 0.0,
        out: y.view_mut(),
        mean: got.view_mut(),
        inv_std: inv.view_mut(),
    })
    .unwrap();
    assert_close(&inv.values(), &[1.0 / var.sqrt()], DType::F32, 20.0, "inverse standard deviation");
}

#[test]
fn threads_do_not_matter() {
    let x = Tensor::new(DType::F32, &[2, 7, 50, 50], &numbers(35_000, 1));
    let run = |threads: usize| {
        let [mut mean, mut inv] = [(); 2].map(|()| Tensor::empty(DType::F32, &[7]));
        let mut y = Tensor::empty(DType::F32, &[2, 7, 50, 50]);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (out, mean_out, inv_std, affine) = (y.view_mut(), mean.view_mut(), inv.view_mut(), Affine::default());
        let args = BatchNormArgs {
            then: BatchNormThen::default(),
            x: x.view(),
            affine,
            running: None,
            eps: EPS,
            out,
            mean: mean_out,
            inv_std,
        };
        pool.install(|| batch_norm(args)).unwrap();
        [y.bytes().to_vec(), mean.bytes().to_vec(), inv.bytes().to_vec()]
    };
    assert_eq!(run(1), run(5));
}

/// ReLU, a residual and a shift inside a normalization give what they give apart; a tiny value that half precision rounds to 0
/// is one that ReLU has not let through.
#[test]
fn what_follows_batch_norm_is_as_if_it_were_apart() {
    let dims = [3usize, 5, 4, 3];
    let (c, total) = (5, 180);
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let acc = dtype.accumulator();
        for (i, from) in read_layouts(&dims).into_iter().enumerate() {
            let x = Tensor::with_layout(dtype, from, &numbers(total, 1));
            let g = Tensor::with_layout(dtype, read_layouts(&dims)[(i + 1) % 3], &numbers(total, 2));
            let z = Tensor::with_layout(dtype, read_layouts(&dims)[(i + 2) % 3], &numbers(total, 5));
            let weights: Vec<f64> =
                numbers(c, 3).into_iter().map(|w| if dtype == DType::F16 { w * 1e-7 } else { w }).collect();
            let (weight, shift) = (Tensor::new(dtype, &[c], &weights), Tensor::new(dtype, &[c], &numbers(c, 4)));
            let run = |then: BatchNormThen, shift: Option<&Tensor>, running_dtype: DType| {
                let [mut mean, mut inv] = [(); 2].map(|()| Tensor::empty(acc, &[c]));
                let [mut rm, mut rv] = [(); 2].map(|()| Tensor::new(running_dtype, &[c], &vec![1.0; c]));
                let (mut y, mut count) = (
                    Tensor::with_layout(dtype, layouts(&dims)[i % 3], &vec![1.0; total]),
                    Tensor::new(DType::I64, &[], &[41.0]),
                );
                let shift = shift.map(Tensor::view);
                let running = RunningStats {
                    mean: rm.view_mut(),
                    var: rv.view_mut(),
                    momentum: 0.25,
                    count: Some(count.view_mut()),
                    shift,
                };
                let affine = Affine { weight: Some(weight.view()), bias: None };
                let (out, m, inv_std) = (y.view_mut(), mean.view_mut(), inv.view_mut());
                batch_norm(BatchNormArgs {
                    then,
                    x: x.view(),
                    affine,
                    running: Some(running),
                    eps: EPS,
                    out,
                    mean: m,
                    inv_std,
                })
                .unwrap();
                assert_eq!(count.values(), [42.0]);
                (y, mean, inv, rm, rv)
            };
            let (plain, mean, inv, rm, rv) = run(BatchNormThen::default(), None, acc);
            let (y, _, _, moved, same) = run(BatchNormThen { residual: None, relu: true }, Some(&shift), acc);
            let rectified: Vec<f64> = plain.values().into_iter().map(|v| v.max(0.0)).collect();
            assert_eq!(y.values(), rectified, "{dtype:?}");
            let want: Vec<f64> = rm.values().iter().zip(shift.values()).map(|(m, s)| m + 0.25 * s).collect();
            assert_close(&moved.values(), &want, acc, 40.0, "running mean");
            assert_eq!(same.values(), rv.values());
            let (.., stored_mean, stored_var) = run(BatchNormThen::default(), None, dtype);
            assert_close(&stored_mean.values(), &rm.values(), dtype, 1.0, "a running mean of the images' dtype");
            assert_close(&stored_var.values(), &rv.values(), dtype, 1.0, "a running variance of the images' dtype");
            let (sum, ..) = run(BatchNormThen { residual: Some(z.view()), relu: true }, None, acc);
            let want: Vec<f64> = plain.values().iter().zip(z.values()).map(|(v, z)| (v + z).max(0.0)).collect();
            assert_close(&sum.values(), &want, dtype, 40.0, "residual");

            let grad = |g: &Tensor, relu, residual: Option<&mut Tensor>, shift: Option<&mut Tensor>| {
                let [mut dw, mut db] = [(); 2].map(|()| Tensor::empty(dtype, &[c]));
                let mut dx = Tensor::with_layout(dtype, layouts(&dims)[(i + 1) % 3], &vec![1.0; total]);
                let grads =
                    NormGrads { input: Some(dx.view_mut()), weight: Some(dw.view_mut()), bias: Some(db.view_mut()) };
                let then = BatchNormGradThen {
                    relu,
                    residual: residual.map(Tensor::view_mut),
                    shift: shift.map(Tensor::view_mut),
                };
                let (m, inv_std, scale) = (mean.view(), inv.view(), Some(weight.view()));
                batch_norm_grad(BatchNormGradArgs {
                    then,
                    training: true,
                    grad: g.view(),
                    x: x.view(),
                    weight: scale,
                    mean: m,
                    inv_std,
                    grads,
                })
                .unwrap();
                [dx.values(), dw.values(), db.values()]
            };
            let masked = |output: &Tensor| -> Vec<f64> {
                output.values().iter().zip(g.values()).map(|(y, g)| if *y <= 0.0 { 0.0 } else { g }).collect()
            };
            let apart =
                grad(&Tensor::with_layout(dtype, layouts(&dims)[0], &masked(&y)), ReluAfterNorm::None, None, None);
            let mut zeros = Tensor::new(dtype, &[c], &vec![1.0; c]);
            assert_eq!(grad(&g, ReluAfterNorm::Recomputed { bias: None }, None, Some(&mut zeros)), apart, "{dtype:?}");
            assert_eq!(zeros.values(), vec![0.0; c]);
            assert_eq!(grad(&g, ReluAfterNorm::Output(y.view()), None, None), apart, "{dtype:?}");
            let apart =
                grad(&Tensor::with_layout(dtype, layouts(&dims)[0], &masked(&sum)), ReluAfterNorm::None, None, None);
            let mut passed = Tensor::with_layout(dtype, layouts(&dims)[(i + 2) % 3], &vec![1.0; total]);
            assert_eq!(grad(&g, ReluAfterNorm::Output(sum.view()), Some(&mut passed), None), apart, "{dtype:?}");
            assert_eq!(passed.values(), masked(&sum));
        }
    }
}
