//! Tests of pooling, against direct evaluation of the definitions.

use kiln_backend::{
    Arguments, AvgPool2dArgs, AvgPool2dGradArgs, DType, MaxPool2dArgs, MaxPool2dGradArgs, Pool2d, Pool2dBackend,
    PoolDivisor, Result, View, ViewMut,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, read_layouts};

fn windows(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2]) -> Pool2d {
    Pool2d::Window { kernel, stride, padding, dilation }
}

fn max_pool2d(pool: Pool2d, x: View, out: ViewMut, indices: Option<ViewMut>) -> Result<()> {
    CpuBackend.max_pool2d(MaxPool2dArgs { pool, x, out, indices }.checked()?)
}

fn max_pool2d_grad(pool: Pool2d, grad: View, indices: View, out: ViewMut) -> Result<()> {
    CpuBackend.max_pool2d_grad(MaxPool2dGradArgs { pool, grad, indices, out }.checked()?)
}

/// Input extents, windows, output height and width.
fn cases() -> Vec<([usize; 4], Pool2d, [usize; 2])> {
    vec![
        ([2, 3, 6, 6], windows([2, 2], [2, 2], [0, 0], [1, 1]), [3, 3]),
        // The last row and column are in no window.
        ([2, 3, 7, 45], windows([2, 2], [2, 2], [0, 0], [1, 1]), [3, 22]),
        ([1, 2, 7, 5], windows([3, 2], [2, 3], [1, 1], [1, 1]), [4, 2]),
        ([2, 2, 6, 9], windows([2, 3], [1, 2], [0, 1], [2, 1]), [4, 5]),
        ([1, 3, 5, 5], windows([3, 3], [2, 2], [1, 1], [1, 1]), [3, 3]),
        // One window more than fits, as with `ceil_mode`.
        ([1, 2, 6, 6], windows([3, 3], [2, 2], [0, 0], [1, 1]), [3, 3]),
        ([1, 2, 7, 5], windows([2, 2], [2, 2], [0, 0], [1, 1]), [4, 3]),
        ([2, 17, 7, 6], Pool2d::Adaptive, [3, 4]),
        ([1, 2, 2, 2], Pool2d::Adaptive, [3, 5]),
        ([0, 2, 4, 4], Pool2d::Adaptive, [2, 2]),
        ([2, 0, 4, 4], windows([2, 2], [2, 2], [0, 0], [1, 1]), [2, 2]),
    ]
}

/// Calls `f` with the position of each output, the positions in the plane that its window reads, and the numbers of
/// elements in the window with and without padding.
fn each(x: [usize; 4], pool: &Pool2d, [oh, ow]: [usize; 2], mut f: impl FnMut(usize, usize, &[usize], usize, usize)) {
    for plane in 0..x[0] * x[1] {
        for (oy, ox) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            let taps = |axis: usize, o: usize, output: usize| -> (Vec<usize>, usize) {
                let input = x[2 + axis];
                match *pool {
                    Pool2d::Window { kernel, stride, padding, dilation } => {
                        let all = (0..kernel[axis]).map(|k| o * stride[axis] + k * dilation[axis]);
                        let padded = all.clone().filter(|&p| p < input + 2 * padding[axis]).count();
                        let inside = |p: usize| p.checked_sub(padding[axis]).filter(|&p| p < input);
                        (all.filter_map(inside).collect(), padded)
                    }
                    Pool2d::Adaptive => {
                        let all: Vec<usize> = (o * input / output..((o + 1) * input).div_ceil(output)).collect();
                        let count = all.len();
                        (all, count)
                    }
                }
            };
            let ((ys, py), (xs, px)) = (taps(0, oy, oh), taps(1, ox, ow));
            let seen: Vec<usize> = ys.iter().flat_map(|y| xs.iter().map(move |c| y * x[3] + c)).collect();
            f((plane * oh + oy) * ow + ox, plane * x[2] * x[3], &seen, py * px, seen.len());
        }
    }
}

#[test]
fn windows_in_every_layout_and_dtype() {
    for (xd, pool, [oh, ow]) in cases() {
        let yd = [xd[0], xd[1], oh, ow];
        let (nx, ny): (usize, usize) = (xd.iter().product(), yd.iter().product());
        let averages = match pool {
            Pool2d::Window { dilation: [1, 1], .. } | Pool2d::Adaptive => {
                &[PoolDivisor::WithPadding, PoolDivisor::Inside, PoolDivisor::Fixed(7)][..]
            }
            Pool2d::Window { .. } => &[],
        };
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for from in read_layouts(&xd).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                let x = Tensor::with_layout(dtype, from, &numbers(nx, 1));
                let xs = x.values();
                for (i, to) in layouts(&yd).into_iter().enumerate() {
                    let g = Tensor::with_layout(dtype, layouts(&yd)[(i + 1) % 3], &numbers(ny, 2));
                    let gs = g.values();
                    let (mut y, mut at, mut dx) = (vec![0.0; ny], vec![0.0; ny], vec![0.0; nx]);
                    each(xd, &pool, [oh, ow], |o, plane, seen, _, _| {
                        let best =
                            seen.iter().copied().reduce(|a, b| if xs[plane + b] > xs[plane + a] { b } else { a });
                        let best = best.unwrap();
                        (y[o], at[o]) = (xs[plane + best], best as f64);
                        dx[plane + best] += gs[o];
                    });
                    let mut out = Tensor::with_layout(dtype, to, &vec![1.0; ny]);
                    let mut indices = Tensor::with_layout(DType::I64, to, &vec![1.0; ny]);
                    max_pool2d(pool, x.view(), out.view_mut(), Some(indices.view_mut())).unwrap();
                    assert_eq!((out.values(), indices.values()), (y.clone(), at), "{pool:?} {dtype}");
                    max_pool2d(pool, x.view(), out.view_mut(), None).unwrap();
                    assert_eq!(out.values(), y);
                    let mut back = Tensor::with_layout(dtype, layouts(&xd)[i], &vec![1.0; nx]);
                    max_pool2d_grad(pool, g.view(), indices.view(), back.view_mut()).unwrap();
                    assert_close(&back.values(), &dx, dtype, 8.0, "max gradient");
                    if let Pool2d::Window { kernel, stride, padding, dilation } = pool {
                        let mut taps = Tensor::with_layout(DType::U8, to, &vec![9.0; ny]);
                        max_pool2d(pool, x.view(), out.view_mut(), Some(taps.view_mut())).unwrap();
                        let place = |(o, tap): (usize, f64)| {
                            let (tap, (oy, ox)) = (tap as usize, (o / ow % oh, o % ow));
                            let row = oy * stride[0] + tap / kernel[1] * dilation[0] - padding[0];
                            (row * xd[3] + ox * stride[1] + tap % kernel[1] * dilation[1] - padding[1]) as f64
                        };
                        let places: Vec<f64> = taps.values().into_iter().enumerate().map(place).collect();
                        assert_eq!((out.values(), places), (y.clone(), indices.values()), "{pool:?} {dtype}");
                        let same = back.values();
                        back = Tensor::with_layout(dtype, layouts(&xd)[i], &vec![1.0; nx]);
                        max_pool2d_grad(pool, g.view(), taps.view(), back.view_mut()).unwrap();
                        assert_eq!(back.values(), same, "{pool:?} {dtype}");
                    }

                    for &divisor in averages {
                        let (mut y, mut dx) = (vec![0.0; ny], vec![0.0; nx]);
                        each(xd, &pool, [oh, ow], |o, plane, seen, padded, inside| {
                            let by = match divisor {
                                PoolDivisor::WithPadding => padded as f64,
                                PoolDivisor::Inside => inside as f64,
                                PoolDivisor::Fixed(n) => n as f64,
                            };
                            y[o] = seen.iter().map(|s| xs[plane + s]).sum::<f64>() / by;
                            seen.iter().for_each(|s| dx[plane + s] += gs[o] / by);
                        });
                        let args = AvgPool2dArgs { pool, divisor, x: x.view(), out: out.view_mut() };
                        CpuBackend.avg_pool2d(args.checked().unwrap()).unwrap();
                        assert_close(&out.values(), &y, dtype, 200.0, "average");
                        let args = AvgPool2dGradArgs { pool, divisor, grad: g.view(), out: back.view_mut() };
                        CpuBackend.avg_pool2d_grad(args.checked().unwrap()).unwrap();
                        assert_close(&back.values(), &dx, dtype, 200.0, "average gradient");
                    }
                }
            }
        }
    }
}

#[test]
fn nan_wins_and_empty_windows_are_marked() {
    let pool = windows([2, 2], [2, 2], [0, 0], [1, 1]);
    let values = [1.0, f64::NAN, f64::NAN, 5.0, f64::NEG_INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY, 9.0];
    let x = Tensor::new(DType::F32, &[1, 2, 2, 2], &values);
    let (mut y, mut at) = (Tensor::empty(DType::F32, &[1, 2, 1, 1]), Tensor::empty(DType::I64, &[1, 2, 1, 1]));
    max_pool2d(pool, x.view(), y.view_mut(), Some(at.view_mut())).unwrap();
    assert!(y.values()[0].is_nan() && y.values()[1] == 9.0);
    assert_eq!(at.values(), [2.0, 3.0]);
    // Taps at -1 and 1 of an input of one pixel.
    let pool = windows([2, 2], [1, 1], [1, 1], [2, 2]);
    let x = Tensor::new(DType::F32, &[1, 1, 1, 1], &[3.0]);
    let (mut y, mut at) = (Tensor::empty(DType::F32, &[1, 1, 1, 1]), Tensor::empty(DType::I64, &[1, 1, 1, 1]));
    max_pool2d(pool, x.view(), y.view_mut(), Some(at.view_mut())).unwrap();
    assert_eq!((y.values()[0], at.values()[0]), (f64::NEG_INFINITY, -1.0));
    let mut back = Tensor::empty(DType::F32, &[1, 1, 1, 1]);
    max_pool2d_grad(pool, y.view(), at.view(), back.view_mut()).unwrap();
    assert_eq!(back.values(), [0.0]);
    let mut tap = Tensor::empty(DType::U8, &[1, 1, 1, 1]);
    max_pool2d(pool, x.view(), y.view_mut(), Some(tap.view_mut())).unwrap();
    assert_eq!((y.values()[0], tap.values()[0]), (f64::NEG_INFINITY, 255.0));
    // None of the window, outside of the input, none at all.
    for number in [4.0, 0.0, 255.0] {
        let tap = Tensor::new(DType::U8, &[1, 1, 1, 1], &[number]);
        let (grad, mut back) =
            (Tensor::new(DType::F32, &[1, 1, 1, 1], &[2.0]), Tensor::empty(DType::F32, &[1, 1, 1, 1]));
        max_pool2d_grad(pool, grad.view(), tap.view(), back.view_mut()).unwrap();
        assert_eq!(back.values(), [0.0], "{number}");
    }
}

/// Of each window only the last tap lies inside. The places of the others do not fit into a word.
#[test]
fn taps_may_be_far_apart() {
    let far = 1 << 58;
    let pool = windows([2, 2], [1, 1], [far, far], [far, far]);
    let dims = [1, 1, 1, 100];
    let x = Tensor::new(DType::F32, &dims, &numbers(100, 1));
    let (mut y, mut tap) = (Tensor::empty(DType::F32, &dims), Tensor::empty(DType::U8, &dims));
    max_pool2d(pool, x.view(), y.view_mut(), Some(tap.view_mut())).unwrap();
    assert_eq!((y.values(), tap.values()), (x.values(), vec![3.0; 100]));
    let mut back = Tensor::empty(DType::F32, &dims);
    max_pool2d_grad(pool, y.view(), tap.view(), back.view_mut()).unwrap();
    assert_eq!(back.values(), y.values());
}

#[test]
fn wrong_positions_are_errors() {
    let pool = windows([2, 2], [2, 2], [0, 0], [1, 1]);
    let grad = Tensor::empty(DType::F32, &[1, 2, 2, 2]);
    let mut back = Tensor::empty(DType::F32, &[1, 2, 4, 4]);
    for bad in [16.0, -2.0, 1e15] {
        let at = Tensor::new(DType::I64, &[1, 2, 2, 2], &[bad; 8]);
        assert!(max_pool2d_grad(pool, grad.view(), at.view(), back.view_mut()).is_err(), "{bad}");
    }
}
