//! Batch and layer normalization against the CPU.

use kiln_backend::*;

use crate::{
    images::{Order, along, empty, image, lay},
    support::{FLOATS, MemoryLayout, Tensor, host, numbers, same, target, tensor},
};

/// Batches of one stage, and of two where threads run along the channels and along the pixels; the last three in packs of 16
/// bytes.
const BATCHES: [[usize; 4]; 7] =
    [[3, 5, 4, 3], [2, 40, 17, 17], [3, 2, 85, 67], [4, 3, 1, 1], [3, 16, 4, 6], [1, 1, 128, 144], [1, 8, 50, 48]];

#[test]
fn batch_norm() {
    for dtype in FLOATS {
        for dims in BATCHES {
            for (order, with) in [(Order::Planes, true), (Order::Pixels, true), (Order::Odd, false)] {
                if dims[3] > 17 && (dtype == DType::F16 || order == Order::Odd) {
                    continue;
                }
                same(&format!("batch_norm {dims:?} {order:?}"), |on| {
                    let c = dims[1];
                    let (x, mut out) = (image(on, dtype, dims, order, 1), empty(on, dtype, dims, order));
                    let vector = |dtype, salt| tensor(on, dtype, &[c], MemoryLayout::Sliced, salt);
                    let (weight, bias) = (vector(dtype, 5), vector(dtype, 6));
                    let affine = || {
                        if with {
                            Affine { weight: Some(weight.view()), bias: Some(bias.view()) }
                        } else {
                            Affine::default()
                        }
                    };
                    let mut stats = [7, 8, 9, 10].map(|salt| vector(dtype.accumulator(), salt));
                    {
                        let [mean, inv_std, running_mean, running_var] = &mut stats;
                        let running = with.then(|| RunningStats {
                            mean: running_mean.view_mut(),
                            var: running_var.view_mut(),
                            momentum: 0.1,
                            count: None,
                            shift: None,
                        });
                        on.batch_norm(
                            BatchNormArgs {
                                then: BatchNormThen::default(),
                                eps: 1e-5,
                                x: x.view(),
                                affine: affine(),
                                running,
                                out: out.view_mut(),
                                mean: mean.view_mut(),
                                inv_std: inv_std.view_mut(),
                            }
                            .checked()?,
                        )?;
                    }
                    let var = Tensor {
                        buffer: on.adopt(host(dtype.accumulator(), &vec![0.7; c]))?,
                        layout: Layout::contiguous(Shape::new(&[c])?),
                    };
                    let mut eval = empty(on, dtype, dims, Order::Planes);
                    on.batch_norm_eval(
                        BatchNormEvalArgs {
                            then: BatchNormThen::default(),
                            eps: 1e-3,
                            x: x.view(),
                            affine: affine(),
                            mean: stats[0].view(),
                            var: var.view(),
                            out: eval.view_mut(),
                        }
                        .checked()?,
                    )?;
                    let mut made = vec![out, eval];
                    // Of another order than the image where there are few elements.
                    let grad = along(on, dtype, dims, if dims[3] > 3 { order } else { Order::Planes });
                    for training in [true, false] {
                        let mut input = empty(on, dtype, dims, order);
                        let mut sums = [0, 1].map(|_| target(on, dtype, &[c], MemoryLayout::Sliced));
                        let [of_weight, of_bias] = &mut sums;
                        let grads = NormGrads {
                            input: Some(input.view_mut()),
                            weight: with.then(|| of_weight.view_mut()),
                            bias: Some(of_bias.view_mut()),
                        };
                        let (mean, inv_std) = (stats[0].view(), stats[1].view());
                        on.batch_norm_grad(
                            BatchNormGradArgs {
                                then: BatchNormGradThen::default(),
                                training,
                                grad: grad.view(),
                                x: x.view(),
                                weight: affine().weight,
                                mean,
                                inv_std,
                                grads,
                            }
                            .checked()?,
                        )?;
                        // Each part alone.
                        let (mut alone, mut shift) =
                            (empty(on, dtype, dims, order), target(on, dtype, &[c], MemoryLayout::Dense));
                        let grads = NormGrads { input: Some(alone.view_mut()), weight: None, bias: None };
                        on.batch_norm_grad(
                            BatchNormGradArgs {
                                then: BatchNormGradThen::default(),
                                training,
                                grad: grad.view(),
                                x: x.view(),
                                weight: affine().weight,
                                mean,
                                inv_std,
                                grads,
                            }
                            .checked()?,
                        )?;
                        let grads = NormGrads { input: None, weight: None, bias: Some(shift.view_mut()) };
                        on.batch_norm_grad(
                            BatchNormGradArgs {
                                then: BatchNormGradThen::default(),
                                training,
                                grad: grad.view(),
                                x: x.view(),
                                weight: affine().weight,
                                mean,
                                inv_std,
                                grads,
                            }
                            .checked()?,
                        )?;
                        made.extend([input, alone, shift]);
                        made.extend(sums);
                    }
                    made.extend(stats);
                    Ok(made)
                });
            }
        }
    }
}

/// A large mean beside a small deviation loses nothing, which it does where squares are subtracted.
#[test]
fn batch_norm_of_a_large_mean() {
    let dims = [2, 3, 100, 90];
    for order in [Order::Planes, Order::Pixels] {
        same(&format!("{order:?}"), |on| {
            let (layout, len) = lay(dims, order);
            let values: Vec<f64> = numbers(len, 1).into_iter().map(|v| 5000.0 + v.round()).collect();
            let x = Tensor { buffer: on.adopt(host(DType::F32, &values))?, layout };
            let mut out = empty(on, DType::F32, dims, order);
            let mut stats = [0, 1].map(|_| target(on, DType::F32, &[3], MemoryLayout::Dense));
            let [mean, inv_std] = &mut stats;
            on.batch_norm(
                BatchNormArgs {
                    then: BatchNormThen::default(),
                    eps: 0.0,
                    x: x.view(),
                    affine: Affine::default(),
                    running: None,
                    out: out.view_mut(),
                    mean: mean.view_mut(),
                    inv_std: inv_std.view_mut(),
                }
                .checked()?,
            )?;
            // The mean itself has 24 bits, so the output follows it by a few 1e-4.
            Ok(stats.into())
        });
    }
}

#[test]
fn layer_norm() {
    use MemoryLayout::{Dense, Sliced, Turned};
    for dtype in FLOATS {
        // The last four in packs of 16 bytes, of which the third has two stages along rows, the fourth along columns.
        for dims in [[6, 10], [70, 33], [2, 17_002], [700, 5], [3, 1], [6, 64], [40, 16], [1, 17_000], [700, 8]] {
            // Packs need a dense weight, which the rows of 16 do not have.
            let place = if dims[1] % 8 == 0 && dims[1] != 16 { Dense } else { Sliced };
            for (memory, with) in [(Dense, true), (Turned, true), (Sliced, false)] {
                if dims[1] > 1000 && (dtype == DType::BF16 || memory == Turned) {
                    continue;
                }
                same(&format!("layer_norm {dims:?} {memory:?}"), |on| {
                    let (x, mut out) = (tensor(on, dtype, &dims, memory, 1), target(on, dtype, &dims, Dense));
                    let (weight, bias) =
                        (tensor(on, dtype, &dims[1..], place, 5), tensor(on, dtype, &dims[1..], Dense, 6));
                    let affine = if with {
                        Affine { weight: Some(weight.view()), bias: Some(bias.view()) }
                    } else {
                        Affine::default()
                    };
                    let mut stats = [0, 1].map(|_| target(on, dtype.accumulator(), &dims[..1], Dense));
                    let [mean, inv_std] = &mut stats;
                    on.layer_norm(
                        LayerNormArgs {
                            eps: 1e-5,
                            x: x.view(),
                            affine,
                            out: out.view_mut(),
                            mean: mean.view_mut(),
                            inv_std: inv_std.view_mut(),
                        }
                        .checked()?,
                    )?;
                    let (grad, mut input) = (tensor(on, dtype, &dims, Dense, 2), target(on, dtype, &dims, memory));
                    let mut sums = [0, 1].map(|_| target(on, dtype, &dims[1..], Sliced));
                    let [of_weight, of_bias] = &mut sums;
                    let grads = NormGrads {
                        input: Some(input.view_mut()),
                        weight: Some(of_weight.view_mut()),
                        bias: with.then(|| of_bias.view_mut()),
                    };
                    on.layer_norm_grad(
                        LayerNormGradArgs {
                            grad: grad.view(),
                            x: x.view(),
                            weight: affine.weight,
                            mean: stats[0].view(),
                            inv_std: stats[1].view(),
                            grads,
                        }
                        .checked()?,
                    )?;
                    let mut made = vec![out, input];
                    made.extend(stats);
                    made.extend(sums);
                    Ok(made)
                });
            }
        }
    }
}

#[test]
fn batch_norm_and_layer_norm_at_the_edge() {
    for dims in [[0, 3, 2, 2], [2, 0, 2, 2], [2, 3, 0, 2]] {
        same(&format!("{dims:?}"), |on| {
            let (x, mut out) =
                (image(on, DType::F32, dims, Order::Planes, 1), empty(on, DType::F32, dims, Order::Planes));
            let mut stats = [0, 1].map(|_| target(on, DType::F32, &dims[1..2], MemoryLayout::Dense));
            let [mean, inv_std] = &mut stats;
            on.batch_norm(
                BatchNormArgs {
                    then: BatchNormThen::default(),
                    eps: 1e-5,
                    x: x.view(),
                    affine: Affine::default(),
                    running: None,
                    out: out.view_mut(),
                    mean: mean.view_mut(),
                    inv_std: inv_std.view_mut(),
                }
                .checked()?,
            )?;
            let [given_mean, given_inv_std, mut of_weight, mut of_bias] =
                [1, 2, 3, 4].map(|salt| tensor(on, DType::F32, &dims[1..2], MemoryLayout::Dense, salt));
            let grads = NormGrads { input: None, weight: Some(of_weight.view_mut()), bias: Some(of_bias.view_mut()) };
            on.batch_norm_grad(
                BatchNormGradArgs {
                    then: BatchNormGradThen::default(),
                    training: true,
                    grad: out.view(),
                    x: x.view(),
                    weight: None,
                    mean: given_mean.view(),
                    inv_std: given_inv_std.view(),
                    grads,
                }
                .checked()?,
            )?;
            let mut made = vec![of_weight, of_bias];
            made.extend(stats);
            Ok(made)
        });
    }
}

/// The residual, the ReLU, the shift and the count inside a batch normalization, both ways.
#[test]
fn batch_norm_with_what_follows() {
    for dtype in FLOATS {
        for dims in BATCHES {
            for (order, with, wide) in [
                (Order::Planes, true, false),
                (Order::Pixels, true, false),
                (Order::Pixels, false, false),
                (Order::Odd, true, false),
                (Order::Planes, true, true),
                (Order::Pixels, true, true),
            ] {
                if dims[3] > 9 && (dtype == DType::F16 || order == Order::Odd || !with || wide) {
                    continue;
                }
                // Scale and shift in f32 beside images in half precision, as under autocast.
                let of = if wide { dtype.accumulator() } else { dtype };
                if wide && of == dtype {
                    continue;
                }
                same(&format!("batch_norm with what follows {dims:?} {order:?} {with} {of}"), |on| {
                    let c = dims[1];
                    let vector = |dtype, salt| tensor(on, dtype, &[c], MemoryLayout::Sliced, salt);
                    let (x, z) = (image(on, dtype, dims, order, 1), image(on, dtype, dims, order, 3));
                    let (weight, bias, shift) = (vector(of, 5), vector(of, 6), vector(of, 11));
                    let affine = Affine { weight: Some(weight.view()), bias: with.then(|| bias.view()) };
                    let mut made = Vec::new();
                    for residual in [None, Some(z.view())] {
                        // Running statistics are in the accumulator's type, or in the images'.
                        let running_dtype = if residual.is_some() { dtype } else { dtype.accumulator() };
                        let mut stats = [7, 8, 9, 10]
                            .map(|salt| vector(if salt < 9 { dtype.accumulator() } else { running_dtype }, salt));
                        let [mean, inv_std, running_mean, running_var] = &mut stats;
                        let layout = Layout::contiguous(Shape::new(&[])?);
                        let mut count = Tensor { buffer: on.adopt(host(DType::I64, &[41.0]))?, layout };
                        let running = RunningStats {
                            mean: running_mean.view_mut(),
                            var: running_var.view_mut(),
                            momentum: 0.1,
                            count: Some(count.view_mut()),
                            shift: with.then(|| shift.view()),
                        };
                        let (mut out, then) = (empty(on, dtype, dims, order), BatchNormThen { residual, relu: true });
                        on.batch_norm(
                            BatchNormArgs {
                                eps: 1e-5,
                                x: x.view(),
                                affine,
                                running: Some(running),
                                then,
                                out: out.view_mut(),
                                mean: mean.view_mut(),
                                inv_std: inv_std.view_mut(),
                            }
                            .checked()?,
                        )?;
                        let (mut eval, given) = (empty(on, dtype, dims, order), vector(dtype.accumulator(), 8));
                        let var = Tensor {
                            buffer: on.adopt(host(dtype.accumulator(), &vec![0.7; c]))?,
                            layout: Layout::contiguous(Shape::new(&[c])?),
                        };
                        on.batch_norm_eval(
                            BatchNormEvalArgs {
                                eps: 1e-3,
                                x: x.view(),
                                affine,
                                mean: given.view(),
                                var: var.view(),
                                then,
                                out: eval.view_mut(),
                            }
                            .checked()?,
                        )?;
                        made.extend([out, eval, count]);
                        made.extend(stats);
                    }
                    // The same statistics on both devices, so that no value is on the other side of 0.
                    let [mean, inv_std] = [13, 14].map(|salt| vector(dtype.accumulator(), salt));
                    let grad = along(on, dtype, dims, if dims[3] > 3 { order } else { Order::Planes });
                    // Everything in each way, and each result alone. Without a scale, only the gradients tell their dtype.
                    let ways = [
                        (true, true, false, true),
                        (true, false, false, true),
                        (false, false, false, true),
                        (true, false, true, true),
                        (true, false, false, false),
                    ];
                    let all = ways.map(|way| (way, [true; 3]));
                    let alone =
                        [[true, false, false], [false, true, false], [false, false, true]].map(|some| (ways[1], some));
                    for ((training, recomputed, apart, scaled), [input, residual, sums]) in all.into_iter().chain(alone)
                    {
                        let [mut dx, mut passed] = [(); 2].map(|()| empty(on, dtype, dims, order));
                        let mut vectors = [(); 3].map(|()| target(on, of, &[c], MemoryLayout::Sliced));
                        let [of_weight, of_bias, of_shift] = &mut vectors;
                        let grads = NormGrads {
                            input: input.then(|| dx.view_mut()),
                            weight: sums.then(|| of_weight.view_mut()),
                            bias: sums.then(|| of_bias.view_mut()),
                        };
                        // An output that lies otherwise than the gradients.
                        let y = image(on, dtype, dims, if apart { Order::Odd } else { order }, 3);
                        let relu = match recomputed {
                            true => ReluAfterNorm::Recomputed { bias: affine.bias },
                            false => ReluAfterNorm::Output(y.view()),
                        };
                        let then = BatchNormGradThen {
                            relu,
                            residual: residual.then(|| passed.view_mut()),
                            shift: (sums && with).then(|| of_shift.view_mut()),
                        };
                        on.batch_norm_grad(
                            BatchNormGradArgs {
                                training,
                                grad: grad.view(),
                                x: x.view(),
                                weight: affine.weight.filter(|_| scaled),
                                mean: mean.view(),
                                inv_std: inv_std.view(),
                                grads,
                                then,
                            }
                            .checked()?,
                        )?;
                        made.extend([dx, passed]);
                        made.extend(vectors);
                    }
                    Ok(made)
                });
            }
        }
    }
}
