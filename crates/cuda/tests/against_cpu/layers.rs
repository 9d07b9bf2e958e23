//! Pooling, normalization, and the gradient of a bias with its ReLU.

use kiln_backend::*;

use crate::support::{FLOATS, Lie, RECORD, Tensor, device, host, index, numbers, read, same, target, tensor};

/// How an image lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Planes,
    /// Channels last.
    Pixels,
    /// Rows before channels before images before columns, behind an offset and with gaps.
    Odd,
}

const ORDERS: [Order; 3] = [Order::Planes, Order::Pixels, Order::Odd];

fn lay(dims: [usize; 4], order: Order) -> (Layout, usize) {
    let numel: usize = dims.iter().product();
    let turned = |order: [usize; 4], back: [usize; 4], gap: usize| {
        let mut wide = order.map(|d| dims[d]);
        wide[3] *= 1 + gap;
        let whole = Layout::contiguous(Shape::new(&wide).unwrap());
        (if gap == 0 { whole } else { whole.slice(3, gap, wide[3], 1 + gap) }).permute(&back)
    };
    match order {
        Order::Planes => (Layout::contiguous(Shape::new(&dims).unwrap()), numel),
        Order::Pixels => (turned([0, 2, 3, 1], [0, 3, 1, 2], 0), numel),
        Order::Odd => (turned([2, 1, 0, 3], [2, 1, 0, 3], 1), 2 * numel),
    }
}

fn image(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order, salt: u64) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &numbers(len, salt))).unwrap(), layout }
}

/// A gradient that goes along with `image(…, salt 1)`: its sums and those of its products with the image are large
/// compared with what rounding leaves.
fn along(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    let values: Vec<f64> = numbers(len, 1).into_iter().zip(numbers(len, 2)).map(|(x, v)| x + v + 3.0).collect();
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// An image with equal elements, NaNs and infinities.
fn wild(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    let mut values = numbers(len, 3);
    for (i, value) in values.iter_mut().enumerate() {
        *value = match i % 37 {
            5 => f64::NAN,
            11..=13 => f64::NEG_INFINITY,
            14 => f64::INFINITY,
            _ => (*value * 2.0).round() / 2.0,
        };
    }
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

fn empty(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &vec![0.0; len])).unwrap(), layout }
}

fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

fn window(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2]) -> Pool2d {
    Pool2d::Window { kernel, stride, padding, dilation }
}

/// Poolings of planes of 7 x 10, with the extents of their outputs.
fn poolings() -> Vec<(Pool2d, [usize; 2])> {
    let mut all = Vec::new();
    for (pool, ceil) in [
        (window([2, 2], [2, 2], [0, 0], [1, 1]), false),
        (window([3, 3], [2, 2], [1, 1], [1, 1]), false),
        (window([3, 2], [2, 3], [1, 0], [1, 1]), true),
        (window([2, 3], [1, 2], [1, 1], [1, 1]), true),
        (window([2, 3], [2, 1], [1, 2], [3, 2]), false),
        (window([2, 2], [4, 5], [0, 1], [2, 1]), true),
        (window([7, 10], [1, 1], [0, 0], [1, 1]), false),
    ] {
        all.push((pool, pool.output([7, 10], ceil).unwrap()));
    }
    all.extend([[1, 1], [3, 4], [7, 10], [9, 3]].map(|output| (Pool2d::Adaptive, output)));
    all
}

#[test]
fn max_pool2d() {
    for dtype in FLOATS {
        for (pool, [h, w]) in poolings() {
            for order in ORDERS {
                same(&format!("{pool:?} {order:?}"), |on| {
                    let (before, after) = ([2, 3, 7, 10], [2, 3, h, w]);
                    let (x, mut out) = (wild(on, dtype, before, order), empty(on, dtype, after, order));
                    let mut at = empty(on, DType::I64, after, Order::Pixels);
                    on.max_pool2d(&pool, x.view(), out.view_mut(), Some(at.view_mut()))?;
                    let mut alone = empty(on, dtype, after, Order::Planes);
                    on.max_pool2d(&pool, x.view(), alone.view_mut(), None)?;
                    let grad = image(on, dtype, after, Order::Odd, 2);
                    let mut dx = empty(on, dtype, before, order);
                    on.max_pool2d_grad(&pool, grad.view(), at.view(), dx.view_mut())?;
                    Ok(vec![out, at, alone, dx])
                });
            }
        }
    }
}

#[test]
fn avg_pool2d() {
    for dtype in FLOATS {
        for (pool, [h, w]) in poolings() {
            if matches!(pool, Pool2d::Window { dilation, .. } if dilation != [1; 2]) {
                continue;
            }
            for divisor in [PoolDivisor::WithPadding, PoolDivisor::Inside, PoolDivisor::Fixed(-3)] {
                let order = ORDERS[(h + w) % 3];
                same(&format!("{pool:?} {divisor:?} {order:?}"), |on| {
                    let (before, after) = ([2, 3, 7, 10], [2, 3, h, w]);
                    let (x, mut out) = (image(on, dtype, before, order, 1), empty(on, dtype, after, order));
                    on.avg_pool2d(&pool, divisor, x.view(), out.view_mut())?;
                    let grad = image(on, dtype, after, Order::Odd, 2);
                    let mut dx = empty(on, dtype, before, order);
                    on.avg_pool2d_grad(&pool, divisor, grad.view(), dx.view_mut())?;
                    Ok(vec![out, dx])
                });
            }
        }
    }
}

#[test]
fn max_pool2d_and_avg_pool2d_at_the_edge() {
    let halves = window([2, 2], [2, 2], [0, 0], [1, 1]);
    for (before, after) in [([0, 3, 4, 4], [0, 3, 2, 2]), ([2, 0, 4, 4], [2, 0, 2, 2]), ([2, 3, 1, 1], [2, 3, 0, 0])] {
        same(&format!("{before:?}"), |on| {
            let (x, mut out) =
                (image(on, DType::F32, before, Order::Planes, 1), empty(on, DType::F32, after, Order::Planes));
            let mut at = empty(on, DType::I64, after, Order::Planes);
            on.max_pool2d(&halves, x.view(), out.view_mut(), Some(at.view_mut()))?;
            on.avg_pool2d(&halves, PoolDivisor::Inside, x.view(), out.view_mut())?;
            let (mut dx, mut mean_dx) =
                (image(on, DType::F32, before, Order::Planes, 3), image(on, DType::F32, before, Order::Planes, 4));
            on.max_pool2d_grad(&halves, out.view(), at.view(), dx.view_mut())?;
            on.avg_pool2d_grad(&halves, PoolDivisor::Inside, out.view(), mean_dx.view_mut())?;
            Ok(vec![dx, mean_dx])
        });
    }
    let Some(device) = device() else { return };
    let x = image(device, DType::F32, [2, 3, 0, 4], Order::Planes, 1);
    let mut out = empty(device, DType::F32, [2, 3, 2, 2], Order::Planes);
    let mut other = empty(device, DType::F32, [2, 4, 2, 2], Order::Planes);
    assert!(device.max_pool2d(&Pool2d::Adaptive, x.view(), out.view_mut(), None).is_err());
    assert!(device.max_pool2d(&halves, x.view(), other.view_mut(), None).is_err());
    let far = window([2, 2], [usize::MAX, 1], [0, 0], [1, 1]);
    assert!(device.avg_pool2d(&far, PoolDivisor::Inside, x.view(), out.view_mut()).is_err());
    let wrong = index(device, &[2, 3, 1, 1], 5);
    assert!(device.max_pool2d_grad(&halves, other.view(), wrong.view(), out.view_mut()).is_err());
}

#[test]
fn max_pool2d_grad_reports_a_position_outside_the_plane() {
    let Some(device) = device() else { return };
    let _alone = RECORD.write();
    device.synchronize().unwrap();
    let pool = window([2, 2], [2, 2], [0, 0], [1, 1]);
    for bad in [4, -2] {
        let grad = image(device, DType::F32, [1, 2, 1, 1], Order::Planes, 1);
        let at = Tensor { buffer: device.adopt(HostVec::I64(vec![-1, bad])).unwrap(), layout: grad.layout };
        let mut dx = image(device, DType::F32, [1, 2, 2, 2], Order::Planes, 1);
        device.max_pool2d_grad(&pool, grad.view(), at.view(), dx.view_mut()).unwrap();
        let error = device.synchronize().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "max_pool2d_grad", index, size: 4, .. } if *index == bad),
            "{error}"
        );
        assert_eq!(read(device, &dx), [0.0; 8]);
    }
}

/// Batches of one stage, and of two where threads run along the channels and along the pixels.
const BATCHES: [[usize; 4]; 4] = [[3, 5, 4, 3], [2, 40, 17, 17], [3, 2, 85, 67], [4, 3, 1, 1]];

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
                    let vector = |dtype, salt| tensor(on, dtype, &[c], Lie::Sliced, salt);
                    let (weight, bias) = (vector(dtype, 5), vector(dtype, 6));
                    let affine = || {
                        if with {
                            Affine { weight: Some(weight.view()), bias: Some(bias.view()) }
                        } else {
                            Affine::default()
                        }
                    };
                    let mut stats = [7, 8, 9, 10].map(|salt| vector(wide(dtype), salt));
                    {
                        let [mean, inv_std, running_mean, running_var] = &mut stats;
                        let running = with.then(|| RunningStats {
                            mean: running_mean.view_mut(),
                            var: running_var.view_mut(),
                            momentum: 0.1,
                        });
                        on.batch_norm(
                            1e-5,
                            x.view(),
                            affine(),
                            running,
                            out.view_mut(),
                            mean.view_mut(),
                            inv_std.view_mut(),
                        )?;
                    }
                    let var = Tensor {
                        buffer: on.adopt(host(wide(dtype), &vec![0.7; c]))?,
                        layout: Layout::contiguous(Shape::new(&[c])?),
                    };
                    let mut eval = empty(on, dtype, dims, Order::Planes);
                    on.batch_norm_eval(1e-3, x.view(), affine(), stats[0].view(), var.view(), eval.view_mut())?;
                    let mut made = vec![out, eval];
                    // Of another order than the image where there are few elements.
                    let grad = along(on, dtype, dims, if dims[3] > 3 { order } else { Order::Planes });
                    for training in [true, false] {
                        let mut input = empty(on, dtype, dims, order);
                        let mut sums = [0, 1].map(|_| target(on, dtype, &[c], Lie::Sliced));
                        let [of_weight, of_bias] = &mut sums;
                        let grads = NormGrads {
                            input: Some(input.view_mut()),
                            weight: with.then(|| of_weight.view_mut()),
                            bias: Some(of_bias.view_mut()),
                        };
                        let (mean, inv_std) = (stats[0].view(), stats[1].view());
                        on.batch_norm_grad(training, grad.view(), x.view(), affine().weight, mean, inv_std, grads)?;
                        // Each part alone.
                        let (mut alone, mut shift) =
                            (empty(on, dtype, dims, order), target(on, dtype, &[c], Lie::Dense));
                        let grads = NormGrads { input: Some(alone.view_mut()), weight: None, bias: None };
                        on.batch_norm_grad(training, grad.view(), x.view(), affine().weight, mean, inv_std, grads)?;
                        let grads = NormGrads { input: None, weight: None, bias: Some(shift.view_mut()) };
                        on.batch_norm_grad(training, grad.view(), x.view(), affine().weight, mean, inv_std, grads)?;
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
            let mut stats = [0, 1].map(|_| target(on, DType::F32, &[3], Lie::Dense));
            let [mean, inv_std] = &mut stats;
            on.batch_norm(0.0, x.view(), Affine::default(), None, out.view_mut(), mean.view_mut(), inv_std.view_mut())?;
            // The mean itself has 24 bits, so the output follows it by a few 1e-4.
            Ok(stats.into())
        });
    }
}

#[test]
fn layer_norm() {
    use Lie::{Dense, Sliced, Turned};
    for dtype in FLOATS {
        for dims in [[6, 10], [70, 33], [2, 17_000], [700, 5], [3, 1]] {
            for (lie, with) in [(Dense, true), (Turned, true), (Sliced, false)] {
                if dims[1] > 1000 && (dtype == DType::BF16 || lie == Turned) {
                    continue;
                }
                same(&format!("layer_norm {dims:?} {lie:?}"), |on| {
                    let (x, mut out) = (tensor(on, dtype, &dims, lie, 1), target(on, dtype, &dims, Dense));
                    let (weight, bias) =
                        (tensor(on, dtype, &dims[1..], Sliced, 5), tensor(on, dtype, &dims[1..], Dense, 6));
                    let affine = if with {
                        Affine { weight: Some(weight.view()), bias: Some(bias.view()) }
                    } else {
                        Affine::default()
                    };
                    let mut stats = [0, 1].map(|_| target(on, wide(dtype), &dims[..1], Dense));
                    let [mean, inv_std] = &mut stats;
                    on.layer_norm(1e-5, x.view(), affine, out.view_mut(), mean.view_mut(), inv_std.view_mut())?;
                    let (grad, mut input) = (tensor(on, dtype, &dims, Dense, 2), target(on, dtype, &dims, lie));
                    let mut sums = [0, 1].map(|_| target(on, dtype, &dims[1..], Sliced));
                    let [of_weight, of_bias] = &mut sums;
                    let grads = NormGrads {
                        input: Some(input.view_mut()),
                        weight: Some(of_weight.view_mut()),
                        bias: with.then(|| of_bias.view_mut()),
                    };
                    on.layer_norm_grad(grad.view(), x.view(), affine.weight, stats[0].view(), stats[1].view(), grads)?;
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
            let mut stats = [0, 1].map(|_| target(on, DType::F32, &dims[1..2], Lie::Dense));
            let [mean, inv_std] = &mut stats;
            on.batch_norm(
                1e-5,
                x.view(),
                Affine::default(),
                None,
                out.view_mut(),
                mean.view_mut(),
                inv_std.view_mut(),
            )?;
            let [given_mean, given_inv_std, mut of_weight, mut of_bias] =
                [1, 2, 3, 4].map(|salt| tensor(on, DType::F32, &dims[1..2], Lie::Dense, salt));
            let grads = NormGrads { input: None, weight: Some(of_weight.view_mut()), bias: Some(of_bias.view_mut()) };
            on.batch_norm_grad(true, out.view(), x.view(), None, given_mean.view(), given_inv_std.view(), grads)?;
            let mut made = vec![of_weight, of_bias];
            made.extend(stats);
            Ok(made)
        });
    }
    let Some(device) = device() else { return };
    let x = image(device, DType::F32, [2, 3, 2, 2], Order::Planes, 1);
    let mut out = empty(device, DType::F32, [2, 3, 2, 2], Order::Planes);
    let [mut mean, mut short] = [3, 2].map(|n| target(device, DType::F32, &[n], Lie::Dense));
    let mut double = target(device, DType::F64, &[3], Lie::Dense);
    let affine = Affine::default();
    assert!(
        device.batch_norm(1e-5, x.view(), affine, None, out.view_mut(), mean.view_mut(), short.view_mut()).is_err()
    );
    assert!(
        device.batch_norm(1e-5, x.view(), affine, None, out.view_mut(), mean.view_mut(), double.view_mut()).is_err()
    );
    assert!(device.layer_norm(1e-5, x.view(), affine, out.view_mut(), mean.view_mut(), short.view_mut()).is_err());
    assert!(device.relu_bias_grad(x.view(), x.view(), 4, out.view_mut(), mean.view_mut()).is_err());
    assert!(device.relu_bias_grad(x.view(), x.view(), 1, out.view_mut(), short.view_mut()).is_err());
}

#[test]
fn relu_bias_grad() {
    use Lie::{Dense, Sliced, Turned};
    for dtype in FLOATS {
        for dims in [[3, 5, 4, 3], [2, 40, 17, 17], [3, 2, 85, 67], [0, 4, 2, 2]] {
            for order in ORDERS {
                same(&format!("{dims:?} {order:?}"), |on| {
                    let (grad, y) = (image(on, dtype, dims, Order::Planes, 1), wild(on, dtype, dims, order));
                    let (mut out, mut bias) = (empty(on, dtype, dims, order), target(on, dtype, &dims[1..2], Sliced));
                    on.relu_bias_grad(grad.view(), y.view(), 1, out.view_mut(), bias.view_mut())?;
                    Ok(vec![out, bias])
                });
            }
        }
        for (dims, lie) in
            [([64, 10], Dense), ([1000, 33], Dense), ([33, 70], Turned), ([1, 7], Sliced), ([4, 0], Dense)]
        {
            same(&format!("{dims:?} {lie:?}"), |on| {
                let (grad, y) = (tensor(on, dtype, &dims, Dense, 1), tensor(on, dtype, &dims, lie, 2));
                let (mut out, mut bias) = (target(on, dtype, &dims, lie), target(on, dtype, &dims[1..], Dense));
                on.relu_bias_grad(grad.view(), y.view(), 1, out.view_mut(), bias.view_mut())?;
                Ok(vec![out, bias])
            });
        }
    }
}

#[test]
fn relu_bias_grad_lets_through_what_was_above_0() {
    let Some(device) = device() else { return };
    for on in [device as &dyn Backend, kiln_cpu::backend()] {
        let shape = Shape::new(&[2, 3]).unwrap();
        let given = |values: &[f64]| Tensor {
            buffer: on.adopt(host(DType::F32, values)).unwrap(),
            layout: Layout::contiguous(shape),
        };
        let (grad, y) = (given(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), given(&[1.0, 0.0, f64::NAN, 0.5, -0.0, 9.0]));
        let (mut out, mut bias) = (given(&[9.0; 6]), target(on, DType::F32, &[3], Lie::Dense));
        on.relu_bias_grad(grad.view(), y.view(), 1, out.view_mut(), bias.view_mut()).unwrap();
        assert_eq!(read(on, &out), [2.0, 0.0, 4.0, 5.0, 0.0, 7.0]);
        assert_eq!(read(on, &bias), [7.0, 0.0, 11.0]);
    }
}
