//! Max and average pooling.

use kiln_backend::*;

use crate::{
    images::{ORDERS, Order, empty, image, wild},
    support::{FLOATS, RECORD, Tensor, device, read, same},
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
