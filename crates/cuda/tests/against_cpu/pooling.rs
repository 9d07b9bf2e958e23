//! Max and average pooling against the CPU.

use kiln_backend::*;

use crate::{
    images::{ORDERS, Order, empty, image, lay, wild},
    support::{FLOATS, RECORD, Tensor, device, host, read, same, same_bits},
};

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
                    on.max_pool2d(
                        MaxPool2dArgs { pool, x: x.view(), out: out.view_mut(), indices: Some(at.view_mut()) }
                            .checked()?,
                    )?;
                    let mut alone = empty(on, dtype, after, Order::Planes);
                    on.max_pool2d(
                        MaxPool2dArgs { pool, x: x.view(), out: alone.view_mut(), indices: None }.checked()?,
                    )?;
                    let grad = image(on, dtype, after, Order::Odd, 2);
                    let mut dx = empty(on, dtype, before, order);
                    on.max_pool2d_grad(
                        MaxPool2dGradArgs { pool, grad: grad.view(), indices: at.view(), out: dx.view_mut() }
                            .checked()?,
                    )?;
                    // Without regard to how they are numbered, positions lead to the same gradient.
                    let mut taps = empty(on, pool.tap_dtype(), after, Order::Planes);
                    let mut again = empty(on, dtype, after, order);
                    on.max_pool2d(
                        MaxPool2dArgs { pool, x: x.view(), out: again.view_mut(), indices: Some(taps.view_mut()) }
                            .checked()?,
                    )?;
                    let mut same = empty(on, dtype, before, order);
                    on.max_pool2d_grad(
                        MaxPool2dGradArgs { pool, grad: grad.view(), indices: taps.view(), out: same.view_mut() }
                            .checked()?,
                    )?;
                    Ok(vec![out, at, alone, dx, taps, again, same])
                });
            }
        }
    }
}

/// Images that kernels take 16, 8 or 4 bytes at a time, along channels or rows, and some that just miss it.
#[test]
fn max_pool2d_in_packs() {
    for dtype in FLOATS {
        for (kernel, padding) in [(2, 0), (2, 1), (3, 1), (3, 0)] {
            let pool = window([kernel; 2], [2; 2], [padding; 2], [1; 2]);
            for (dims, order) in [
                ([2, 16, 6, 7], Order::Pixels),
                ([1, 8, 9, 4], Order::Pixels),
                ([2, 12, 5, 6], Order::Pixels),
                ([2, 3, 8, 16], Order::Planes),
                ([1, 2, 9, 12], Order::Planes),
                ([2, 2, 4, 6], Order::Planes),
                ([1, 2, 6, 7], Order::Planes),
            ] {
                for ceil in [false, true] {
                    let [h, w] = pool.output([dims[2], dims[3]], ceil).unwrap();
                    same(&format!("{pool:?} of {dims:?} {order:?} {dtype}"), |on| {
                        let after = [dims[0], dims[1], h, w];
                        let x = wild(on, dtype, dims, order);
                        let [mut out, mut alone] = [0, 1].map(|_| empty(on, dtype, after, order));
                        let mut taps = empty(on, DType::U8, after, order);
                        on.max_pool2d(
                            MaxPool2dArgs { pool, x: x.view(), out: out.view_mut(), indices: Some(taps.view_mut()) }
                                .checked()?,
                        )?;
                        on.max_pool2d(
                            MaxPool2dArgs { pool, x: x.view(), out: alone.view_mut(), indices: None }.checked()?,
                        )?;
                        let (grad, mut dx) = (image(on, dtype, after, order, 2), image(on, dtype, dims, order, 3));
                        on.max_pool2d_grad(
                            MaxPool2dGradArgs { pool, grad: grad.view(), indices: taps.view(), out: dx.view_mut() }
                                .checked()?,
                        )?;
                        Ok(vec![out, taps, alone, dx])
                    });
                }
            }
        }
    }
}

/// Windows in which nothing is larger than what stands for the padding: the position is that of the first element inside.
#[test]
fn max_pool2d_of_infinities() {
    for dtype in FLOATS {
        for (kernel, padding) in [(2, 1), (3, 1)] {
            let pool = window([kernel; 2], [2; 2], [padding; 2], [1; 2]);
            for (dims, order) in [([1, 8, 5, 4], Order::Pixels), ([1, 2, 5, 16], Order::Planes)] {
                let [h, w] = pool.output([dims[2], dims[3]], false).unwrap();
                same_bits(&format!("{pool:?} of {dims:?} {order:?} {dtype}"), |on| {
                    let (layout, len) = lay(dims, order);
                    let buffer = on.adopt(host(dtype, &vec![f64::NEG_INFINITY; len])).unwrap();
                    let x = Tensor { buffer, layout };
                    let after = [dims[0], dims[1], h, w];
                    let (mut out, mut taps) = (empty(on, dtype, after, order), empty(on, DType::U8, after, order));
                    on.max_pool2d(
                        MaxPool2dArgs { pool, x: x.view(), out: out.view_mut(), indices: Some(taps.view_mut()) }
                            .checked()?,
                    )?;
                    Ok(vec![out, taps])
                });
            }
        }
    }
}

/// Averages of whole planes, whose gradients are written in packs where there are some.
#[test]
fn avg_pool2d_of_planes() {
    for dtype in FLOATS {
        for (dims, order) in [
            ([2, 16, 3, 5], Order::Pixels),
            ([2, 12, 3, 5], Order::Pixels),
            ([2, 16, 7, 7], Order::Planes),
            ([3, 8, 1, 3], Order::Planes),
            ([1, 3, 5, 7], Order::Planes),
            ([2, 8, 4, 4], Order::Odd),
        ] {
            for pool in [Pool2d::Adaptive, window([dims[2], dims[3]], [1, 1], [0, 0], [1, 1])] {
                same(&format!("{pool:?} of {dims:?} {order:?} {dtype}"), |on| {
                    let (after, divisor) = ([dims[0], dims[1], 1, 1], PoolDivisor::Inside);
                    let (x, mut out) = (image(on, dtype, dims, order, 1), empty(on, dtype, after, order));
                    on.avg_pool2d(AvgPool2dArgs { pool, divisor, x: x.view(), out: out.view_mut() }.checked()?)?;
                    let (grad, mut dx) = (image(on, dtype, after, order, 2), image(on, dtype, dims, order, 3));
                    on.avg_pool2d_grad(
                        AvgPool2dGradArgs { pool, divisor, grad: grad.view(), out: dx.view_mut() }.checked()?,
                    )?;
                    Ok(vec![out, dx])
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
                    on.avg_pool2d(AvgPool2dArgs { pool, divisor, x: x.view(), out: out.view_mut() }.checked()?)?;
                    let grad = image(on, dtype, after, Order::Odd, 2);
                    let mut dx = empty(on, dtype, before, order);
                    on.avg_pool2d_grad(
                        AvgPool2dGradArgs { pool, divisor, grad: grad.view(), out: dx.view_mut() }.checked()?,
                    )?;
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
            on.max_pool2d(
                MaxPool2dArgs { pool: halves, x: x.view(), out: out.view_mut(), indices: Some(at.view_mut()) }
                    .checked()?,
            )?;
            on.avg_pool2d(
                AvgPool2dArgs { pool: halves, divisor: PoolDivisor::Inside, x: x.view(), out: out.view_mut() }
                    .checked()?,
            )?;
            let (mut dx, mut mean_dx) =
                (image(on, DType::F32, before, Order::Planes, 3), image(on, DType::F32, before, Order::Planes, 4));
            on.max_pool2d_grad(
                MaxPool2dGradArgs { pool: halves, grad: out.view(), indices: at.view(), out: dx.view_mut() }
                    .checked()?,
            )?;
            on.avg_pool2d_grad(
                AvgPool2dGradArgs {
                    pool: halves,
                    divisor: PoolDivisor::Inside,
                    grad: out.view(),
                    out: mean_dx.view_mut(),
                }
                .checked()?,
            )?;
            Ok(vec![dx, mean_dx])
        });
    }
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
        device
            .max_pool2d_grad(
                MaxPool2dGradArgs { pool, grad: grad.view(), indices: at.view(), out: dx.view_mut() }
                    .checked()
                    .unwrap(),
            )
            .unwrap();
        let error = device.synchronize().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::IndexOutOfRange { op: "max_pool2d_grad", index, size: 4, .. } if *index == bad),
            "{error}"
        );
        assert_eq!(read(device, &dx), [0.0; 8]);
    }
}
